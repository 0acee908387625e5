"""What a model says of pictures."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from skincnn.model.classifier import POOLING_LAYER


def predict_logits(
    classifier: keras.Model, batches: tf.data.Dataset
) -> npt.NDArray[np.float32]:
    """Returns the logits [num_images, num_classes], in the order of the batches.

    Args:
        classifier: A model from what is in the batches to logits.
        batches: Those of `pipeline.evaluation_batches`.
    """
    return _predict(classifier, batches)[0]


def predict_logits_and_features(
    classifier: keras.Model, batches: tf.data.Dataset
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Returns the logits, and what the backbone says: [num_images, num_features].

    Args:
        classifier: A model of `build_classifier`.
        batches: Those of `pipeline.evaluation_batches`.
    """
    logits, features = _predict(_with_features(classifier), batches)
    return logits, features


def predict_probabilities(
    classifier: keras.Model, batches: tf.data.Dataset
) -> npt.NDArray[np.float32]:
    """Returns the softmax of `predict_logits`."""
    logits = predict_logits(classifier, batches)
    return np.asarray(keras.ops.softmax(logits, axis=-1), np.float32)


def _predict(model: keras.Model, batches: tf.data.Dataset) -> list[npt.NDArray[np.float32]]:
    """Returns each output of a model."""
    if keras.distribution.distribution() is None:
        outputs = model.predict(batches, verbose=0)
        outputs = outputs if isinstance(outputs, list) else [outputs]
    else:
        outputs = _predict_here(model, batches)
    return [np.asarray(output, np.float32) for output in outputs]


@functools.lru_cache(maxsize=1)
def _with_features(classifier: keras.Model) -> keras.Model:
    """Returns the classifier with a second output."""
    features = classifier.get_layer(POOLING_LAYER).output
    return keras.Model(classifier.input, [classifier.output, features])


def _predict_here(model: keras.Model, batches: tf.data.Dataset) -> list[Any]:
    """Returns each output, computed on one device of this process.

    Under a distribution of Keras (JAX) `predict` would ask for batches that its devices
    can share equally, and return what lies on other machines.
    """
    weights = [
        [np.asarray(variable) for variable in variables]
        for variables in (model.trainable_variables, model.non_trainable_variables)
    ]
    predict = _compiled(model)
    parts = [predict(*weights, batch) for batch in batches.as_numpy_iterator()]
    return [
        np.concatenate([np.asarray(part) for part in output])
        for output in zip(*parts, strict=True)
    ]


@functools.lru_cache(maxsize=1)
def _compiled(model: keras.Model) -> Callable[..., Any]:
    """Returns the compiled function from weights and pictures to each output."""
    import jax

    def predict(trainable: Any, other: Any, images: Any) -> Any:
        outputs = model.stateless_call(trainable, other, images, training=False)[0]
        return outputs if isinstance(outputs, list) else [outputs]

    return jax.jit(predict)
