"""The SavedModel: picture files in, named answers out, by TensorFlow alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from skincnn.config import DataConfig
from skincnn.data.preprocess import preprocess
from skincnn.data.preprocessing_spec import preprocessing_fields
from skincnn.model.orientations import orient
from skincnn.serving.clinical_metadata import SIGNATURE as PATIENT_INPUTS
from skincnn.serving.clinical_metadata import encode
from skincnn.serving.images import READ, UNREADABLE, read_images
from skincnn.serving.network import Network, are_told
from skincnn.serving.postprocessing import DecisionRule, answer

Answers = dict[str, tf.Tensor]
BYTES_SIGNATURE = "serving_default"
IMAGES_SIGNATURE = "images"


def write_saved_model(
    networks: Sequence[Network],
    orientations: Sequence[int],
    rules: DecisionRule,
    path: Path,
) -> None:
    """Writes a SavedModel with the signatures `serving_default` and `images`.

    Args:
        networks: One, or those of an ensemble.
        orientations: From `ORIENTATIONS`. The distance is that of the first, the identity.
        rules: What is made of the answers.
        path: The folder to write to.
    """

    def from_bytes(image_bytes: tf.Tensor, *patients: tf.Tensor) -> Answers:
        def read(config: DataConfig) -> tuple[tf.Tensor, tf.Tensor]:
            return read_images(image_bytes, config)

        return _ask(networks, orientations, rules, read, patients)

    def from_images(images: tf.Tensor, *patients: tf.Tensor) -> Answers:
        def read(config: DataConfig) -> tuple[tf.Tensor, tf.Tensor]:
            size = (config.image_size, config.image_size, 3)
            prepared = tf.map_fn(
                lambda image: preprocess(image, config),
                images,
                fn_output_signature=tf.TensorSpec(size, tf.uint8),
            )
            return prepared, tf.ones(tf.shape(images)[:1], tf.bool)

        return _ask(networks, orientations, rules, read, patients)

    patients = PATIENT_INPUTS if are_told(networks) else ()
    archive = keras.export.ExportArchive()
    for network in networks:
        archive.track(network.model)
    archive.add_endpoint(
        BYTES_SIGNATURE,
        from_bytes,
        input_signature=[tf.TensorSpec((None,), tf.string, name="image_bytes"), *patients],
    )
    archive.add_endpoint(
        IMAGES_SIGNATURE,
        from_images,
        input_signature=[
            tf.TensorSpec((None, None, None, 3), tf.uint8, name="images"),
            *patients,
        ],
    )
    archive.write_out(str(path), verbose=False)


def _ask(
    networks: Sequence[Network],
    orientations: Sequence[int],
    rules: DecisionRule,
    read: Callable[[DataConfig], tuple[tf.Tensor, tf.Tensor]],
    patients: Sequence[tf.Tensor],
) -> Answers:
    """Returns the answers of all networks together, each about all orientations."""
    metadata = encode(*patients) if patients else None
    seen: dict[str, Any] = {}
    logits, distances = [], []
    for network in networks:
        data = network.config.data
        key = str(preprocessing_fields(data))
        if key not in seen:  # what several networks look at is read once
            seen[key] = read(data)
        images, is_read = seen[key]
        for number in orientations:
            inputs: Any = orient(tf.cast(images, tf.float32), number)
            if network.config.model.clinical_metadata:
                inputs = {"images": inputs, "metadata": metadata}
            # `training=False`: a bare call would run dropout.
            outputs = network.model(inputs, training=False)
            logits.append(outputs["logits"])
            if number == 0:
                distances.append(outputs["distance"])
    status = tf.where(is_read, READ, UNREADABLE)
    return {**answer(logits, distances, is_read, rules), "status": status}
