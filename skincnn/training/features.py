"""Training of the head alone on features that a frozen backbone computed once.

An epoch then costs no pass of the backbone. What the head is shown of a picture is one of
a few fixed orientations, and not a picture that is varied anew each time.
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
"""What a backbone sees in pictures, averaged over their area: [number, num_features]."""
MAX_STEPS_PER_CALL = 32


def compute_features(
    classifier: keras.Model, images: Images, orientations: int = 1
) -> Features:
    """Returns what the backbone sees in some orientations of each picture.

    It works as in inference, whatever layers are set to train. The features take 4 bytes
    each: 51 MB an orientation for 10,000 pictures and MobileNetV2's 1,280.

    Args:
        classifier: A model of `build_classifier`.
        images: uint8 [num_images, size, size, 3] in 0..255.
        orientations: How many of those of `orient`: 1, 2, 4 or 8.

    Returns:
        float32 [num_images * orientations, num_features], a picture's one after the other.
    """
    pooled = classifier.get_layer(POOLING_LAYER).output
    extractor = keras.Model(classifier.get_layer(IMAGES_LAYER).output, pooled)
    shape = (len(images), orientations, pooled.shape[-1])
    features = empty_array(shape, np.float32)
    batches = pipeline.evaluation_batches(images)
    with tqdm(
        total=orientations * int(batches.cardinality()),
        desc=f"Computing features ({features.nbytes / 2**20:.0f} MiB)",
        unit="batch",
    ) as progress:
        ticking = keras.callbacks.LambdaCallback(
            on_predict_batch_end=lambda batch, logs=None: progress.update()
        )
        for number in range(orientations):
            turned = batches.map(functools.partial(orient, number=number)).prefetch(2)
            features[:, number] = extractor.predict(turned, verbose=0, callbacks=[ticking])
    return features.reshape(-1, shape[-1])


def build_head(classifier: keras.Model) -> keras.Model:
    """Returns what comes after the backbone, with the very layers of the classifier.

    It is given what the classifier is, but for features [batch, num_features] in the
    place of the pictures, and returns the classifier's logits.
    """
    pooled = classifier.get_layer(POOLING_LAYER).output
    if not isinstance(classifier.input, dict):
        return keras.Model(pooled, classifier.output, name="head")
    others = {name: x for name, x in classifier.input.items() if name != IMAGES_LAYER}
    layers = keras.Model([pooled, *others.values()], classifier.output)
    # Keras wants the names of the dictionary to be those of the inputs.
    features = keras.Input(pooled.shape[1:], name=IMAGES_LAYER, dtype=pooled.dtype)
    inputs = {IMAGES_LAYER: features, **others}
    return keras.Model(inputs, layers([features, *others.values()]), name="head")


def steps_per_call(steps: int) -> int:
    """Returns how many steps of the head TensorFlow takes in one call.

    To call a step of so small a model costs more than the step. Keras does not end an
    epoch in the middle of a call, so it is a divisor: the largest up to 32.

    Args:
        steps: Steps of an epoch, at least 1.
    """
    most = min(steps, MAX_STEPS_PER_CALL)
    return max(number for number in range(1, most + 1) if steps % number == 0)
