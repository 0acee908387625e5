"""Grad-CAM: the image regions that increase the logit of a class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image

from skincnn.data import pipeline
from skincnn.errors import ConfigError
from skincnn.inference.predict import predict
from skincnn.model.classifier import IMAGES_LAYER

Maps = npt.NDArray[np.float32]
"""Relevance of each image region to a class, in 0..1."""
COLORMAP = "viridis"
"""Colormap of the maps: perceptually uniform, color-blind safe, not similar to skin."""
MAX_OPACITY = 0.55


class GradCam:
    """Computes Grad-CAM maps for the predictions of a classifier.

    The feature maps are summed with the spatially averaged gradients of a class's logit as
    weights, and negative values are set to 0. Because global average pooling and a dense
    layer follow the feature maps, these weights equal those of the dense layer up to a
    factor, and no gradients are computed. Clinical metadata, and features that are equal at
    all positions (such as the class token of a ViT), contribute to the logit but not to the
    map; feature maps with a single position are used as they are.

    References:
        Selvaraju et al., Grad-CAM (2017), arXiv:1610.02391, section 3; for the weights of
        the dense layer, Zhou et al., Learning Deep Features for Discriminative Localization
        (2016), arXiv:1512.04150.
    """

    def __init__(self, classifier: keras.Model):
        """Builds the model that returns the feature maps.

        Raises:
            ConfigError: The classifier does not end in global average pooling and a dense
                layer, or other layers than Dropout and Concatenate are between them.
        """
        pooling, self._dense = _find_head(classifier)
        self._features = keras.Model(classifier.input, pooling.input, name="feature_maps")

    def __call__(
        self,
        inputs: npt.NDArray[Any] | Mapping[str, npt.NDArray[Any]],
        class_indices: npt.NDArray[np.integer[Any]],
    ) -> Maps:
        """Returns one map for each image, for its class in `class_indices`.

        Args:
            inputs: Images [num_images, height, width, 3] in 0..255, or a dictionary with
                "images" of this shape and "metadata" [num_images, num_columns].
            class_indices: The class to explain for each image, [num_images].

        Returns:
            float32 [num_images, height', width'] in 0..1, at the resolution of the feature
            maps. Each map is divided by its maximum, except a map that is 0 everywhere.
        """
        if isinstance(inputs, Mapping):
            batches = pipeline.evaluation_batches(inputs[IMAGES_LAYER], inputs["metadata"])
        else:
            batches = pipeline.evaluation_batches(inputs)
        [features] = predict(self._features, batches)
        # The first rows of the weights belong to image features, the others to metadata.
        weights = self._dense.get_weights()[0][: features.shape[-1], class_indices]
        if features.shape[1:3] != (1, 1):
            varies = np.ptp(features, axis=(1, 2), keepdims=True) > 0
            features = np.where(varies, features, 0)
        maps = np.maximum(np.einsum("nhwc,cn->nhw", features, weights), 0)
        highest = maps.max(axis=(1, 2), keepdims=True)
        return np.divide(maps, highest, out=np.zeros_like(maps), where=highest > 0)


def overlay(image: npt.NDArray[np.uint8], heatmap: Maps) -> npt.NDArray[np.uint8]:
    """Returns an image with a colored map as overlay, uint8 [height, width, 3].

    The map [height', width'] in 0..1 is resized bilinearly to the size of the image
    [height, width, 3]. The overlay is transparent where the map is 0.
    """
    size = (image.shape[1], image.shape[0])
    small = Image.fromarray(np.asarray(heatmap, np.float32))
    large = np.asarray(small.resize(size, Image.Resampling.BILINEAR))
    colors = 255 * matplotlib.colormaps[COLORMAP](large)[..., :3]
    opacity = MAX_OPACITY * large[..., None]
    blended = (1 - opacity) * image + opacity * colors
    return np.round(blended).astype(np.uint8)


def _find_head(
    classifier: keras.Model,
) -> tuple[keras.layers.GlobalAveragePooling2D, keras.layers.Dense]:
    """Returns the pooling layer of the feature maps and the layer of the logits."""
    dense = layer = _source(getattr(classifier, "output", None))
    path, allowed = [layer], keras.layers.Dense
    while isinstance(layer, allowed):
        inputs = layer.input
        layer = _source(inputs[0] if isinstance(inputs, list) else inputs)
        path.append(layer)
        allowed = keras.layers.Dropout | keras.layers.Concatenate
    if len(path) > 1 and isinstance(layer, keras.layers.GlobalAveragePooling2D):
        return layer, dense
    received = " <- ".join(type(layer).__name__ if layer else "unknown" for layer in path)
    raise ConfigError(
        "Grad-CAM requires a functional model that ends in GlobalAveragePooling2D and "
        "Dense, between which only Dropout and a Concatenate with metadata are allowed. "
        f"Received: {classifier.name} with the layers {received}, from output to input."
    )


def _source(tensor: Any) -> keras.layers.Layer | None:
    """Returns the layer with the given symbolic output, or None for any other value."""
    history = getattr(tensor, "_keras_history", None)
    return None if history is None else history.operation
