"""Writes and loads SavedModels, which predict image files and require only TensorFlow."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy.typing as npt
import pandas as pd
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from skincnn.clinical_metadata import (
    CLINICAL_FEATURES,
    REGION_OF,
    REGIONS,
    SEX_NAMES,
    UNKNOWN,
    VOCABULARIES,
)
from skincnn.config import DataConfig
from skincnn.data.preprocess import preprocess
from skincnn.data.preprocessing_spec import preprocessing_fields
from skincnn.errors import DataError
from skincnn.metrics.decision_rule import DecisionRule
from skincnn.paths import plain_path
from skincnn.serving.export_info import EXPORT_AGAIN
from skincnn.serving.images import read_images
from skincnn.serving.network import (
    LOGITS,
    OOD_DISTANCE,
    Network,
    use_clinical_metadata,
)
from skincnn.serving.postprocessing import postprocess
from tfds_ham10000.records import MAX_AGE

Predictions = dict[str, npt.NDArray[Any]]
"""The outputs of `postprocess` as NumPy arrays."""
Predict = Callable[[Sequence[bytes], pd.DataFrame], Predictions]
"""Maps file contents and their `CLINICAL_COLUMNS`, one row per file, to predictions."""
METADATA_SIGNATURE = (
    tf.TensorSpec((None,), tf.float32, name="age"),
    tf.TensorSpec((None,), tf.string, name="sex"),
    tf.TensorSpec((None,), tf.string, name="localization"),
)
"""Clinical metadata inputs of a SavedModel, one for each of `CLINICAL_COLUMNS`."""
BYTES_SIGNATURE = "serving_default"
IMAGES_SIGNATURE = "images"
WARMUP_FILE = "tf_serving_warmup_requests"
WARMUP_BATCH_SIZES = (1, 8)
"""Batch sizes of the warm-up requests. TensorFlow optimizes the graph for each shape."""


def write_saved_model(networks: Sequence[Network], rule: DecisionRule, path: Path) -> None:
    """Writes a SavedModel with the signatures `serving_default` and `images`.

    `serving_default` takes the contents of image files, string [batch], and decodes the
    formats that `serving.images` describes. `images` takes decoded images, uint8 [batch,
    height, width, 3] in 0..255. If a network requires clinical metadata, both also take the
    inputs in `METADATA_SIGNATURE`. Both return the outputs of `postprocess`, averaged over
    the networks.
    """

    def from_bytes(image_bytes: tf.Tensor, *metadata: tf.Tensor) -> dict[str, tf.Tensor]:
        read = functools.partial(read_images, image_bytes)
        return _predict(networks, rule, read, metadata)

    def from_images(images: tf.Tensor, *metadata: tf.Tensor) -> dict[str, tf.Tensor]:
        def read(config: DataConfig) -> tuple[tf.Tensor, tf.Tensor]:
            size = (config.image_size, config.image_size, 3)
            preprocessed = tf.map_fn(
                lambda image: preprocess(image, config),
                images,
                fn_output_signature=tf.TensorSpec(size, tf.uint8),
            )
            return preprocessed, tf.ones(tf.shape(images)[:1], tf.bool)

        return _predict(networks, rule, read, metadata)

    metadata = METADATA_SIGNATURE if use_clinical_metadata(networks) else ()
    archive = keras.export.ExportArchive()
    for network in networks:
        archive.track(network.model)
    contents = tf.TensorSpec((None,), tf.string, name="image_bytes")
    archive.add_endpoint(BYTES_SIGNATURE, from_bytes, [contents, *metadata])
    pixels = tf.TensorSpec((None, None, None, 3), tf.uint8, name="images")
    archive.add_endpoint(IMAGES_SIGNATURE, from_images, [pixels, *metadata])
    with plain_path(path.parent) as folder:
        archive.write_out(str(folder / path.name), verbose=False)


def open_saved_model(
    path: Path, class_names: Sequence[str], *, clinical_metadata: bool
) -> Predict:
    """Loads a SavedModel without checking its hashes, and returns its prediction function.

    The returned function raises a `DataError` if the classes of the model are not
    `class_names`, in this order. `clinical_metadata` states whether the model requires
    clinical metadata.
    """
    with plain_path(path) as folder:
        loaded = tf.saved_model.load(str(folder))
    signature = loaded.signatures[BYTES_SIGNATURE]

    def predict(contents: Sequence[bytes], metadata: pd.DataFrame) -> Predictions:
        inputs = {"image_bytes": tf.constant(list(contents), tf.string)}
        for spec in METADATA_SIGNATURE if clinical_metadata else ():
            inputs[spec.name] = tf.constant(metadata[spec.name], spec.dtype)
        outputs = {name: value.numpy() for name, value in signature(**inputs).items()}
        names = decode_strings(outputs["class_names"][0]) if contents else class_names
        if list(names) != list(class_names):
            raise DataError(
                f"{path} has the classes {', '.join(names)}. Expected those of its "
                f"metadata.json: {', '.join(class_names)}. {EXPORT_AGAIN}"
            )
        return outputs

    # A signature does not keep its model alive.
    predict.model = loaded  # type: ignore[attr-defined]
    return predict


def encode_in_graph(age: tf.Tensor, sex: tf.Tensor, localization: tf.Tensor) -> tf.Tensor:
    """Encodes clinical metadata as `skincnn.clinical_metadata` does, but with TensorFlow.

    Args:
        age: Age in years, float32 [batch]; NaN if unknown.
        sex: A key of `VOCABULARIES["sex"]`, string [batch]; "" if unknown.
        localization: A key of `VOCABULARIES["localization"]`, string [batch]; "" if
            unknown.

    Returns:
        The `CLINICAL_FEATURES`, float32 [batch, len(CLINICAL_FEATURES)].

    Raises:
        tf.errors.InvalidArgumentError: An age in the batch is not in 0..`MAX_AGE`, or a
            sex or localization is not one of these words.
    """
    is_unknown = tf.math.is_nan(age)
    age = tf.where(is_unknown, 0.0, age)
    is_valid = (age >= 0) & (age <= MAX_AGE)
    tf.debugging.Assert(
        tf.reduce_all(is_valid),
        [
            f"age must be a number of years in 0..{MAX_AGE}, or NaN. Received:",
            tf.boolean_mask(age, ~is_valid),
        ],
    )
    centuries = tf.cast(tf.cast(age, tf.float64) / 100, tf.float32)
    sexes, regions = (*SEX_NAMES, UNKNOWN), (*REGIONS, UNKNOWN)
    sex_indices = {word: sexes.index(sex) for word, sex in VOCABULARIES["sex"].items()}
    site_indices = {
        word: regions.index(REGION_OF.get(site, UNKNOWN))
        for word, site in VOCABULARIES["localization"].items()
    }
    encoded = tf.concat(
        [
            centuries[:, None],
            tf.cast(is_unknown, tf.float32)[:, None],
            tf.one_hot(_look_up("sex", sex, sex_indices), len(sexes)),
            tf.one_hot(_look_up("localization", localization, site_indices), len(regions)),
        ],
        axis=1,
    )
    return tf.ensure_shape(encoded, (None, len(CLINICAL_FEATURES)))


def decode_strings(values: npt.NDArray[Any]) -> list[str]:
    """Decodes the string output of a model, given as an array of `bytes` objects."""
    return [value.decode() for value in values.tolist()]


def write_warmup(saved_model: Path, name: str, *, clinical_metadata: bool) -> None:
    """Writes warm-up requests to assets.extra/tf_serving_warmup_requests of a SavedModel.

    The requests contain a gray image, because images of the dataset must not be
    distributed. `name` is the name of the model on the server.

    References:
        TensorFlow Serving, SavedModel Warmup; prediction_log.proto defines the messages.
    """
    gray = tf.fill((64, 64, 3), tf.constant(128, tf.uint8))
    content = tf.io.encode_jpeg(gray).numpy()
    folder = saved_model / "assets.extra"
    folder.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(folder / WARMUP_FILE)) as writer:
        for size in WARMUP_BATCH_SIZES:
            inputs = {"image_bytes": tf.constant([content] * size)}
            if clinical_metadata:
                inputs["age"] = tf.fill((size,), math.nan)
                inputs["sex"] = inputs["localization"] = tf.fill((size,), UNKNOWN)
            request = predict_pb2.PredictRequest(
                inputs={key: tf.make_tensor_proto(value) for key, value in inputs.items()}
            )
            request.model_spec.name = name
            request.model_spec.signature_name = BYTES_SIGNATURE
            log = prediction_log_pb2.PredictionLog(
                predict_log=prediction_log_pb2.PredictLog(request=request)
            )
            writer.write(log.SerializeToString())


def _predict(
    networks: Sequence[Network],
    rule: DecisionRule,
    read: Callable[[DataConfig], tuple[tf.Tensor, tf.Tensor]],
    clinical_metadata: Sequence[tf.Tensor],
) -> dict[str, tf.Tensor]:
    """Returns the outputs of `postprocess`, averaged over networks."""
    metadata = encode_in_graph(*clinical_metadata) if clinical_metadata else None
    preprocessed: dict[str, Any] = {}
    logits, distances = [], []
    for network in networks:
        data = network.config.data
        key = str(preprocessing_fields(data))
        if key not in preprocessed:  # computed once for networks with equal preprocessing
            preprocessed[key] = read(data)
        images, is_readable = preprocessed[key]
        inputs: Any = tf.cast(images, tf.float32)
        if network.config.model.clinical_metadata:
            inputs = {"images": inputs, "metadata": metadata}
        # Without `training=False`, the exported model would apply dropout.
        outputs = network.model(inputs, training=False)
        logits.append(outputs[LOGITS])
        if OOD_DISTANCE in outputs:
            distances.append(outputs[OOD_DISTANCE])
    return postprocess(logits, distances, is_readable, rule)


def _look_up(name: str, words: tf.Tensor, indices: Mapping[str, int]) -> tf.Tensor:
    """Returns the index in `indices` for each of the `words`, int32 [batch]."""
    words = tf.strings.regex_replace(words, r"[\s_]+", " ")
    words = tf.strings.lower(tf.strings.strip(words), encoding="utf-8")
    # A tf.lookup table would be a resource that the SavedModel has to track.
    matches = words[:, None] == tf.constant(list(indices))
    invalid = tf.boolean_mask(words, ~tf.reduce_any(matches, axis=1))
    tf.debugging.Assert(
        tf.equal(tf.size(invalid), 0),
        [f"{name} must be one of {', '.join(filter(None, indices))}. Received:", invalid],
    )
    rows = tf.argmax(matches, axis=1, output_type=tf.int32)
    return tf.gather(tf.constant(list(indices.values())), rows)
