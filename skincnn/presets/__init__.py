"""Named configurations: preset name -> function that returns a `Config`."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable
from typing import Any

from skincnn.config import Config
from skincnn.presets import ours, published

PRESETS: dict[str, Callable[[], Config]] = {
    preset.__name__: preset
    for preset in (
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


def describe_presets() -> str:
    """Returns one line per preset: its name and the first line of its docstring."""
    width = max(map(len, PRESETS))
    return "\n".join(
        f"  {name:{width}}  {(preset.__doc__ or '').splitlines()[0]}"
        for name, preset in PRESETS.items()
    )


def to_command(config: Config) -> str | None:
    """Returns the scripts/train.py command that trains with a configuration.

    The command starts from the preset that needs the fewest flags; the seed comes last.
    Returns None if no preset has the same number of stages: flags change stages, but only
    a file (--config) changes their number.
    """
    candidates: dict[str, dict[str, str]] = {}
    for name, preset in PRESETS.items():
        base = preset()
        if len(base.train.stages) == len(config.train.stages):
            candidates[name] = _flags(base, config)
    if not candidates:
        return None
    name = min(candidates, key=lambda name: len(candidates[name]))
    values = candidates[name]
    if "--seed" in values:
        values["--seed"] = values.pop("--seed")
    flags = [f"{flag} {value}".rstrip() for flag, value in values.items()]
    return " ".join(["python scripts/train.py", name, *flags])


def _flags(base: Any, target: Any, prefix: str = "--") -> dict[str, str]:
    """Returns flag -> value for each field in which two sections differ."""
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
