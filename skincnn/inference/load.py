"""Loading the model of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import keras

from skincnn.errors import ConfigError, DataError, require_packages
from skincnn.files import sha256
from skincnn.inference.run_dir import (
    MODEL_FILE,
    RESTORE,
    RUN_FILE,
    RunInfo,
    read_run_config,
)
from skincnn.parts import import_module, is_custom, warn_of_changes


def load_model(workdir: Path, info: RunInfo) -> keras.Model:
    """Returns the model of a run after checking the SHA-256 of its file.

    Keras's safe mode is on, so code in the file, such as a Lambda layer, is never executed.
    If Keras does not know a layer class, the module of the custom backbone is imported,
    with a warning if it has changed since training.

    Raises:
        ConfigError: The file is missing; the model requires KerasHub, which is not
            installed, or the module of a custom backbone, which cannot be imported; or
            config.json, which names this module, is missing or damaged.
        DataError: The file was modified or cannot be loaded, or the model does not have one
            output for each class.
        OSError: The file exists, but is not readable.
    """
    path = workdir / MODEL_FILE
    if not path.is_file():
        raise ConfigError(f"{path} is missing. Expected the directory of a single run.")
    expected, actual = info.sha256.get(MODEL_FILE), sha256(path)
    if actual != expected:
        raise DataError(
            f"{path} was modified after training. Expected SHA-256 {expected}. Received: "
            f"{actual}. Restore the file, or train again with --overwrite."
        )
    try:
        model = _load(workdir, info)
    except (OSError, TypeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        if "keras_hub" in str(error):
            require_packages(["keras_hub"], str(path), "hub")
        raise DataError(
            f"{path} cannot be loaded. Expected a model from `skincnn train`, without "
            "Lambda layers or other code in the file, and the package versions in "
            f"{RUN_FILE}. Received: {error}"
        ) from error
    if model.output_shape[-1] != len(info.class_names):
        raise DataError(
            f"{workdir / RUN_FILE} was modified after training: it has the classes "
            f"{', '.join(info.class_names)}. Expected one class for each of the "
            f"{model.output_shape[-1]} outputs of {path}. {RESTORE}"
        )
    return model


def _load(workdir: Path, info: RunInfo) -> keras.Model:
    path = workdir / MODEL_FILE
    try:
        return keras.saving.load_model(path, compile=False)
    except TypeError:  # a layer class is unknown
        backbone = read_run_config(workdir).model.backbone
        if not is_custom(backbone):
            raise
    module = backbone.partition(":")[0]
    import_module(module, f"{path} has layers of the module {module}")
    warn_of_changes(info.modules, (backbone,), workdir)
    return keras.saving.load_model(path, compile=False)


def require_classes(
    class_names: Sequence[str], info: RunInfo, workdir: Path, where: str, fix: str
) -> None:
    """Checks that a dataset or a file has the same classes as a run, in the same order.

    `where`, the name of the dataset or the file that `class_names` are from, and `fix`, a
    sentence on what to do, are for the error message.

    Raises:
        DataError: The classes or their order differ.
    """
    if list(class_names) != list(info.class_names):
        raise DataError(
            f"{where} has the classes {', '.join(class_names)}. Expected the classes of "
            f"{workdir} in the order of the outputs of the model: "
            f"{', '.join(info.class_names)}. {fix}"
        )
