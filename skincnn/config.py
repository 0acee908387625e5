"""Every knob that changes a number: a tree of frozen, validated dataclasses.

Paths, verbosity and overwriting are flags of the scripts and never stand here. Each field
is a command-line flag: `optimizer.learning_rate` is `--optimizer.learning-rate`.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from skincnn.errors import ConfigError

NUM_FOLDS = 10
Precision = Literal["float32", "mixed_bfloat16", "mixed_float16"]


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
    resize_mode: Literal["stretch", "crop", "pad"] = "stretch"
    """Pictures that are not square: stretched, cut to the middle, or padded with black."""
    crop_border: bool = False
    """Whether a dermatoscope's dark frame is cut off first."""
    color_constancy: bool = False
    """Whether the color of the light is taken out (shades of gray, Minkowski norm 6)."""
    train_folds: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7)
    """Folds to train on."""
    validation_folds: tuple[int, ...] = (8,)
    """Folds on which the epoch is chosen."""
    test_folds: tuple[int, ...] = (9,)
    """Folds on which nothing is chosen: predicted once training is over."""
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
            self.resize_mode in ("stretch", "crop", "pad"),
            "data.resize_mode",
            "stretch, crop or pad",
            self.resize_mode,
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
        folds = (*self.train_folds, *self.validation_folds, *self.test_folds)
        _require(
            all(0 <= fold < NUM_FOLDS for fold in folds),
            "data.train_folds, data.validation_folds and data.test_folds",
            f"in 0..{NUM_FOLDS - 1}",
            folds,
        )
        for name in ("train_folds", "validation_folds", "test_folds"):
            _require(bool(getattr(self, name)), f"data.{name}", "not empty", ())
        _require(
            len(set(folds)) == len(folds),
            "data.train_folds, data.validation_folds and data.test_folds",
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
    "color_cast": 1,
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
        "color",
    )
    """Names of `AUGMENTATIONS`; geometry comes first, at once, then the others in this
    order. A sensible one: hair, ruler, blur, sharpen, light, color, hue, erase."""
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
    """`color` scales the distance to gray by a factor from [1-x, 1+x]."""
    color_cast: float = 0.05
    """`color` scales red, green and blue by a factor each from [1-x, 1+x]."""
    hue_degrees: float = 4.0
    """`hue` turns the circle of colors by an angle drawn from [-x, x] degrees."""
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
    """Name of `BACKBONES`, or `package.module:function` of yours; see `find_backbone`."""
    width_multiplier: float = 1.0
    """Width multiplier of the backbone (alpha of Keras Applications), if it has one."""
    weights: str = "imagenet"
    """Where the backbone starts: imagenet, none, or the path of a weights file."""
    dropout: float = 0.2
    """Share of pooled features that are dropped in training."""
    batch_norm: Literal["train", "frozen", "frozen_statistics"] = "train"
    """BatchNorm where the backbone trains: `train` uses the batch's statistics, `frozen`
    keeps statistics and weights, `frozen_statistics` trains scale and shift alone. With
    both MobileNet forgot at a rate of 4e-4 what ImageNet had taught it; at 5e-5 `frozen`
    learned, and stayed behind `train` (docs/results.md)."""
    batch_norm_momentum: float = 0.99
    """How slowly BatchNorm's moving statistics follow the batches."""
    clinical_metadata: bool = False
    """Whether the model is also told the patient's age and sex and the site."""

    def __post_init__(self) -> None:
        """Checks ranges."""
        _require(
            self.width_multiplier > 0,
            "model.width_multiplier",
            "positive",
            self.width_multiplier,
        )
        _require(
            self.batch_norm in ("train", "frozen", "frozen_statistics"),
            "model.batch_norm",
            "train, frozen or frozen_statistics",
            self.batch_norm,
        )
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
    """`effective_number_*`, `class_balanced_focal`, `ldam`: nearer to 1, nearer to balanced
    classes; 0 for none."""
    ratio: float = 1.0
    """`oversampling` replicates pictures until each class has this share of the largest
    class's; the epochs become longer."""
    gamma: float = 2.0
    """`focal`, `class_balanced_focal`: a picture whose class has probability p weighs
    (1 - p) ** gamma; 0 for none."""
    margin: float = 0.5
    """`ldam`: margin of the rarest class, in units of the logits."""
    drw_start: float = 0.8
    """`ldam`: share of `train.epochs` after which rare classes weigh more."""

    def __post_init__(self) -> None:
        """Checks ranges."""
        _require(0 <= self.beta < 1, "imbalance.beta", "in [0, 1)", self.beta)
        _require(0 <= self.power <= 1, "imbalance.power", "in 0..1", self.power)
        _require(0 < self.ratio <= 1, "imbalance.ratio", "in (0, 1]", self.ratio)
        _require(self.gamma >= 0, "imbalance.gamma", ">= 0", self.gamma)
        _require(self.margin >= 0, "imbalance.margin", ">= 0", self.margin)
        _require(
            0 <= self.drw_start < 1, "imbalance.drw_start", "in [0, 1)", self.drw_start
        )


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What the loss does to the labels, whatever `imbalance.strategy` makes of it."""

    label_smoothing: float = 0.0
    """Share of each label that is dealt equally to all classes."""

    def __post_init__(self) -> None:
        """Checks ranges."""
        _require(
            0 <= self.label_smoothing < 1,
            "loss.label_smoothing",
            "in [0, 1)",
            self.label_smoothing,
        )


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimizer, its learning rate over time, and an average of the weights."""

    name: str = "adamw"
    """Name of `OPTIMIZERS`."""
    schedule: str = "cosine"
    """Name of `SCHEDULES`."""
    learning_rate: float = 1e-3
    """Highest learning rate of the phase that trains all layers."""
    head_learning_rate: float = 3e-3
    """Learning rate of the phase that trains the head alone."""
    warmup_epochs: float = 0.5
    """Epochs of linear warm-up; `one_cycle` has a rise of its own instead."""
    milestones: tuple[float, ...] = (0.5, 0.75)
    """`step`: the shares of a phase after which the rate is multiplied by `milestone_factor`."""
    milestone_factor: float = 0.1
    """`step`: what the rate is multiplied by."""
    warmup_fraction: float = 0.25
    """`one_cycle`: share of a phase in which the rate rises."""
    momentum: float = 0.9
    """Momentum of `sgd`; 0 for none."""
    nesterov: bool = False
    """Whether `sgd` uses Nesterov's momentum."""
    weight_decay: float = 1e-2
    """Decoupled weight decay of every optimizer; biases, norms' weights and layer scales
    are spared. `adam` with it is `adamw`."""
    clip_norm: float = 1.0
    """Largest norm of the gradient; 0 for no clipping."""
    clip_by: Literal["variable", "global"] = "variable"
    """Whether `clip_norm` bounds the gradient of each variable, or of all together, which
    keeps its direction."""
    layer_decay: float = 1.0
    """Factor of the learning rate from each block of the backbone to the one before it; 1
    for the same rate everywhere."""
    ema_momentum: float = 0.0
    """Momentum of the average of the weights that is evaluated; 0 for none."""

    def __post_init__(self) -> None:
        """Checks ranges."""
        for name in ("learning_rate", "head_learning_rate", "milestone_factor"):
            value = getattr(self, name)
            _require(value > 0, f"optimizer.{name}", "positive", value)
        for name in ("warmup_epochs", "weight_decay", "clip_norm"):
            value = getattr(self, name)
            _require(value >= 0, f"optimizer.{name}", ">= 0", value)
        for name in ("ema_momentum", "momentum"):
            value = getattr(self, name)
            _require(0 <= value < 1, f"optimizer.{name}", "in [0, 1)", value)
        _require(
            all(0 < share < 1 for share in self.milestones)
            and sorted(set(self.milestones)) == list(self.milestones),
            "optimizer.milestones",
            "rising shares between 0 and 1",
            self.milestones,
        )
        _require(
            0 < self.warmup_fraction < 1,
            "optimizer.warmup_fraction",
            "between 0 and 1",
            self.warmup_fraction,
        )
        _require(
            self.clip_by in ("variable", "global"),
            "optimizer.clip_by",
            "variable or global",
            self.clip_by,
        )
        _require(
            0 < self.layer_decay <= 1,
            "optimizer.layer_decay",
            "in (0, 1]",
            self.layer_decay,
        )
        _require(
            self.momentum > 0 or not self.nesterov,
            "optimizer.momentum",
            "positive where `optimizer.nesterov` is True",
            self.momentum,
        )


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """Epochs with the same layers training."""

    trainable_blocks: int
    """How many of the backbone's last blocks (layers of one resolution) train beside the
    head: 0 the head alone, -1 everything."""
    epochs: int
    """How long."""
    rate: float = 1.0
    """The stage's highest learning rate, as a multiple of `optimizer.learning_rate`."""

    def __post_init__(self) -> None:
        """Checks ranges."""
        _require(
            self.trainable_blocks >= -1,
            "train.stages: trainable_blocks",
            ">= -1",
            self.trainable_blocks,
        )
        _require(self.epochs >= 1, "train.stages: epochs", ">= 1", self.epochs)
        _require(self.rate > 0, "train.stages: rate", "positive", self.rate)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Which layers train for how long, and which epoch is kept."""

    scenario: str = "fine_tune"
    """Name of `SCENARIOS`: fine_tune (the head, then all layers), linear_probe (the
    head alone), from_scratch (all layers, no weights) or staged (`stages`)."""
    head_epochs: int = 1
    """`fine_tune`: epochs with the backbone frozen."""
    epochs: int = 8
    """Epochs of the last stage; `staged` has its own."""
    trainable_blocks: int = -1
    """`fine_tune`: how many of the backbone's last blocks (layers of one resolution) train
    in the last stage; -1 for all. The first blocks see the largest pictures and hold few
    weights: left as they are, an epoch can take half the time."""
    stages: tuple[StageConfig, ...] = ()
    """`staged`: the stages, one after the other. Their number is that of the preset or of
    the file that --config names."""
    progressive_image_size: int = 0
    """Picture size of the first `progressive_epochs`, to save time; 0 for none."""
    progressive_epochs: int = 0
    """How many epochs of the last stage use `progressive_image_size`; those of the stages before
    it do as well."""
    monitor: str = "balanced_accuracy"
    """Name of `METRICS`; the epoch with its best value on validation is kept."""
    patience: int = 0
    """Training ends after so many epochs of the last stage without a better value; 0 for
    never."""
    cached_views: int = 0
    """Stages that train the head alone: 0, or in how many orientations (1, 2, 4 or 8) the
    features of each picture are computed once, so that an epoch costs next to nothing. It
    is worth it for more epochs than orientations. One of the orientations is drawn each
    time (as it is; mirrored; upside down; lying on a side), and pictures are varied in no
    other way. A feature takes 4 bytes of memory: 8 orientations of 10,000 pictures and
    1,280 features (mobilenet_v2) 410 MB."""
    deterministic: bool = False
    """Repeatable bit for bit on one machine, at some cost in speed."""
    precision: Literal["auto"] | Precision = "auto"
    """What the backbone computes in; weights, head and loss are float32, and so is the
    model that is saved. auto: float32 on a CPU, else mixed_bfloat16 where the device has
    it, else mixed_float16."""
    jit: Literal["auto", "on", "off"] = "auto"
    """Whether XLA compiles the training step. auto: as Keras chooses, on with a GPU and
    off on a CPU (with JAX always on)."""
    devices: int = 0
    """How many GPUs of this machine share each batch; 0 for all, or the CPU where there
    are none. With TensorFlow each has its own BatchNorm statistics, partners for MixUp and
    CutMix, and the same random draws for its first, second ... picture; all else is as on
    one. With JAX all is as on one, and several machines can train together (README)."""

    def __post_init__(self) -> None:
        """Checks ranges."""
        _require(self.head_epochs >= 0, "train.head_epochs", ">= 0", self.head_epochs)
        _require(self.epochs >= 1, "train.epochs", ">= 1", self.epochs)
        _require(self.patience >= 0, "train.patience", ">= 0", self.patience)
        _require(self.devices >= 0, "train.devices", ">= 0", self.devices)
        _require(
            bool(self.stages) == (self.scenario == "staged"),
            "train.stages",
            "given with `train.scenario` staged, and with no other",
            self.stages,
        )
        _require(
            self.trainable_blocks == -1
            or (self.trainable_blocks >= 1 and self.scenario == "fine_tune"),
            "train.trainable_blocks",
            ">= 1 with `train.scenario` fine_tune, or -1",
            self.trainable_blocks,
        )
        last = self.stages[-1].epochs if self.stages else self.epochs
        _require(
            0 <= self.progressive_epochs < last,
            "train.progressive_epochs",
            f"in 0..{last - 1}, less than the last stage's epochs",
            self.progressive_epochs,
        )
        _require(
            self.progressive_image_size == 0 or self.progressive_image_size >= 32,
            "train.progressive_image_size",
            "0 or >= 32",
            self.progressive_image_size,
        )
        _require(
            (self.progressive_epochs > 0) == (self.progressive_image_size > 0),
            "train.progressive_epochs and train.progressive_image_size",
            "both 0 or both positive",
            (self.progressive_epochs, self.progressive_image_size),
        )
        _require(
            self.cached_views in (0, 1, 2, 4, 8),
            "train.cached_views",
            "0, 1, 2, 4 or 8",
            self.cached_views,
        )


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """How scores get their intervals."""

    num_bootstrap: int = 2000
    """Bootstrap resamples of the lesions."""
    confidence: float = 0.95
    """Coverage of each interval."""

    def __post_init__(self) -> None:
        """Checks ranges."""
        _require(
            self.num_bootstrap >= 100,
            "evaluate.num_bootstrap",
            ">= 100",
            self.num_bootstrap,
        )
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
    loss: LossConfig = field(default_factory=LossConfig)
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
            self.augment.mix == "none" or self.train.cached_views == 0,
            "augment.mix",
            "none with `train.cached_views`: features are not mixed",
            self.augment.mix,
        )
        scratch = self.train.scenario == "from_scratch"
        _require(
            scratch == (self.model.weights == "none"),
            "train.scenario",
            "from_scratch where `model.weights` is none (a frozen random backbone learns "
            "nothing), and fine_tune, staged or linear_probe where it is not",
            f"{self.train.scenario} with `model.weights` {self.model.weights}",
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


def read_config(path: Path) -> Config:
    """Returns the configuration in a JSON file, such as a run's config.json.

    Raises:
        ConfigError: It is no such file, or its content is not valid.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            "A configuration must be a file of JSON, such as a run's config.json. "
            f"Received: {path}: {error}"
        ) from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a JSON object. Received: {values!r}.")
    return Config.from_dict(values)


def _from_dict(kind: type[Any], values: Any, where: str) -> object:
    types = typing.get_type_hints(kind)
    if not isinstance(values, dict):
        raise ConfigError(f"`{where}` must be an object. Received: {values!r}.")
    unknown = sorted(set(values) - set(types))
    if unknown:
        raise ConfigError(
            f"{where} has no field {', '.join(unknown)}. "
            f"Expected some of: {', '.join(types)}."
        )
    arguments = {}
    for name, value in values.items():
        arguments[name] = _from_json(types[name], value, f"{where}.{name}")
    return kind(**arguments)


def _from_json(kind: Any, value: Any, where: str) -> object:
    if dataclasses.is_dataclass(kind):
        return _from_dict(typing.cast(type, kind), value, where)
    if typing.get_origin(kind) is tuple:
        _require(isinstance(value, list | tuple), where, "a list", value)
        item_kind = typing.get_args(kind)[0]
        return tuple(_from_json(item_kind, item, where) for item in value)
    words = _words(kind)
    if words:
        _require(value in words, where, f"one of: {', '.join(words)}", value)
    else:
        # JSON writes 1.0 as 1 where a person does; True is an int in Python alone.
        kinds = (int, float) if kind is float else (kind,)
        _require(type(value) in kinds, where, f"of type {kind.__name__}", value)
    return value


def _words(kind: Any) -> tuple[str, ...]:
    """Returns the values of a Literal, or of a union of them; none for other types."""
    if typing.get_origin(kind) is Literal:
        return typing.get_args(kind)
    return tuple(word for part in typing.get_args(kind) for word in _words(part))
