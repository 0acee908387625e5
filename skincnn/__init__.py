"""Training, evaluation and serving of skin-lesion classifiers.

    import skincnn

    config = skincnn.preset("quickstart").replace(**{"train.epochs": 3})
    run = skincnn.train(config, "runs/a")       # -> Run
    result = run.evaluate(tta="augment")        # scores with confidence intervals
    run.report(open=True)                       # report.html
    table = skincnn.load("runs/a").predict(["lesion.jpg"])

The names below are imported when they are first used, because TensorFlow takes seconds to
import.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from skincnn import errors
from skincnn import preconditions as preconditions  # observes forks from now on

if TYPE_CHECKING:
    from skincnn import metrics
    from skincnn.api.compare import Comparison, compare
    from skincnn.api.data import Data, Split, build_model, load_data, show_batch
    from skincnn.api.model import Model
    from skincnn.api.run import Run, load
    from skincnn.api.training import train
    from skincnn.config import Config
    from skincnn.presets import preset

__version__ = "1.0.0"
__all__ = [
    "Comparison",
    "Config",
    "Data",
    "Model",
    "Run",
    "Split",
    "build_model",
    "compare",
    "load",
    "load_data",
    "metrics",
    "preset",
    "show_batch",
    "train",
]
_MODULES = {
    "skincnn.api.compare": ("Comparison", "compare"),
    "skincnn.api.data": ("Data", "Split", "build_model", "load_data", "show_batch"),
    "skincnn.api.model": ("Model",),
    "skincnn.api.run": ("Run", "load"),
    "skincnn.api.training": ("train",),
    "skincnn.config": ("Config",),
    "skincnn.presets": ("preset",),
}


def __getattr__(name: str) -> object:
    for module, names in _MODULES.items():
        if name in names:
            globals()[name] = getattr(_import(module), name)
            return globals()[name]
    if name == "metrics":
        return _import("skincnn.metrics")
    raise AttributeError(f"module 'skincnn' has no attribute {name!r}")


def _import(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except Exception as error:  # a package can raise any exception while it is imported
        if hasattr(error, "exit_code") or not (text := errors.describe_import_error(error)):
            raise
        raise errors.ConfigError(text) from error


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
