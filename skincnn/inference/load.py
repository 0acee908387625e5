"""Loading the model of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import keras

from skincnn.errors import DataError
from skincnn.files import sha256
from skincnn.inference.run_dir import MODEL_FILE, RUN_FILE, TRAIN_AGAIN, RunInfo


def load_model(workdir: Path, info: RunInfo) -> keras.Model:
    """Returns the model of a run after checking the SHA-256 of its file.

    Keras's safe mode is on, so code in the file (a Lambda layer) is never executed.

    Raises:
        DataError: The file has changed or cannot be loaded, or the model does not have one
            output for each class.
    """
    path = workdir / MODEL_FILE
    expected = info.sha256.get(MODEL_FILE)
    if sha256(path) != expected:
        raise DataError(
            f"{path} has changed since it was written. Expected the SHA-256 {expected}. "
            f"{TRAIN_AGAIN}"
        )
    try:
        model = keras.saving.load_model(path, compile=False)
    except (OSError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} cannot be loaded. Expected a model from scripts/train.py, without "
            f"Lambda layers or other custom code. Received: {error}"
        ) from error
    if model.output_shape[-1] != len(info.class_names):
        raise DataError(
            f"{path} has {model.output_shape[-1]} outputs. Expected one for each class of "
            f"{RUN_FILE}: {', '.join(info.class_names)}."
        )
    return model


def require_classes(
    class_names: Sequence[str], info: RunInfo, workdir: Path, where: str
) -> None:
    """Checks that a dataset or a file has the same classes as a run, in the same order.

    Args:
        class_names: Class names of the dataset or the file.
        info: Content of run.json.
        workdir: The run directory, for the error message.
        where: Name of the dataset or the file, for the error message.

    Raises:
        DataError: The classes differ.
    """
    if list(class_names) != list(info.class_names):
        raise DataError(
            f"{where} has the classes {', '.join(class_names)}. Expected the classes of "
            f"{workdir} in the order of the outputs of the model: "
            f"{', '.join(info.class_names)}."
        )
