"""Predictions of a Keras model on batches of images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from skincnn.model.classifier import BACKBONE_LAYER, block_maps


def with_features(classifier: keras.Model) -> keras.Model:
    """Returns the classifier with the features of each block as further outputs.

    The outputs are the logits and, for each of `block_maps`, the means of its channels over
    all positions, float32 [num_images, num_channels]. Reuse the returned model: the first
    prediction of each new model is slow, because Keras traces its graph.
    """
    network = classifier.get_layer(BACKBONE_LAYER)
    blocks = keras.Model(network.input, block_maps(network), name=BACKBONE_LAYER)
    features: list[Any] = []

    def call(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
        if layer is not network:
            return layer(*args, **kwargs)
        maps = blocks(*args, **kwargs)
        for number, block_map in enumerate(maps):
            pool = keras.layers.GlobalAveragePooling2D(
                dtype="float32", name=f"block_means_{number}"
            )
            features.append(pool(block_map))
        return maps[-1]

    logits = keras.models.clone_model(
        classifier,
        input_tensors=classifier.input,
        clone_function=lambda layer: layer,
        call_function=call,
    ).output
    return keras.Model(classifier.input, [logits, *features])


def predict(model: keras.Model, batches: tf.data.Dataset) -> list[npt.NDArray[np.float32]]:
    """Returns each output of a model, [num_images, ...], in the order of the batches.

    The batches have the format of `skincnn.data.pipeline.evaluation_batches`.
    """
    if keras.distribution.distribution() is None:
        outputs = model.predict(batches, verbose=0)
        outputs = outputs if isinstance(outputs, list) else [outputs]
    else:
        outputs = _predict_locally(model, batches)
    return [np.asarray(output, np.float32) for output in outputs]


def predict_probabilities(
    classifier: keras.Model, batches: tf.data.Dataset
) -> npt.NDArray[np.float32]:
    """Returns the softmax of the logits, [num_images, num_classes]; see `predict`."""
    logits = predict(classifier, batches)[0]
    return np.asarray(keras.ops.softmax(logits, axis=-1), np.float32)


def _predict_locally(model: keras.Model, batches: tf.data.Dataset) -> list[Any]:
    """Returns each output, computed on one device of this process.

    With a Keras distribution (JAX), `model.predict` requires batches that divide evenly
    among the devices, and returns arrays that are partly on other machines.
    """
    weights = [
        [np.asarray(variable) for variable in variables]
        for variables in (model.trainable_variables, model.non_trainable_variables)
    ]
    function = _local_predict_function(model)
    parts = [function(*weights, batch) for batch in batches.as_numpy_iterator()]
    return [
        np.concatenate([np.asarray(part) for part in output])
        for output in zip(*parts, strict=True)
    ]


def _local_predict_function(model: keras.Model) -> Callable[..., Any]:
    """Returns a compiled function that maps weights and inputs to a list of outputs.

    The function is created once per model and stored as an attribute of the model, like
    `predict_function` of Keras. It is compiled once for each shape of the inputs.
    """
    if not hasattr(model, "local_predict_function"):
        import jax

        def function(*arguments: Any) -> Any:
            outputs, _ = model.stateless_call(*arguments, training=False)
            return outputs if isinstance(outputs, list) else [outputs]

        model.local_predict_function = jax.jit(function)
    return model.local_predict_function
