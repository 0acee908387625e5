"""What a model says of pictures."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf


def predict_logits(
    classifier: keras.Model, batches: tf.data.Dataset
) -> npt.NDArray[np.float32]:
    """Returns the logits [num_images, num_classes], in the order of the batches.

    Args:
        classifier: A model from what is in the batches to logits.
        batches: Those of `pipeline.evaluation_batches`.
    """
    if keras.distribution.distribution() is None:
        logits = classifier.predict(batches, verbose=0)
    else:
        logits = _predict_here(classifier, batches)
    return np.asarray(logits, np.float32)


def predict_probabilities(
    classifier: keras.Model, batches: tf.data.Dataset
) -> npt.NDArray[np.float32]:
    """Returns the softmax of `predict_logits`."""
    logits = predict_logits(classifier, batches)
    return np.asarray(keras.ops.softmax(logits, axis=-1), np.float32)


def _predict_here(
    classifier: keras.Model, batches: tf.data.Dataset
) -> npt.NDArray[np.float32]:
    """Returns the logits, on one device of this process.

    Under a distribution of Keras (JAX) `predict` would ask for batches that its devices
    can share equally, and return what lies on other machines.
    """
    weights = [
        [np.asarray(variable) for variable in variables]
        for variables in (
            classifier.trainable_variables,
            classifier.non_trainable_variables,
        )
    ]
    predict = _compiled(classifier)
    return np.concatenate(
        [np.asarray(predict(*weights, batch)) for batch in batches.as_numpy_iterator()]
    )


@functools.lru_cache(maxsize=1)
def _compiled(classifier: keras.Model) -> Callable[..., Any]:
    """Returns the compiled function from weights and pictures to logits."""
    import jax

    def predict(trainable: Any, other: Any, images: Any) -> Any:
        return classifier.stateless_call(trainable, other, images, training=False)[0]

    return jax.jit(predict)
