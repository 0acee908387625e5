"""Writes and loads SavedModels, which predict image files and require only TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy.typing as npt
import pandas as pd
import tensorflow as tf

from skincnn.clinical_metadata import CLINICAL_FEATURES, encode_clinical_metadata
from skincnn.data.preprocessing_spec import preprocessing_fields
from skincnn.errors import DataError
from skincnn.metrics.decision_rule import DecisionRule
from skincnn.paths import plain_path
from skincnn.serving.export_info import EXPORT_AGAIN
from skincnn.serving.images import read_images
from skincnn.serving.network import LOGITS, OOD_DISTANCE, Network, use_clinical_metadata
from skincnn.serving.postprocessing import postprocess

Predictions = dict[str, npt.NDArray[Any]]
"""The outputs of `postprocess` as NumPy arrays."""
Predict = Callable[[Sequence[bytes], pd.DataFrame], Predictions]
"""Maps file contents and their `CLINICAL_COLUMNS`, one row per file, to predictions."""
METADATA = tf.TensorSpec((None, len(CLINICAL_FEATURES)), tf.float32, name="metadata")
"""The input for clinical metadata, from `encode_clinical_metadata`."""
SIGNATURE = "serving_default"


def write_saved_model(networks: Sequence[Network], rule: DecisionRule, path: Path) -> None:
    """Writes a SavedModel with the signature `serving_default`.

    It takes the contents of image files, string [batch], in the formats that
    `serving.images` describes, and, if a network requires clinical metadata, the input
    `METADATA`. It returns the outputs of `postprocess`, averaged over the networks.

    Raises:
        OSError, tf.errors.OpError: The SavedModel cannot be written.
    """

    def predict(image_bytes: tf.Tensor, *metadata: tf.Tensor) -> dict[str, tf.Tensor]:
        preprocessed: dict[str, Any] = {}
        logits, distances = [], []
        for network in networks:
            data = network.config.data
            key = str(preprocessing_fields(data))
            if key not in preprocessed:  # once for networks with equal preprocessing
                preprocessed[key] = read_images(image_bytes, data)
            images, is_readable = preprocessed[key]
            inputs = {"images": tf.cast(images, tf.float32)}
            if network.config.model.clinical_metadata:
                inputs["metadata"] = metadata[0]
            # Without `training=False`, the exported model would apply dropout.
            outputs = network.model(inputs, training=False)
            logits.append(outputs[LOGITS])
            if OOD_DISTANCE in outputs:
                distances.append(outputs[OOD_DISTANCE])
        return postprocess(logits, distances, is_readable, rule)

    metadata = [METADATA] if use_clinical_metadata(networks) else []
    archive = keras.export.ExportArchive()
    for network in networks:
        archive.track(network.model)
    contents = tf.TensorSpec((None,), tf.string, name="image_bytes")
    archive.add_endpoint(SIGNATURE, predict, [contents, *metadata])
    with plain_path(path.parent) as folder:
        archive.write_out(str(folder / path.name), verbose=False)


def open_saved_model(path: Path, class_names: Sequence[str]) -> Predict:
    """Loads a SavedModel without checking its hashes, and returns its prediction function.

    The returned function raises a `DataError` if the classes of the model are not
    `class_names`, in this order.
    """
    with plain_path(path) as folder:
        loaded = tf.saved_model.load(str(folder))
    signature = loaded.signatures[SIGNATURE]

    def predict(contents: Sequence[bytes], metadata: pd.DataFrame) -> Predictions:
        inputs = {"image_bytes": tf.constant(list(contents), tf.string)}
        if METADATA.name in signature.structured_input_signature[1]:
            inputs[METADATA.name] = tf.constant(encode_clinical_metadata(metadata))
        outputs = {name: value.numpy() for name, value in signature(**inputs).items()}
        names = [name.decode() for row in outputs["class_names"][:1] for name in row]
        if contents and names != list(class_names):
            raise DataError(
                f"{path} has the classes {', '.join(names)}. Expected those of its "
                f"metadata.json: {', '.join(class_names)}. {EXPORT_AGAIN}"
            )
        return outputs

    # A signature does not keep its model alive.
    predict.model = loaded  # type: ignore[attr-defined]
    return predict
