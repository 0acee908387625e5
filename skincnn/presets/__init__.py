"""Ready configurations: name -> function that returns a `Config`."""

from __future__ import annotations

from collections.abc import Callable

from skincnn.config import Config
from skincnn.presets import ours, published

PRESETS: dict[str, Callable[[], Config]] = {
    "quickstart": ours.quickstart,
    "cpu": ours.cpu,
    "gpu": ours.gpu,
    "best": ours.best,
    "cnn": published.cnn,
    "cnn_tuned": published.cnn_tuned,
    "cnn_augmented": published.cnn_augmented,
    "cnn_balanced": published.cnn_balanced,
    "cnn_transfer": published.cnn_transfer,
    "resnet50_folders_1": published.resnet50_folders_1,
    "resnet50_folders_2": published.resnet50_folders_2,
    "resnet50_folders_3": published.resnet50_folders_3,
    "resnet50_folders_4": published.resnet50_folders_4,
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
