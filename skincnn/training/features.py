"""Cached features of a frozen backbone, for training only the head.

The features are computed before the first epoch of a stage, and again if the image size
changes, so that an epoch takes little time. The head is trained on a few fixed orientations
of each image instead of augmented images.
"""

from __future__ import annotations

import functools

import keras
import numpy as np
import numpy.typing as npt

from skincnn.data import pipeline
from skincnn.data.cache import Images, empty_array
from skincnn.model.classifier import IMAGES_LAYER, POOLING_LAYER
from skincnn.model.orientations import orient
from skincnn.progress import ProgressBar

Features = npt.NDArray[np.float32]
"""Pooled backbone features, [num_rows, num_features]."""
MAX_STEPS_PER_EXECUTION = 32


def compute_features(
    classifier: keras.Model, images: Images, num_views: int = 1
) -> Features:
    """Returns the pooled backbone features of `num_views` orientations of each image.

    The backbone runs in inference mode, even if it is trainable. For MobileNetV2, with
    1,280 features, each view of 10,000 images takes 51 MB.

    Args:
        classifier: A model from `skincnn.model.classifier.build_classifier`.
        images: uint8 [num_images, size, size, 3] in 0..255.
        num_views: Number of orientations of each image: 1, 2, 4 or 8.

    Returns:
        float32 [num_images * num_views, num_features]; the views of an image are
        consecutive rows.
    """
    pooled = classifier.get_layer(POOLING_LAYER).output
    extractor = keras.Model(classifier.get_layer(IMAGES_LAYER).output, pooled)
    shape = (len(images), num_views, pooled.shape[-1])
    features = empty_array(shape, np.float32)
    batches = pipeline.evaluation_batches(images)
    with ProgressBar(
        total=num_views * int(batches.cardinality()),
        desc=f"Computing features ({features.nbytes / 2**20:.0f} MiB)",
        unit="batch",
    ) as bar:
        update = keras.callbacks.LambdaCallback(
            on_predict_batch_end=lambda batch, logs=None: bar.update()
        )
        for view in range(num_views):
            oriented = batches.map(functools.partial(orient, number=view)).prefetch(2)
            features[:, view] = extractor.predict(oriented, verbose=0, callbacks=[update])
    return features.reshape(-1, shape[-1])


def build_head(classifier: keras.Model) -> keras.Model:
    """Returns the head of a classifier as a model that shares the classifier's layers.

    The inputs are those of the classifier, with features [batch, num_features] in place of
    the images. The outputs are logits [batch, num_classes].
    """
    pooled = classifier.get_layer(POOLING_LAYER).output
    if not isinstance(classifier.input, dict):
        return keras.Model(pooled, classifier.output, name="head")
    others = {name: x for name, x in classifier.input.items() if name != IMAGES_LAYER}
    layers = keras.Model([pooled, *others.values()], classifier.output)
    # Keras requires the keys of the dictionary to be the names of the inputs.
    features = keras.Input(pooled.shape[1:], name=IMAGES_LAYER, dtype=pooled.dtype)
    inputs = {IMAGES_LAYER: features, **others}
    return keras.Model(inputs, layers([features, *others.values()]), name="head")


def steps_per_execution(steps: int) -> int:
    """Returns the largest divisor of `steps` that is at most `MAX_STEPS_PER_EXECUTION`.

    Starting a step takes longer than computing a step, because the head is small. Several
    steps per execution therefore save time. The number must divide the steps of an epoch,
    because Keras cannot end an epoch within an execution.
    """
    largest = min(steps, MAX_STEPS_PER_EXECUTION)
    return max(number for number in range(1, largest + 1) if steps % number == 0)
