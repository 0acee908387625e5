"""Benchmark of training the head on cached features."""

from __future__ import annotations

from collections.abc import Iterator

import keras
import numpy as np

from benchmarks.measure import Result, compare
from skincnn.classes import HAM10000
from skincnn.config import AugmentConfig, DataConfig, ModelConfig
from skincnn.data import pipeline
from skincnn.data.cache import Images
from skincnn.model.classifier import build_classifier, set_trainable
from skincnn.training.features import (
    Features,
    build_head,
    compute_features,
    steps_per_execution,
)
from skincnn.training.fitting import build_augmented

MODEL = ModelConfig(backbone="mobilenet_v2", weights="none")
BATCH_SIZE = DataConfig().batch_size
EPOCH_IMAGES = 8000
"""Images per epoch of the head: about the training folds of HAM10000."""


def cached_views(num_images: int = 256, image_size: int = 224) -> Iterator[Result]:
    """Compares an epoch on cached features with a pass through the frozen backbone.

    Both call `fit` on training batches without augmentation and callbacks.

    Args:
        num_images: Images in the pass, at least one batch; their features are repeated for
            the epoch.
        image_size: Height and width of the images.
    """
    shape = (num_images, image_size, image_size, 3)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, shape, np.uint8)
    labels = rng.integers(0, len(HAM10000), EPOCH_IMAGES)
    classifier = build_classifier(MODEL, len(HAM10000), fused=True)
    set_trainable(classifier, 0)
    computed = compute_features(classifier, images)
    features = np.resize(computed, (EPOCH_IMAGES, computed.shape[1]))
    frozen = build_augmented(AugmentConfig(magnitude=0), classifier, seed=0)
    head = build_head(classifier)

    def fit(model: keras.Model, inputs: Images | Features) -> int:
        batches = pipeline.training_batches(
            inputs, labels[: len(inputs)], BATCH_SIZE, seed=0, epochs=range(1)
        )
        steps = int(batches.cardinality())
        model.fit(batches, steps_per_epoch=steps, shuffle=False, verbose=0)
        return steps * BATCH_SIZE

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    frozen.compile("adam", loss)
    steps = EPOCH_IMAGES // BATCH_SIZE
    head.compile("adam", loss, steps_per_execution=steps_per_execution(steps))
    yield compare(
        f"epoch on cached features / frozen pass ({MODEL.backbone}, {image_size} px)",
        lambda: fit(head, features),
        lambda: fit(frozen, images),
        at_least=100,
    )
