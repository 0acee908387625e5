"""Tests custom parts before the first epoch, because they could fail hours later."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from skincnn.clinical_metadata import CLINICAL_FEATURES
from skincnn.errors import ConfigError
from skincnn.metrics.classification import find_metric
from skincnn.metrics.sample import Sample
from skincnn.model.augment import Augmentation
from skincnn.model.reproducibility import seeded
from skincnn.parts import custom_parts, find_custom, is_custom
from skincnn.training.losses import build_loss
from skincnn.training.optimizers import build_optimizer, explained
from skincnn.training.run import save_model
from skincnn.training.setup import TrainingSetup
from skincnn.write_errors import explain_write_errors

TOLERANCE = 1e-3
"""Maximum difference between the logits of a model and those of its saved or exported copy,
as a fraction of the largest absolute logit."""


def rehearse(setup: TrainingSetup) -> None:
    """Tests the custom parts of a training run, except callbacks, before they are used.

    The numbers in the plan of the imbalance strategy are checked, the optimizer of each
    stage takes one step, a custom schedule and a custom loss are computed, custom
    augmentations are applied to one batch, and metrics are computed on resamples. With a
    custom backbone, the untrained model is saved, loaded, exported as a SavedModel (with
    the TensorFlow backend) and used for a prediction; other custom parts are not in the
    saved model. Without custom parts, nothing is tested. The test does not change the
    training run.

    Raises:
        ConfigError: A part fails or returns an invalid result, or the model cannot be
            saved, loaded or exported, or then gives other predictions.
    """
    config = setup.config
    if not custom_parts(config):
        return
    with seeded(config.seed):
        _try_plan(setup)
        _try_losses(setup)
        _try_optimizers(setup)
        _try_augmentation(setup)
        _try_metrics(setup)
        if is_custom(config.model.backbone):
            _try_saving(setup)


def _try_plan(setup: TrainingSetup) -> None:
    name, plan = setup.config.imbalance.strategy, setup.plan
    for field in ("class_weights", "sampling_weights", "epoch_counts", "logit_shift"):
        values = getattr(plan, field)
        shape = setup.class_counts.shape
        if values is not None and (
            np.shape(values) != shape or not np.isfinite(values).all()
        ):
            raise ConfigError(
                f"`imbalance.strategy` {name}: `{field}` must have one finite number for "
                f"each of the {shape[0]} classes. Received: {values}."
            )


def _try_losses(setup: TrainingSetup) -> None:
    config, num_classes = setup.config, len(setup.class_names)
    name = config.loss.name or setup.plan.loss
    labels = np.arange(num_classes)
    is_soft = config.augment.mix != "none" or setup.soft_labels is not None
    y_true = np.eye(num_classes, dtype=np.float32) if is_soft else labels
    logits = np.zeros((num_classes, num_classes), np.float32)
    for reweighted in (False, True):
        loss = build_loss(setup.plan, config.loss, reweighted=reweighted)
        if not is_custom(name):
            continue
        part = find_custom(name, "`loss.name`")
        shapes = f"labels of shape {y_true.shape} and logits of shape {logits.shape}"
        with part.explained(f"for {shapes}"):
            value = np.asarray(loss(ops.convert_to_tensor(y_true), logits))
        if value.shape != () or not np.isfinite(value):
            part.fail(
                "must return one finite number for a batch, even if all logits are 0. "
                f"Received: {value}."
            )


def _try_optimizers(setup: TrainingSetup) -> None:
    optimizer_config = setup.config.optimizer
    for stage in setup.stages:
        steps = setup.steps_per_epoch * stage.epochs
        warmup = round(setup.steps_per_epoch * stage.warmup_epochs)
        config = dataclasses.replace(
            optimizer_config, layer_decay=1.0, ema_momentum=stage.ema_momentum
        )
        optimizer = build_optimizer(config, stage.learning_rate, steps, warmup)
        with explained(optimizer_config.name):
            weight = keras.Variable(np.ones(2, np.float32))
            optimizer.build([weight])
            optimizer.apply([ops.ones(2)])
        if not is_custom(optimizer_config.schedule):
            continue
        part = find_custom(optimizer_config.schedule, "`optimizer.schedule`")
        with part.explained():
            schedule: Any = optimizer._learning_rate
            rates = [float(schedule(ops.cast(s, "int32"))) for s in (0, steps // 2, steps)]
        if not all(np.isfinite(rate) and rate >= 0 for rate in rates):
            part.fail(
                f"must return finite learning rates >= 0 for steps 0..{steps}. Received: "
                f"{rates} for the first, the middle and the last step."
            )


def _try_augmentation(setup: TrainingSetup) -> None:
    config = setup.config
    if any(map(is_custom, config.augment.parts)) and config.augment.magnitude > 0:
        size = config.data.image_size
        images = np.full((2, size, size, 3), 128, np.float32)
        augmented = np.asarray(Augmentation(config.augment, config.seed).augment(images))
        if not np.isfinite(augmented).all():
            raise ConfigError(
                "`augment.parts` must return finite images. Received: NaN or infinity, "
                f"with {', '.join(filter(is_custom, config.augment.parts))}."
            )


def _try_metrics(setup: TrainingSetup) -> None:
    num_classes = len(setup.class_names)
    labels = np.arange(2 * num_classes) % num_classes
    y_prob = np.random.default_rng(0).dirichlet(np.ones(num_classes), len(labels))
    for weights in (np.ones(len(labels)), np.ones((3, len(labels)))):
        sample = Sample(labels, y_prob, weights)
        find_metric(setup.config.train.monitor)(sample)
        for name in setup.config.evaluate.metrics:
            find_metric(name, "`evaluate.metrics`")(sample)


def _try_saving(setup: TrainingSetup) -> None:
    """Saves, loads and, with the TensorFlow backend, exports the untrained model."""
    config, size = setup.config, setup.config.data.image_size
    pixels = np.random.default_rng(0).uniform(0, 255, (1, size, size, 3))
    inputs: Any = ops.convert_to_tensor(pixels, "float32")
    if config.model.clinical_metadata:
        inputs = {"images": inputs, "metadata": ops.zeros((1, len(CLINICAL_FEATURES)))}
    part = find_custom(config.model.backbone, "`model.backbone`")

    def require_same(expected: Any, model: Callable[[Any], Any], what: str) -> None:
        logits = np.asarray([expected, model(inputs)], np.float32)
        if not np.ptp(logits, axis=0).max() <= TOLERANCE * np.abs(logits).max():
            part.fail(
                f"must give the same predictions after the model was {what}. Check "
                f"get_config() of its layers. Expected logits: {logits[0]}. Received: "
                f"{logits[1]}."
            )

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        saving = "when the untrained model was saved"
        with part.explained(saving), explain_write_errors(folder):
            save_model(config, setup.classifier, path)
        with part.explained("when the untrained model was loaded again"):
            model = keras.saving.load_model(path, compile=False)
            logits = model(inputs)
        if setup.devices.precision == "float32":
            require_same(setup.classifier(inputs), model, "saved and loaded")
        if keras.backend.backend() == "tensorflow":
            path = Path(folder) / "export"
            exporting = "when the untrained model was exported as a SavedModel"
            with part.explained(exporting), explain_write_errors(folder):
                model.export(path, verbose=False)
                exported = tf.saved_model.load(str(path))
            require_same(logits, exported.serve, "exported as a SavedModel")
