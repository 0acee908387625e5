"""Requests that a model server asks itself before it takes those of others."""

from __future__ import annotations

import math
from pathlib import Path

import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from skincnn.clinical_metadata import UNKNOWN
from skincnn.serving.saved_model import BYTES_SIGNATURE

FILE = "tf_serving_warmup_requests"
BATCH_SIZES = (1, 8)
"""Of which there is a request each: a graph is made ready for each shape."""


def write_warmup(saved_model: Path, name: str, *, patients: bool) -> None:
    """Writes assets.extra/tf_serving_warmup_requests into a SavedModel.

    Its picture is gray: none of a dataset's goes with a model.

    Args:
        saved_model: The folder.
        name: What the model is called on the server.
        patients: Whether it is told of them.

    References:
        TensorFlow Serving, SavedModel Warmup; the messages are `prediction_log.proto`.
    """
    grey = tf.fill((64, 64, 3), tf.constant(128, tf.uint8))
    picture = tf.io.encode_jpeg(grey).numpy()
    folder = saved_model / "assets.extra"
    folder.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(folder / FILE)) as writer:
        for size in BATCH_SIZES:
            inputs = {"image_bytes": tf.constant([picture] * size)}
            if patients:
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
