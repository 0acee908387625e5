"""Predictions, and the table that everything later is made from."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd
import tensorflow as tf

PROBABILITY_PREFIX = "probability_"


def predict_probabilities(
    classifier: keras.Model, batches: tf.data.Dataset
) -> npt.NDArray[np.float32]:
    """Returns the probabilities [num_images, num_classes], in the order of the batches.

    Args:
        classifier: A model from what is in the batches to logits.
        batches: Those of `pipeline.evaluation_batches`.
    """
    if keras.distribution.distribution() is None:
        logits = classifier.predict(batches, verbose=0)
    else:
        logits = _predict_here(classifier, batches)
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


def predictions_table(
    table: pd.DataFrame,
    probabilities: npt.NDArray[np.float32],
    class_names: Sequence[str],
) -> pd.DataFrame:
    """Returns `table` with the class's name as label and a column per probability.

    Args:
        table: A row for each picture, with its integer `label` (`pipeline.read_table`).
        probabilities: [num_images, num_classes], in the same order.
        class_names: The names of the labels, in order.
    """
    columns = {
        f"{PROBABILITY_PREFIX}{name}": probabilities[:, index]
        for index, name in enumerate(class_names)
    }
    names = table["label"].map(dict(enumerate(class_names)))
    return table.drop(columns="sha256").assign(label=names, **columns)


def read_predictions(path: Path) -> pd.DataFrame:
    """Returns a table that was written as CSV; labels and ids are text, even "0"."""
    text = dict.fromkeys(("image_id", "lesion_id", "group_id", "label"), str)
    return pd.read_csv(path, dtype=text, keep_default_na=False, na_values={"age": ""})


def arrays(
    predictions: pd.DataFrame, class_names: Sequence[str]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Returns integer labels [num_images] and probabilities [num_images, num_classes]."""
    labels = predictions["label"].map({name: i for i, name in enumerate(class_names)})
    columns = [f"{PROBABILITY_PREFIX}{name}" for name in class_names]
    y_true = np.asarray(labels.to_numpy(), np.int64)
    return y_true, np.asarray(predictions[columns].to_numpy(), np.float64)
