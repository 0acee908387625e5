"""Search spaces: plain functions `(hp, config) -> Config` around a preset.

Each hyperparameter is named by the path of what it sets: `optimizer.learning_rate`; a part
that may be left out by the tuple and its own name, `augment.parts.erase`; a field of the
last stage by `train.stages.trainable_blocks`. Its default is the preset's value, so that the defaults
of a space are the preset. What a space asks for it sets, to that very value; it leaves the
seed, the pictures and `train.monitor` alone. What a trial does not use stands in a
`hp.conditional_scope`: it is None in that trial, and `with_values` leaves it as it is.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from skincnn.config import Config, StageConfig
from skincnn.errors import ConfigError
from skincnn.lookup import import_function, look_up

if TYPE_CHECKING:
    from keras_tuner import HyperParameters

Space = Callable[["HyperParameters", Config], Config]

SCHEDULES = ("constant", "step", "cosine", "one_cycle")
BATCH_SIZES = (16, 32, 64)
PARTS = ("rotate", "zoom", "shift", "shear", "hair", "light", "color", "hue", "erase")
"""Without `flip` and `quarter_turn`: a lesion has no upright position, so they are no
question. What a preset has of these and other parts stays."""
PART_ORDER = (
    *("flip", "quarter_turn", "rotate", "zoom", "shift", "shear"),
    *("hair", "ruler", "blur", "sharpen", "light", "color", "hue", "erase"),
)
"""The order in which parts act; see `AugmentConfig.parts`."""
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
"""Not `oversampling`, whose epochs are longer, nor the mistake `weights_and_sampling`."""
WITH_WIDTH = ("mobilenet", "mobilenet_v2")
BACKBONES = (*WITH_WIDTH, "efficientnet_v2_b0", "densenet121", "resnet50")
WIDTHS = (0.5, 0.75, 1.0)
"""Those for which both families have ImageNet weights."""
SIZE_FACTORS = (0.6, 0.8, 1.0, 1.4)
SIZE_STEP = 32
BLOCKS = (1, 2, 3, -1)
SIGNIFICANT_DIGITS = 6


def learning(hp: HyperParameters, config: Config) -> Config:
    """How it learns: rate, schedule, warm-up, weight decay, batch size, dropout."""
    head_alone = config.train.scenario == "linear_probe"
    rate = "optimizer.head_learning_rate" if head_alone else "optimizer.learning_rate"
    now = float(value_at(config, rate))
    values = {
        rate: _float(hp, config, rate, now / 10, now * 10, "log"),
        **_choice(hp, config, "optimizer.schedule", SCHEDULES),
        "optimizer.weight_decay": _float(
            hp, config, "optimizer.weight_decay", 1e-5, 0.3, "log"
        ),
        **_choice(hp, config, "data.batch_size", BATCH_SIZES),
        "model.dropout": _float(hp, config, "model.dropout", 0.0, 0.6),
    }
    if not head_alone:  # whose stage has no warm-up
        # One cycle has a rise of its own.
        others = [name for name in SCHEDULES if name != "one_cycle"]
        with hp.conditional_scope("optimizer.schedule", others):
            values["optimizer.warmup_epochs"] = _float(
                hp, config, "optimizer.warmup_epochs", 0.0, min(2.0, config.train.epochs)
            )
    return with_values(config, values)


def augmentation(hp: HyperParameters, config: Config) -> Config:
    """How pictures are varied: the dial over all, which parts, and how they are mixed."""
    cached = config.train.cached_views > 0
    if cached and config.train.scenario == "linear_probe":
        raise ConfigError(
            "The space augmentation needs a training that sees pictures. Received: "
            f"`train.cached_views` {config.train.cached_views} with `train.scenario` "
            "linear_probe, which varies nothing. Give --train.cached-views 0."
        )
    values: dict[str, Any] = {
        "augment.magnitude": _float(hp, config, "augment.magnitude", 0.0, 1.0)
    }
    on = set(config.augment.parts) - set(PARTS)
    for part in PARTS:
        if hp.Boolean(f"augment.parts.{part}", default=part in config.augment.parts):
            on.add(part)
    values["augment.parts"] = tuple(part for part in PART_ORDER if part in on)
    if not cached:  # features are not mixed
        values |= _choice(hp, config, "augment.mix", ("none", "mixup", "cutmix"))
        with hp.conditional_scope("augment.mix", ["mixup", "cutmix"]):
            values["augment.mix_alpha"] = _float(hp, config, "augment.mix_alpha", 0.1, 1.0)
    return with_values(config, values)


def imbalance(hp: HyperParameters, config: Config) -> Config:
    """How rare classes are helped: the strategy, and its own strength."""
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
    """What looks at the picture: family, width, picture size, how many blocks train."""
    weights = config.model.weights
    # A file holds the weights of one network; small_cnn has none of ImageNet.
    families = {"imagenet": BACKBONES, "none": ("small_cnn", *BACKBONES)}.get(weights, ())
    values = _choice(hp, config, "model.backbone", families)
    if families:
        values["model.width_multiplier"] = _width(hp, config, values["model.backbone"])
    size = config.data.image_size
    sizes = [max(SIZE_STEP, _multiple(factor * size)) for factor in SIZE_FACTORS]
    values |= _choice(hp, config, "data.image_size", sizes)
    small = config.train.progressive_image_size
    if small:
        values |= _small_stage(config, _multiple(values["data.image_size"] * small / size))
    config = with_values(config, values)
    return _blocks(hp, config)


SPACES: dict[str, Space] = {
    "learning": learning,
    "augmentation": augmentation,
    "imbalance": imbalance,
    "backbone": backbone,
}


def find_space(names: Sequence[str]) -> Space:
    """Returns the product of some spaces: each is applied to what the one before made.

    Args:
        names: Names of `SPACES`, or `package.module:function` of yours.

    Raises:
        ConfigError: There is no such space, or none is named.
    """
    if not names:
        raise ConfigError(f"Name a SPACE: {', '.join(SPACES)}, or package.module:function.")
    spaces = [_find(name) for name in names]

    def product(hp: HyperParameters, config: Config) -> Config:
        for name, space in zip(names, spaces, strict=True):
            config = _apply(name, space, hp, config)
        return config

    return product


def source(name: str) -> str:
    """Returns the SHA-256 of a space's source, which tells one from another."""
    try:
        text = inspect.getsource(_find(name))
    except (OSError, TypeError):  # of a function that no file holds
        text = name
    return hashlib.sha256(text.encode()).hexdigest()


def describe_spaces() -> str:
    """Returns a line for each space: its name, and the first line of its docstring."""
    width = max(map(len, SPACES))
    return "\n".join(
        f"  {name:{width}}  {(space.__doc__ or '').splitlines()[0]}"
        for name, space in SPACES.items()
    )


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """Returns the configuration with other values at some paths.

    Args:
        config: The configuration.
        values: Path of a field -> value; floats are rounded to six digits, and None, the
            value of a hyperparameter that is not active, changes nothing.
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
    """Returns what stands at the path by which a hyperparameter is named.

    Raises:
        ConfigError: It is no path of `Config`.
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
                f"`{path}` is no path of a configuration: {name!r} is too much."
            )
    return value


def _member(values: tuple[Any, ...], name: str) -> Any:
    """Returns whether a tuple of names has that one, or that field of its last stage."""
    if values and dataclasses.is_dataclass(values[-1]):
        return value_at(values[-1], name)
    return name in values


def _find(name: str) -> Space:
    return import_function(name, "SPACE") if ":" in name else look_up(SPACES, name, "SPACE")


def _apply(name: str, space: Space, hp: HyperParameters, config: Config) -> Config:
    """Applies a space that may be the user's."""
    try:
        found = space(hp, config)
    except ConfigError as error:
        raise ConfigError(
            f"The space {name} made a configuration that is refused: {error}"
        ) from error
    # Whatever a function of the user's may raise.
    except Exception as error:
        raise ConfigError(
            f"The space {name} failed: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(found, Config):
        raise ConfigError(
            f"The space {name} must return a Config: dataclasses.replace(config, ...). "
            f"Received: {found!r}."
        )
    return found


def _choice(
    hp: HyperParameters, config: Config, path: str, values: Sequence[Any]
) -> dict[str, Any]:
    """Returns the path and one of some values, of which the present one is always one."""
    now = value_at(config, path)
    offered = list(dict.fromkeys([*values, now]))
    if not isinstance(now, str):
        offered.sort()
    return {path: hp.Choice(path, offered, default=now)}


def _float(
    hp: HyperParameters,
    config: Config,
    path: str,
    low: float,
    high: float,
    sampling: str = "linear",
) -> Any:
    """Returns a number of a range that is widened to the present one."""
    now = float(value_at(config, path))
    if sampling == "log" and now <= 0:  # which has no place on such a scale
        now = low
    low, high = min(low, now), max(high, now)
    return hp.Float(path, low, high, sampling=sampling, default=now)


def _width(hp: HyperParameters, config: Config, chosen: str) -> float:
    """Returns the width of a family that has one, else the preset's own or 1."""
    now = config.model.width_multiplier
    widths = WIDTHS if config.model.weights == "imagenet" else sorted({*WIDTHS, now})
    nearest = min(widths, key=lambda width: abs(width - now))
    with hp.conditional_scope("model.backbone", list(WITH_WIDTH)):
        width = hp.Choice("model.width_multiplier", list(widths), default=nearest)
    if width is not None:
        return float(width)
    return now if chosen == config.model.backbone else 1.0


def _blocks(hp: HyperParameters, config: Config) -> Config:
    """How many of the backbone's last blocks train, where they begin from weights."""
    train = config.train
    if train.scenario in ("from_scratch", "linear_probe"):
        return config
    stages = train.stages or _fine_tuning(config)
    blocks = [
        *BLOCKS,
        *([] if stages[-1].trainable_blocks in BLOCKS else [stages[-1].trainable_blocks]),
    ]
    chosen = hp.Choice(
        "train.stages.trainable_blocks", blocks, default=stages[-1].trainable_blocks
    )
    stages = (*stages[:-1], dataclasses.replace(stages[-1], trainable_blocks=chosen))
    train = dataclasses.replace(train, scenario="staged", stages=stages)
    return dataclasses.replace(config, train=train)


def _fine_tuning(config: Config) -> tuple[StageConfig, ...]:
    """Returns the stages of the scenario `fine_tune`, written out."""
    rate = config.optimizer.head_learning_rate / config.optimizer.learning_rate
    epochs = config.train.head_epochs
    head = (StageConfig(trainable_blocks=0, epochs=epochs, rate=rate),) if epochs else ()
    return (*head, StageConfig(trainable_blocks=-1, epochs=config.train.epochs))


def _small_stage(config: Config, small: int) -> dict[str, Any]:
    """Returns the size of the first epochs' pictures; too small ones are left out."""
    if small < SIZE_STEP:
        return {"train.progressive_image_size": 0, "train.progressive_epochs": 0}
    return {"train.progressive_image_size": small}


def _multiple(size: float) -> int:
    return round(size / SIZE_STEP) * SIZE_STEP


def rounded(value: Any) -> Any:
    """Returns a value as configurations and tables have it: floats with six digits."""
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}") if isinstance(value, float) else value
