"""What a model says of pictures."""

from __future__ import annotations

import keras
import numpy as np
import numpy.typing as npt
import scipy.special
import tensorflow as tf


def predict_logits(
    classifier: keras.Model, batches: tf.data.Dataset
) -> npt.NDArray[np.float32]:
    """Returns the logits [num_images, num_classes], in the order of the batches.

    Args:
        classifier: A model from what is in the batches to logits.
        batches: Those of `pipeline.evaluation_batches`.
    """
    return np.asarray(classifier.predict(batches, verbose=0), np.float32)


def predict_probabilities(
    classifier: keras.Model, batches: tf.data.Dataset
) -> npt.NDArray[np.float32]:
    """Returns the softmax of `predict_logits`."""
    logits = predict_logits(classifier, batches)
    return np.asarray(scipy.special.softmax(logits, axis=1), np.float32)
