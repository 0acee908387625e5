"""Trains the head on cached features of a frozen backbone.

The backbone runs once, so that an epoch costs almost nothing. Instead of randomly augmented
images, the head sees a few fixed orientations of each image.
"""

from __future__ import annotations

import functools

import keras
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from skincnn.data import pipeline
from skincnn.data.cache import Images, empty_array
from skincnn.model.classifier import IMAGES_LAYER, POOLING_LAYER
from skincnn.model.orientations import orient

Features = npt.NDArray[np.float32]
"""Pooled backbone features, [num_rows, num_features]."""
MAX_STEPS_PER_EXECUTION = 32


def compute_features(
    classifier: keras.Model, images: Images, num_views: int = 1
) -> Features:
    """Returns the pooled backbone features of some orientations of each image.

    The backbone runs in inference mode, whichever layers are trainable. With the 1,280
    features of MobileNetV2, each view of 10,000 images takes 51 MB.

    Args:
        classifier: A model of `build_classifier`.
        images: uint8 [num_images, size, size, 3] in 0..255.
        num_views: Number of orientations of `orient`: 1, 2, 4 or 8.

    Returns:
        float32 [num_images * num_views, num_features]; the views of an image are
        consecutive rows.
    """
    pooled = classifier.get_layer(POOLING_LAYER).output
    extractor = keras.Model(classifier.get_layer(IMAGES_LAYER).output, pooled)
    shape = (len(images), num_views, pooled.shape[-1])
    features = empty_array(shape, np.float32)
    batches = pipeline.evaluation_batches(images)
    with tqdm(
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
    """Returns the classifier without its backbone; the layers are shared.

    It takes features [batch, num_features] instead of images, and the classifier's other
    inputs. It returns the logits.
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
    """Returns `steps_per_execution` for the head: the largest divisor of `steps` up to 32.

    Starting a step of such a small model takes longer than the step itself. Keras does not
    end an epoch within an execution, hence the divisor.

    Args:
        steps: Steps of an epoch, at least 1.
    """
    largest = min(steps, MAX_STEPS_PER_EXECUTION)
    return max(number for number in range(1, largest + 1) if steps % number == 0)
