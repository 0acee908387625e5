"""Presets: named functions that return a `Config`."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable
from typing import Any

from skincnn.config import Config
from skincnn.parts import find_part
from skincnn.presets import ours, published

PRESETS: dict[str, Callable[[], Config]] = {
    function.__name__: function
    for function in (
        ours.quickstart,
        ours.mobilenet_160,
        ours.ensemble5_member,
        ours.effnetv2s_384,
        published.cnn,
        published.resnet50_sgd,
        published.resnet50_sgd_class_weights,
        published.resnet50_sgd_sampler,
        published.resnet50_sgd_oversampling,
        published.vgg19_stages,
        published.resnet50_stages,
        published.resnet50_one_image,
        published.resnet50_adam,
        published.mobilenet_v2_adam,
    )
}

ENSEMBLES: dict[str, Callable[[Config], tuple[Config, ...]]] = {"ensemble5": ours.ensemble5}
"""Ensembles by name. Each function takes the configuration of the first model (the preset
`<name>_member`, changed by command-line flags) and returns those of all models."""


def vary_seed(config: Config, num_models: int) -> tuple[Config, ...]:
    """Returns copies of a configuration with consecutive seeds, starting with its own."""
    seeds = range(config.seed, config.seed + num_models)
    return tuple(dataclasses.replace(config, seed=seed) for seed in seeds)


def preset(name: str) -> Config:
    """Returns the configuration of a preset, or of a custom `module:function`.

    >>> preset("quickstart").data.datasets
    ('demo',)

    Raises:
        ConfigError: No preset has this name, or the custom function cannot be imported,
            fails, or does not return a `Config`.
    """
    return find_part(PRESETS, name, "PRESET", returns=Config)()


def to_command(config: Config) -> str | None:
    """Returns the `skincnn train` command that trains with a configuration.

    The command uses the preset that requires the fewest flags; --seed, if required, is the
    last one. Returns None if no preset has the same number of stages, because flags cannot
    change this number.
    """
    candidates = [
        (name, _flags(base, config))
        for name, base in ((name, function()) for name, function in PRESETS.items())
        if len(base.train.stages) == len(config.train.stages)
    ]
    if not candidates:
        return None
    name, values = min(candidates, key=lambda candidate: len(candidate[1]))
    if "--seed" in values:
        values["--seed"] = values.pop("--seed")
    flags = [f"{flag} {value}".rstrip() for flag, value in values.items()]
    return " ".join(["skincnn train", name, *flags])


def _flags(base: Any, target: Any, prefix: str = "--") -> dict[str, str]:
    """Returns the flags, with their values, that turn the section `base` into `target`."""
    flags: dict[str, str] = {}
    for field in dataclasses.fields(base):
        old, new = getattr(base, field.name), getattr(target, field.name)
        flag = prefix + field.name.replace("_", "-")
        if dataclasses.is_dataclass(new):
            flags |= _flags(old, new, f"{flag}.")
        elif isinstance(new, tuple) and any(map(dataclasses.is_dataclass, new)):
            for index, pair in enumerate(zip(old, new, strict=True)):
                flags |= _flags(*pair, f"{flag}.{index}.")
        elif old != new:
            values = new if isinstance(new, tuple) else (new,)
            flags[flag] = " ".join(shlex.quote(str(value)) for value in values)
    return flags
