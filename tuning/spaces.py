"""Search spaces: functions `(hp, config) -> Config` that modify a preset.

The name of a hyperparameter is the path of a field of the configuration:

- `optimizer.learning_rate`: a field of a section;
- `augment.parts.erase`: whether a tuple contains a name, here "erase";
- `train.stages.trainable_blocks`: a field of the last stage.

The default of a hyperparameter is the value in the preset, or the nearest valid value. A
space must set the field to the value of the hyperparameter. It must not set a teacher, or
change the seed, `train.monitor`, the choice of images (`tuning.data.FIXED`) or, with
--tuner hyperband, the number of epochs of the last stage. Hyperparameters that only some
trials use belong in an `hp.conditional_scope`. In other trials, their values are None,
which `with_values` ignores.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from skincnn.config import Config, StageConfig
from skincnn.errors import ConfigError
from skincnn.lookup import look_up
from skincnn.parts import CustomPart, find_part

if TYPE_CHECKING:
    from keras_tuner import HyperParameters

Space = Callable[["HyperParameters", Config], Config]

SCHEDULES = ("constant", "step", "cosine", "one_cycle")
BATCH_SIZES = (16, 32, 64)
PARTS = ("rotate", "zoom", "shift", "shear", "hair", "light", "color", "hue", "erase")
"""The augmentations that are searched. `flip` and `quarter_turn` are not searched, because
lesions have no natural orientation. A trial has all other augmentations of the preset."""
PART_ORDER = (
    *("flip", "flip_vertical", "transpose", "quarter_turn", "rotate"),
    *("zoom", "crop", "shift", "shear"),
    *("hair", "ruler", "blur", "sharpen", "light", "color", "hue", "jitter", "erase"),
)
"""The order of the augmentations in `augment.parts` of a trial, before custom ones. It is
the order that `skincnn.config.AugmentConfig` recommends."""
WITH_POWER = ("class_weights", "logit_adjusted")
WITH_BETA = (
    *("effective_number_weights", "effective_number_sampling"),
    *("class_balanced_focal", "ldam"),
)
WITH_GAMMA = ("focal", "class_balanced_focal")
STRATEGIES = (
    *("none", *WITH_POWER, *WITH_BETA, "focal"),
    *("balanced_sampling", "square_root_sampling"),
)
"""The strategies that are searched: all except `oversampling`, which makes epochs longer,
and `weights_and_sampling`, which reverses the imbalance."""
WITH_WIDTH = ("mobilenet", "mobilenet_v2")
BACKBONES = (*WITH_WIDTH, "efficientnet_v2_b0", "densenet121", "resnet50")
WIDTHS = (0.5, 0.75, 1.0)
"""Width multipliers for which all backbones in `WITH_WIDTH` have ImageNet weights."""
SIZE_FACTORS = (0.6, 0.8, 1.0, 1.4)
SIZE_STEP = 32
BLOCKS = (1, 2, 3, -1)
SIGNIFICANT_DIGITS = 6


def learning(hp: HyperParameters, config: Config) -> Config:
    """Learning rate, schedule, warm-up, weight decay, batch size and dropout."""
    head_only = config.train.scenario == "linear_probe"
    rate = "optimizer.head_learning_rate" if head_only else "optimizer.learning_rate"
    default = float(value_at(config, rate))
    values = {
        rate: _float(hp, config, rate, default / 10, default * 10, "log"),
        **_choice(hp, config, "optimizer.schedule", SCHEDULES),
        "optimizer.weight_decay": _float(
            hp, config, "optimizer.weight_decay", 1e-5, 0.3, "log"
        ),
        **_choice(hp, config, "data.batch_size", BATCH_SIZES),
        "model.dropout": _float(hp, config, "model.dropout", 0.0, 0.6),
    }
    if not head_only:  # a stage that trains only the head has no warm-up
        # one_cycle ignores warmup_epochs.
        others = [name for name in SCHEDULES if name != "one_cycle"]
        with hp.conditional_scope("optimizer.schedule", others):
            values["optimizer.warmup_epochs"] = _float(
                hp, config, "optimizer.warmup_epochs", 0.0, min(2.0, config.train.epochs)
            )
    return with_values(config, values)


def augmentation(hp: HyperParameters, config: Config) -> Config:
    """Magnitude and types of augmentation, and MixUp or CutMix."""
    cached = config.train.cached_views > 0
    if cached and config.train.scenario == "linear_probe":
        raise ConfigError(
            "The space augmentation requires training on images. Received: "
            f"`train.cached_views` {config.train.cached_views} with `train.scenario` "
            "linear_probe, which applies no augmentation. Use --train.cached-views 0."
        )
    values: dict[str, Any] = {
        "augment.magnitude": _float(hp, config, "augment.magnitude", 0.0, 1.0)
    }
    parts = set(config.augment.parts) - set(PARTS)
    for part in PARTS:
        if hp.Boolean(f"augment.parts.{part}", default=part in config.augment.parts):
            parts.add(part)
    custom = (part for part in config.augment.parts if part not in PART_ORDER)
    values["augment.parts"] = (*(part for part in PART_ORDER if part in parts), *custom)
    if not cached:  # cached features are not mixed
        values |= _choice(hp, config, "augment.mix", ("none", "mixup", "cutmix"))
        with hp.conditional_scope("augment.mix", ["mixup", "cutmix"]):
            values["augment.mix_alpha"] = _float(hp, config, "augment.mix_alpha", 0.1, 1.0)
    return with_values(config, values)


def imbalance(hp: HyperParameters, config: Config) -> Config:
    """Strategy against class imbalance, and strength of the strategy."""
    strategy = "imbalance.strategy"
    values = _choice(hp, config, strategy, STRATEGIES)
    with hp.conditional_scope(strategy, list(WITH_POWER)):
        values["imbalance.power"] = _float(hp, config, "imbalance.power", 0.25, 1.0)
    with hp.conditional_scope(strategy, list(WITH_BETA)):
        values |= _choice(hp, config, "imbalance.beta", (0.9, 0.99, 0.999, 0.9999))
    with hp.conditional_scope(strategy, list(WITH_GAMMA)):
        values["imbalance.gamma"] = _float(hp, config, "imbalance.gamma", 0.5, 3.0)
    with hp.conditional_scope(strategy, ["ldam"]):
        values["imbalance.margin"] = _float(hp, config, "imbalance.margin", 0.1, 0.8)
    return with_values(config, values)


def backbone(hp: HyperParameters, config: Config) -> Config:
    """Backbone, width multiplier, image size and number of trainable blocks."""
    weights = config.model.weights
    # A weights file fits only one backbone; small_cnn has no ImageNet weights.
    names = {"imagenet": BACKBONES, "none": ("small_cnn", *BACKBONES)}.get(weights, ())
    values = _choice(hp, config, "model.backbone", names)
    if names:
        values["model.width_multiplier"] = _width(hp, config, values["model.backbone"])
    size = config.data.image_size
    sizes = [max(SIZE_STEP, _multiple(factor * size)) for factor in SIZE_FACTORS]
    values |= _choice(hp, config, "data.image_size", sizes)
    first = config.train.progressive_image_size
    if first:
        values |= _progressive(_multiple(values["data.image_size"] * first / size))
    return _blocks(hp, with_values(config, values))


SPACES: dict[str, Space] = {
    "learning": learning,
    "augmentation": augmentation,
    "imbalance": imbalance,
    "backbone": backbone,
}


def find_space(names: Sequence[str]) -> Space:
    """Returns a space that applies several spaces in sequence.

    A name is a key of `SPACES`, or `package.module:function` for a custom space.

    Raises:
        ConfigError: `names` is empty, a space is unknown, or a custom space cannot be
            imported or does not accept the arguments (hp, config). The returned space
            raises a `ConfigError` if a custom space fails, if a value is invalid, or if
            `augmentation` is applied to training on cached features only.
    """
    if not names:
        raise ConfigError(
            f"At least one SPACE is required: {', '.join(SPACES)}, or "
            "package.module:function. Received: none."
        )
    spaces = [_find(name) for name in names]

    def product(hp: HyperParameters, config: Config) -> Config:
        for space in spaces:
            config = space(hp, config)
        return config

    return product


def hash_source(name: str) -> str:
    """Returns the SHA-256 of the source code of the function of a space.

    If the source code is not available, this is the SHA-256 of `name`.

    Raises:
        ConfigError: See `find_space`.
    """
    space: Any = _find(name)
    try:
        text = inspect.getsource(space.function if isinstance(space, CustomPart) else space)
    except (OSError, TypeError):  # the function is not in a file
        text = name
    return hashlib.sha256(text.encode()).hexdigest()


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """Returns the configuration with new values of some fields.

    Args:
        config: The configuration to change.
        values: The new values by section and field, such as `optimizer.learning_rate`.
            Floats are rounded to six significant digits. None, the value of an inactive
            hyperparameter, changes nothing.

    Raises:
        ConfigError: A value is invalid.
    """
    parts: dict[str, dict[str, Any]] = {}
    for path, value in values.items():
        if value is not None:
            part, _, name = path.partition(".")
            parts.setdefault(part, {})[name] = rounded(value)
    return dataclasses.replace(
        config,
        **{
            part: dataclasses.replace(getattr(config, part), **fields)
            for part, fields in parts.items()
        },
    )


def value_at(config: Any, path: str) -> Any:
    """Returns the value at a path in a configuration, such as `optimizer.learning_rate`.

    Raises:
        ConfigError: The field does not exist.
    """
    value = config
    for name in path.split("."):
        if isinstance(value, tuple):
            value = _member(value, name)
        elif dataclasses.is_dataclass(value):
            names = {field.name: field.name for field in dataclasses.fields(value)}
            value = getattr(value, look_up(names, name, f"`{name}` of `{path}`"))
        else:
            raise ConfigError(
                f"`{path}` is not the path of a field: {name!r} does not exist."
            )
    return value


def _member(values: tuple[Any, ...], name: str) -> Any:
    """Returns a field of the last stage, or whether a tuple of names contains `name`."""
    if values and dataclasses.is_dataclass(values[-1]):
        return value_at(values[-1], name)
    return name in values


def _find(name: str) -> Space:
    return find_part(SPACES, name, "SPACE", ("hp", "config"), Config)


def _choice(
    hp: HyperParameters, config: Config, path: str, values: Sequence[Any]
) -> dict[str, Any]:
    """Returns {path: value}, chosen from `values` and the value in the preset.

    The value is None if the hyperparameter is inactive.
    """
    default = value_at(config, path)
    choices = list(dict.fromkeys([*values, default]))
    if not isinstance(default, str):
        choices.sort()
    return {path: hp.Choice(path, choices, default=default)}


def _float(
    hp: HyperParameters,
    config: Config,
    path: str,
    low: float,
    high: float,
    sampling: str = "linear",
) -> Any:
    """Returns a number from a range that includes the default; None if inactive."""
    default = float(value_at(config, path))
    if sampling == "log" and default <= 0:  # 0 has no logarithm
        default = low
    low, high = min(low, default), max(high, default)
    return hp.Float(path, low, high, sampling=sampling, default=default)


def _width(hp: HyperParameters, config: Config, name: str) -> float:
    """Returns the width multiplier, which is searched for backbones in `WITH_WIDTH`.

    For any other backbone, it is that of the preset if the preset has this backbone, and
    1.0 otherwise.
    """
    default = config.model.width_multiplier
    widths = WIDTHS if config.model.weights == "imagenet" else sorted({*WIDTHS, default})
    nearest = min(widths, key=lambda width: abs(width - default))
    with hp.conditional_scope("model.backbone", list(WITH_WIDTH)):
        width = hp.Choice("model.width_multiplier", list(widths), default=nearest)
    if width is not None:
        return float(width)
    return default if name == config.model.backbone else 1.0


def _blocks(hp: HyperParameters, config: Config) -> Config:
    """Searches the number of trainable blocks, except for from_scratch and linear_probe."""
    train = config.train
    if train.scenario in ("from_scratch", "linear_probe"):
        return config
    stages = train.stages or _fine_tuning(config)
    default = stages[-1].trainable_blocks
    choices = list(dict.fromkeys([*BLOCKS, default]))
    blocks = hp.Choice("train.stages.trainable_blocks", choices, default=default)
    stages = (*stages[:-1], dataclasses.replace(stages[-1], trainable_blocks=blocks))
    train = dataclasses.replace(
        train, scenario="staged", stages=stages, trainable_blocks=-1
    )
    return dataclasses.replace(config, train=train)


def _fine_tuning(config: Config) -> tuple[StageConfig, ...]:
    """Returns the stages of the scenario `fine_tune`, as values of `train.stages`."""
    rate = config.optimizer.head_learning_rate / config.optimizer.learning_rate
    epochs, blocks = config.train.head_epochs, config.train.trainable_blocks
    head = (StageConfig(trainable_blocks=0, epochs=epochs, rate=rate),) if epochs else ()
    return (*head, StageConfig(trainable_blocks=blocks, epochs=config.train.epochs))


def _progressive(size: int) -> dict[str, Any]:
    """Returns the fields for progressive resizing; sizes below `SIZE_STEP` disable it."""
    if size < SIZE_STEP:
        return {"train.progressive_image_size": 0, "train.progressive_epochs": 0}
    return {"train.progressive_image_size": size}


def _multiple(size: float) -> int:
    return round(size / SIZE_STEP) * SIZE_STEP


def rounded(value: Any) -> Any:
    """Returns a value, rounded to six significant digits if it is a float."""
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}") if isinstance(value, float) else value
