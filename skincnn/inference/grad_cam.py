"""Where in a picture a classifier sees a class: Grad-CAM, and maps drawn over pictures."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import keras
import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image

from skincnn.data import pipeline
from skincnn.errors import ConfigError
from skincnn.inference.predict import predict_logits
from skincnn.model.classifier import IMAGES_LAYER

Maps = npt.NDArray[np.float32]
"""How much each place speaks for a class: [num_images, height, width] in 0..1."""
COLORS = "viridis"
"""Perceptually uniform and color-blind safe, and its greens are those of no skin."""
MAX_OPACITY = 0.55


def grad_cam(
    classifier: keras.Model,
    inputs: npt.NDArray[Any] | Mapping[str, npt.NDArray[Any]],
    class_indices: npt.NDArray[np.integer[Any]],
) -> Maps:
    """Returns where the classifier sees a class in each picture.

    The gradient of a class's logit with respect to the feature maps, averaged over their
    area, weighs their sum, of which what is negative is left out: Selvaraju et al.,
    Grad-CAM (2017), section 3. Where the maps are averaged and a dense layer follows, these
    weights are those of the layer but for a factor: Zhou et al., CAM (2016). So no gradient
    is taken. What is known of the patient adds to the logit and not to the map.

    Args:
        classifier: A model of `build_classifier`, or any whose inputs are named as there,
            and that ends in a global average of feature maps and a dense layer.
        inputs: What it takes: pictures [num_images, height, width, 3] in 0..255, or a
            dictionary of such "images" and of "metadata" [num_images, num_fields].
        class_indices: The class that is looked for in each picture, [num_images].

    Returns:
        float32 [num_images, height', width'] in 0..1, as small as the feature maps, each
        divided by its maximum; all 0 where nothing speaks for the class.

    Raises:
        ConfigError: The classifier does not end so.
    """
    pooling, dense = _head(classifier)
    if isinstance(inputs, Mapping):
        batches = pipeline.evaluation_batches(inputs[IMAGES_LAYER], inputs["metadata"])
    else:
        batches = pipeline.evaluation_batches(inputs)
    features = predict_logits(_features(classifier, pooling), batches)
    # With metadata the features of the picture come first.
    columns = dense.get_weights()[0][: features.shape[-1], class_indices]
    maps = np.maximum(np.einsum("nhwc,cn->nhw", features, columns), 0)
    highest = maps.max(axis=(1, 2), keepdims=True)
    return np.divide(maps, highest, out=np.zeros_like(maps), where=highest > 0)


def overlay(image: npt.NDArray[np.uint8], heat: Maps) -> npt.NDArray[np.uint8]:
    """Returns a picture under a map: as it is where the map is 0, colored where it is 1.

    Args:
        image: uint8 [height, width, 3].
        heat: [height', width'] in 0..1, which is enlarged bilinearly.

    Returns:
        uint8 [height, width, 3].
    """
    size = (image.shape[1], image.shape[0])
    small = Image.fromarray(np.asarray(heat, np.float32))
    large = np.asarray(small.resize(size, Image.Resampling.BILINEAR))
    colors = 255 * matplotlib.colormaps[COLORS](large)[..., :3]
    opacity = MAX_OPACITY * large[..., None]
    blended = (1 - opacity) * image + opacity * colors
    return np.round(blended).astype(np.uint8)


@functools.lru_cache(maxsize=1)
def _features(
    classifier: keras.Model, pooling: keras.layers.GlobalAveragePooling2D
) -> keras.Model:
    """Returns the model from the classifier's inputs to its feature maps.

    Kept, because Keras traces a model anew that is made anew.
    """
    return keras.Model(classifier.input, pooling.input, name="feature_maps")


def _head(
    classifier: keras.Model,
) -> tuple[keras.layers.GlobalAveragePooling2D, keras.layers.Dense]:
    """Returns the layers that average the feature maps and that make the logits.

    Raises:
        ConfigError: There is more between them than dropout and metadata.
    """
    dense = layer = _source(getattr(classifier, "output", None))
    passed, may_pass = [layer], keras.layers.Dense
    while isinstance(layer, may_pass):
        before = layer.input
        layer = _source(before[0] if isinstance(before, list) else before)
        passed.append(layer)
        may_pass = keras.layers.Dropout | keras.layers.Concatenate
    if len(passed) > 1 and isinstance(layer, keras.layers.GlobalAveragePooling2D):
        return layer, dense
    received = " <- ".join(type(layer).__name__ if layer else "unknown" for layer in passed)
    raise ConfigError(
        "Grad-CAM needs a functional model that ends in GlobalAveragePooling2D and Dense, "
        "with at most Dropout and a Concatenate of metadata after the features between "
        f"them. Received: {classifier.name}, which from its end is {received}."
    )


def _source(tensor: Any) -> keras.layers.Layer | None:
    """Returns the layer whose output a symbolic tensor is."""
    history = getattr(tensor, "_keras_history", None)
    return None if history is None else history.operation
