"""Every knob that changes a number: a tree of frozen, validated dataclasses.

Paths, verbosity and overwriting are flags of the scripts and never stand here. Each field
is a command-line flag: `optimizer.learning_rate` is `--optimizer.learning-rate`.
"""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass, field
from typing import Any, Literal

from skincnn.errors import ConfigError

NUM_FOLDS = 10


def _require(condition: bool, name: str, expected: str, value: object) -> None:
    if not condition:
        raise ConfigError(f"`{name}` must be {expected}. Received: {value!r}.")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which pictures are read, and how they become batches."""

    dataset: str = "demo"
    """Dataset config of `tfds_ham10000`: demo, demo_tiny, isic2018, isic2018_256, folder,
    ...; see scripts/prepare_data.py --help."""
    image_size: int = 96
    """Height and width in pixels to which each picture is resized."""
    aspect: Literal["squash", "crop", "pad"] = "squash"
    """Pictures that are not square: squashed, cut to the middle, or padded with black."""
    crop_border: bool = False
    """Whether a dermatoscope's dark frame is cut off first."""
    colour_constancy: bool = False
    """Whether the colour of the light is taken out (shades of gray, Minkowski norm 6)."""
    train_folds: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7)
    """Folds to train on."""
    validation_fold: int = 8
    """Fold on which the epoch is chosen."""
    test_fold: int = 9
    """Fold on which nothing is chosen: predicted once training is over."""
    split_by: Literal["lesion", "image"] = "lesion"
    """`image` deals pictures to folds one by one, whatever lesion they show: the leaky
    protocol of many published scores. The report then says how leaky."""
    one_image_per_lesion: Literal["none", "train", "evaluation", "all"] = "none"
    """Which splits keep one picture of each lesion only."""
    batch_size: int = 32
    """Pictures in a training step."""

    def __post_init__(self) -> None:
        """Checks ranges, and that no fold serves twice."""
        _require(self.image_size >= 32, "data.image_size", ">= 32", self.image_size)
        _require(
            self.aspect in ("squash", "crop", "pad"),
            "data.aspect",
            "squash, crop or pad",
            self.aspect,
        )
        _require(
            self.split_by in ("lesion", "image"),
            "data.split_by",
            "lesion or image",
            self.split_by,
        )
        _require(
            self.one_image_per_lesion in ("none", "train", "evaluation", "all"),
            "data.one_image_per_lesion",
            "none, train, evaluation or all",
            self.one_image_per_lesion,
        )
        _require(self.batch_size >= 1, "data.batch_size", ">= 1", self.batch_size)
        folds = (*self.train_folds, self.validation_fold, self.test_fold)
        _require(
            all(0 <= fold < NUM_FOLDS for fold in folds),
            "data.train_folds, data.validation_fold and data.test_fold",
            f"in 0..{NUM_FOLDS - 1}",
            folds,
        )
        _require(bool(self.train_folds), "data.train_folds", "not empty", ())
        _require(
            len(set(folds)) == len(folds),
            "data.train_folds, data.validation_fold and data.test_fold",
            "all different (a fold that serves twice is a leak)",
            folds,
        )


AUGMENT_BOUNDS: dict[str, float] = {
    "orientation_share": 1,
    "rotation_degrees": 180,
    "zoom": 1,
    "shift": 0.5,
    "shear_degrees": 45,
    "brightness": 1,
    "contrast": 1,
    "saturation": 1,
    "colour_cast": 1,
    "hue_degrees": 180,
    "blur": 3,
    "sharpness": 4,
    "erase": 0.5,
    "hairs": 30,
    "ruler_share": 1,
    "mix_alpha": 10,
}
"""The largest value of each strength, at any magnitude."""


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How training pictures are varied on the device."""

    parts: tuple[str, ...] = (
        "flip",
        "quarter_turn",
        "rotate",
        "zoom",
        "light",
        "colour",
    )
    """Names of `AUGMENTATIONS`; geometry comes first, at once, then the others in this
    order. A sensible one: hair, ruler, blur, sharpen, light, colour, hue, erase."""
    magnitude: float = 0.5
    """One dial over all parts and the mixing: at 0.5 the strengths below are as they
    stand, at 0 nothing is varied, at 1 they are twice as large, up to their bounds."""
    orientation_share: float = 1.0
    """`flip` and `quarter_turn` act on this share of the pictures."""
    rotation_degrees: float = 30.0
    """`rotate` turns by an angle drawn from [-x, x] degrees."""
    zoom: float = 0.2
    """`zoom` scales by exp(u), u drawn from [-x, x]."""
    shift: float = 0.05
    """`shift` moves by shares of the side, each drawn from [-x, x]."""
    shear_degrees: float = 8.0
    """`shear` slants by an angle drawn from [-x, x] degrees."""
    brightness: float = 0.1
    """`light` adds a value drawn from [-x, x] times 255."""
    contrast: float = 0.2
    """`light` scales the distance to the picture's mean by a factor from [1-x, 1+x]."""
    saturation: float = 0.15
    """`colour` scales the distance to grey by a factor from [1-x, 1+x]."""
    colour_cast: float = 0.05
    """`colour` scales red, green and blue by a factor each from [1-x, 1+x]."""
    hue_degrees: float = 4.0
    """`hue` turns the circle of colours by an angle drawn from [-x, x] degrees."""
    blur: float = 0.7
    """`blur` has a standard deviation drawn from [0, x] pixels."""
    sharpness: float = 0.5
    """`sharpen` adds a share drawn from [0, x] of what a slight blur takes away."""
    erase: float = 0.1
    """`erase` hides a rectangle of a share of the area drawn from [0, x]."""
    hairs: int = 6
    """`hair` draws 0 to x hairs."""
    ruler_share: float = 0.25
    """`ruler` draws the scale of a ruler on this share of the pictures."""
    mix: Literal["none", "mixup", "cutmix"] = "none"
    """Whether training pictures are mixed with each other, and their labels with them:
    as a weighted mean, or by a rectangle cut from the other."""
    mix_alpha: float = 0.2
    """The share of each of the two is drawn from Beta(x, x): 0.2 is what MixUp's authors
    use for ImageNet, 1 what CutMix's do."""

    def __post_init__(self) -> None:
        """Checks ranges."""
        _require(0 <= self.magnitude <= 1, "augment.magnitude", "in 0..1", self.magnitude)
        for name, most in AUGMENT_BOUNDS.items():
            value = getattr(self, name)
            _require(0 <= value <= most, f"augment.{name}", f"in 0..{most}", value)
        _require(
            self.mix in ("none", "mixup", "cutmix"),
            "augment.mix",
            "none, mixup or cutmix",
            self.mix,
        )

    def strength(self, name: str) -> float:
        """Returns the strength of that name at this magnitude."""
        return min(AUGMENT_BOUNDS[name], 2 * self.magnitude * getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The classifier: a backbone, pooling, dropout and a linear head."""

    backbone: str = "mobilenet_v2"
    """Name of `BACKBONES`."""
    width: float = 1.0
    """Width multiplier of the backbone (alpha of Keras Applications)."""
    weights: str = "imagenet"
    """Where the backbone starts: imagenet, none, or the path of a weights file."""
    dropout: float = 0.2
    """Share of pooled features that are dropped in training."""
    batch_norm: Literal["train", "frozen"] = "train"
    """Whether BatchNorm uses the batch's statistics when the backbone trains."""
    batch_norm_momentum: float = 0.99
    """How slowly BatchNorm's moving statistics follow the batches."""

    def __post_init__(self) -> None:
        """Checks ranges."""
        _require(self.width > 0, "model.width", "positive", self.width)
        _require(0 <= self.dropout < 1, "model.dropout", "in [0, 1)", self.dropout)
        _require(
            0 <= self.batch_norm_momentum < 1,
            "model.batch_norm_momentum",
            "in [0, 1)",
            self.batch_norm_momentum,
        )


@dataclass(frozen=True, kw_only=True)
class ImbalanceConfig:
    """How training meets the imbalance of the classes."""

    strategy: str = "class_weights"
    """Name of `STRATEGIES`."""
    power: float = 0.75
    """`class_weights` weighs a class by (1 / its pictures) ** power, `logit_adjusted` adds
    power * log(share of the class) to the logits: 0 none, 1 full."""
    beta: float = 0.999
    """`effective_number_sampling`: nearer to 1, nearer to balanced classes; 0 for none."""

    def __post_init__(self) -> None:
        """Checks ranges."""
        _require(0 <= self.beta < 1, "imbalance.beta", "in [0, 1)", self.beta)
        _require(0 <= self.power <= 1, "imbalance.power", "in 0..1", self.power)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with a warm-up and a cosine to a hundredth, and an average of the weights."""

    learning_rate: float = 1e-3
    """Highest learning rate of the phase that trains all layers."""
    head_learning_rate: float = 3e-3
    """Learning rate of the phase that trains the head alone."""
    warmup_epochs: float = 0.5
    """Epochs of linear warm-up."""
    weight_decay: float = 1e-2
    """Decoupled weight decay; biases and BatchNorm are spared."""
    clip_norm: float = 1.0
    """Largest norm of each variable's gradient; 0 for no clipping."""
    ema: float = 0.0
    """Momentum of the average of the weights that is evaluated; 0 for none."""

    def __post_init__(self) -> None:
        """Checks ranges."""
        for name in ("learning_rate", "head_learning_rate"):
            _require(
                getattr(self, name) > 0,
                f"optimizer.{name}",
                "positive",
                getattr(self, name),
            )
        for name in ("warmup_epochs", "weight_decay", "clip_norm"):
            _require(
                getattr(self, name) >= 0,
                f"optimizer.{name}",
                ">= 0",
                getattr(self, name),
            )
        _require(0 <= self.ema < 1, "optimizer.ema", "in [0, 1)", self.ema)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long training goes on, and which epoch is kept."""

    head_epochs: int = 1
    """Epochs with the backbone frozen; 0 with a backbone that starts at random."""
    epochs: int = 8
    """Epochs with all layers training."""
    small_image_size: int = 0
    """Picture size of the first `small_epochs`, to save time; 0 for none."""
    small_epochs: int = 0
    """How many of `epochs` use `small_image_size`; the head's epochs do as well."""
    monitor: str = "balanced_accuracy"
    """Name of `METRICS`; the epoch with its best value on validation is kept."""
    deterministic: bool = False
    """Repeatable bit for bit on one machine, at some cost in speed."""

    def __post_init__(self) -> None:
        """Checks ranges."""
        _require(self.head_epochs >= 0, "train.head_epochs", ">= 0", self.head_epochs)
        _require(self.epochs >= 1, "train.epochs", ">= 1", self.epochs)
        _require(
            0 <= self.small_epochs < self.epochs,
            "train.small_epochs",
            "in 0..train.epochs-1",
            self.small_epochs,
        )
        _require(
            self.small_image_size == 0 or self.small_image_size >= 32,
            "train.small_image_size",
            "0 or >= 32",
            self.small_image_size,
        )
        _require(
            (self.small_epochs > 0) == (self.small_image_size > 0),
            "train.small_epochs and train.small_image_size",
            "both 0 or both positive",
            (self.small_epochs, self.small_image_size),
        )


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """How scores get their intervals."""

    resamples: int = 2000
    """Bootstrap resamples of the lesions."""
    confidence: float = 0.95
    """Coverage of each interval."""

    def __post_init__(self) -> None:
        """Checks ranges."""
        _require(self.resamples >= 100, "evaluate.resamples", ">= 100", self.resamples)
        _require(
            0 < self.confidence < 1,
            "evaluate.confidence",
            "between 0 and 1",
            self.confidence,
        )


@dataclass(frozen=True, kw_only=True)
class Config:
    """The whole configuration of a run."""

    seed: int = 0
    """Seed of shuffling, augmentation, dropout and the first weights."""
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    imbalance: ImbalanceConfig = field(default_factory=ImbalanceConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)

    def __post_init__(self) -> None:
        """Checks what a single part cannot see."""
        _require(self.seed >= 0, "seed", ">= 0", self.seed)
        _require(
            self.optimizer.warmup_epochs <= self.train.epochs,
            "optimizer.warmup_epochs",
            "at most `train.epochs`",
            self.optimizer.warmup_epochs,
        )
        _require(
            self.train.head_epochs == 0 or self.model.weights != "none",
            "train.head_epochs",
            "0 where `model.weights` is none (a frozen random backbone learns nothing)",
            self.train.head_epochs,
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns the tree as dictionaries, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Config:
        """Returns the configuration that `to_dict` wrote, validated again.

        Raises:
            ConfigError: A field is unknown or its value out of range.
        """
        return typing.cast(Config, _from_dict(cls, values, "config"))


def _from_dict(kind: type[Any], values: dict[str, Any], where: str) -> object:
    types = typing.get_type_hints(kind)
    unknown = sorted(set(values) - set(types))
    if unknown:
        raise ConfigError(
            f"{where} has no field {', '.join(unknown)}. "
            f"Expected some of: {', '.join(types)}."
        )
    arguments = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(types[name]):
            value = _from_dict(typing.cast(type, types[name]), value, f"{where}.{name}")
        arguments[name] = tuple(value) if isinstance(value, list) else value
    return kind(**arguments)
