"""Ready configurations: name -> function that returns a `Config`."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable
from typing import Any

from skincnn.config import Config
from skincnn.presets import ours, published

PRESETS: dict[str, Callable[[], Config]] = {
    "quickstart": ours.quickstart,
    "mobilenet_160": ours.mobilenet_160,
    "ensemble5_member": ours.ensemble5_member,
    "effnetv2s_384": ours.effnetv2s_384,
    "convnext": ours.convnext,
    "cnn": published.cnn,
    "cnn_tuned": published.cnn_tuned,
    "cnn_augmented": published.cnn_augmented,
    "cnn_balanced": published.cnn_balanced,
    "cnn_transfer": published.cnn_transfer,
    "resnet50_sgd": published.resnet50_sgd,
    "resnet50_sgd_class_weights": published.resnet50_sgd_class_weights,
    "resnet50_sgd_sampler": published.resnet50_sgd_sampler,
    "resnet50_sgd_oversampling": published.resnet50_sgd_oversampling,
    "vgg19_stages": published.vgg19_stages,
    "resnet50_stages": published.resnet50_stages,
    "resnet50_one_image": published.resnet50_one_image,
    "resnet50_adam": published.resnet50_adam,
    "mobilenet_v2_adam": published.mobilenet_v2_adam,
}


def describe_presets() -> str:
    """Returns a line for each preset: its name, and the first line of its docstring."""
    width = max(map(len, PRESETS))
    return "\n".join(
        f"  {name:{width}}  {(preset.__doc__ or '').splitlines()[0]}"
        for name, preset in PRESETS.items()
    )


def to_command(config: Config) -> str | None:
    """Returns the command of scripts/train.py that trains with a configuration.

    It starts from the preset that needs the fewest flags; the seed comes last. None where
    there is none: flags change the stages of a preset, but only a file (--config) gives
    another number of them.
    """
    found: dict[str, dict[str, str]] = {}
    for name, preset in PRESETS.items():
        base = preset()
        if len(base.train.stages) == len(config.train.stages):
            found[name] = _flags(base, config)
    if not found:
        return None
    name = min(found, key=lambda name: len(found[name]))
    seed = found[name].pop("--seed", None)
    flags = [f"{flag} {value}".rstrip() for flag, value in found[name].items()]
    flags += [f"--seed {seed}"] if seed is not None else []
    return " ".join(["python scripts/train.py", name, *flags])


def _flags(base: Any, wanted: Any, prefix: str = "--") -> dict[str, str]:
    """Returns flag to value, of what differs."""
    flags: dict[str, str] = {}
    for field in dataclasses.fields(base):
        old, new = getattr(base, field.name), getattr(wanted, field.name)
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
