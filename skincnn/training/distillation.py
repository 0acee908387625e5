"""Distillation: training on the labels and on the predictions of other models, the teacher.

The teacher predicts each training image once, without augmentation. Beyer et al. predict
each augmented view instead, which takes a forward pass of the teacher in each step.

References:
    Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network (2015),
    arXiv:1503.02531.
    Beyer et al., Knowledge distillation: A good teacher is patient and consistent (2021),
    arXiv:2106.05237.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd
from keras import ops

from skincnn.clinical_metadata import encode_clinical_metadata
from skincnn.config import Config, DistillationConfig
from skincnn.data import pipeline
from skincnn.data.cache import Cache
from skincnn.data.combined import CombinedDataset
from skincnn.data.leakage import count_shared
from skincnn.data.splits import make_splits
from skincnn.errors import ConfigError, DataError
from skincnn.inference.load import load_model, require_classes
from skincnn.inference.predict import predict_probabilities
from skincnn.inference.run_dir import (
    MODEL_FILE,
    RunInfo,
    Teacher,
    find_members,
    read_run,
)
from skincnn.metrics.sample import Flags, Floats
from skincnn.paths import to_path


@dataclass(frozen=True, eq=False)
class SoftLabels:
    """The predictions of a teacher for the training images.

    Attributes:
        probabilities: float32 [num_images, num_classes], in the order of the training
            images.
        teacher: The models of the teacher.
    """

    probabilities: npt.NDArray[np.float32]
    teacher: Teacher


def predict_teacher(
    config: Config,
    tables: Mapping[str, pd.DataFrame],
    dataset: CombinedDataset,
    cache: Cache,
) -> SoftLabels | None:
    """Returns the predictions of `distillation.teacher`; None if there is no teacher.

    Args:
        config: Configuration of the model to train.
        tables: Tables of the splits "train", "val" and "test" of this model.
        dataset: The dataset that contains the images of these tables.
        cache: See `skincnn.data.cache.cached_images`.

    Raises:
        ConfigError: A directory contains no finished run, or a model of the teacher was
            trained with other datasets or label maps, was trained on validation or test
            images, was validated on test images, was trained or validated on folds that are
            neither training nor validation folds of `config`, or was distilled itself; see
            also `find_members`, `read_run`, `make_splits`, `load_images` and `load_model`.
        DataError: The classes or the training images of a model are not those of `dataset`,
            a model file has changed or is damaged, or clinical metadata are invalid; see
            also `make_splits` and `load_images`.
        OSError: See `make_splits` and `load_model`.
    """
    models, predictions, seen = {}, [], []
    for name in config.distillation.teacher:
        for run in find_members(to_path(name)):
            info, teacher_config = read_run(run)
            train = _read_training_table(run, info, teacher_config, config, dataset)
            _check_leakage(run, train, teacher_config, config, tables, dataset)
            _check_folds(run, info, teacher_config, config)
            models[str(run)] = info.sha256[MODEL_FILE]
            images = pipeline.load_images(
                dataset, tables["train"], teacher_config.data, cache
            )
            metadata = None
            if teacher_config.model.clinical_metadata:
                metadata = encode_clinical_metadata(tables["train"])
            batches = pipeline.evaluation_batches(images, metadata)
            predictions.append(predict_probabilities(load_model(run, info), batches))
            seen.append(tables["train"]["group_id"].isin(train["group_id"]).to_numpy())
    if not models:
        return None
    probabilities, out_of_fold = average_unseen(predictions, seen)
    return SoftLabels(probabilities, Teacher(models=models, out_of_fold=out_of_fold))


def average_unseen(
    predictions: Sequence[Floats], seen: Sequence[Flags]
) -> tuple[npt.NDArray[np.float32], bool]:
    """Returns the mean predictions of several models, and whether they are out-of-fold.

    If there is, for every image, a model that was not trained on the group of the image,
    the predictions for an image are averaged over such models only (out-of-fold).
    Otherwise, they are averaged over all models.

    Args:
        predictions: Probabilities of each model, [num_images, num_classes].
        seen: For each model, whether it was trained on the group of the image,
            [num_images].

    Returns:
        The mean predictions, float32 [num_images, num_classes], and whether they are
        out-of-fold.
    """
    weights = ~np.stack(seen)
    out_of_fold = bool(weights.any(axis=0).all())
    if not out_of_fold:
        weights = np.ones_like(weights)
    sums = np.einsum("mi,mic->ic", weights.astype(np.float64), np.stack(predictions))
    return (sums / weights.sum(axis=0)[:, None]).astype(np.float32), out_of_fold


def make_targets(
    labels: npt.NDArray[np.int64], soft_labels: SoftLabels, config: DistillationConfig
) -> npt.NDArray[np.float32]:
    """Returns the targets of `DistillationLoss`, float32 [num_images, 2 * num_classes].

    They are the one-hot labels, followed by the probabilities of the teacher at the
    temperature T, which are proportional to probabilities ** (1 / T).
    """
    probabilities = soft_labels.probabilities.astype(np.float64)
    powers = probabilities ** (1 / config.temperature)
    softened = powers / powers.sum(axis=1, keepdims=True)
    one_hot = np.eye(probabilities.shape[1])[labels]
    return np.concatenate([one_hot, softened], axis=1).astype(np.float32)


class DistillationLoss(keras.losses.Loss):
    """Adds the cross-entropy with the teacher's probabilities to a loss for the labels.

    With the loss l(y, z) for labels y and logits z, the teacher's probabilities q at the
    temperature T, and the weight w:

        loss = (1 - w) * l(y, z) - w * T ** 2 * sum over c of q[c] * log softmax(z / T)[c]

    Hinton et al., section 2: the factor T ** 2 keeps the gradients of both parts in
    proportion when T changes. Class weights apply to the labels only.
    """

    def __init__(self, loss: keras.losses.Loss, config: DistillationConfig):
        super().__init__(name="loss", reduction="sum_over_batch_size", dtype="float32")
        self.loss = loss
        self.weight = config.weight
        self.temperature = config.temperature

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Returns the loss of each image, [batch].

        `y_true` is from `make_targets`, [batch, 2 * num_classes]; the logits `y_pred` are
        [batch, num_classes].
        """
        num_classes = y_pred.shape[-1]
        labels, softened = y_true[:, :num_classes], y_true[:, num_classes:]
        logits = ops.cast(y_pred, "float32") / self.temperature
        log_prob = ops.log_softmax(logits, axis=-1)
        from_teacher = -ops.sum(ops.cast(softened, "float32") * log_prob, axis=-1)
        scaled = self.weight * self.temperature**2 * from_teacher
        return (1 - self.weight) * self.loss.call(labels, y_pred) + scaled


def _read_training_table(
    run: Path,
    info: RunInfo,
    teacher_config: Config,
    config: Config,
    dataset: CombinedDataset,
) -> pd.DataFrame:
    """Returns the table of the training images of a model of the teacher.

    Raises:
        ConfigError: The datasets or label maps of the model are not those of `config`.
        DataError: The classes or the training images of the model are not those of
            `dataset`.
    """
    received, expected = (
        " ".join((*data.datasets, *data.label_maps))
        for data in (teacher_config.data, config.data)
    )
    if received != expected:
        raise ConfigError(
            f"`distillation.teacher`: {run} was trained with the datasets and label maps "
            f"{received}. Expected those of this run, {expected}, because only then can "
            "leakage from the teacher be detected."
        )
    fix = f"Use the --data-dir with which {run} was trained, or another teacher."
    require_classes(dataset.class_names, info, run, dataset.full_name, fix)
    table = make_splits(dataset, teacher_config.data, ("train",))["train"]
    if pipeline.fingerprint(table) != info.data_fingerprint["train"]:
        raise DataError(
            f"The training images of {run}, as read from {dataset.full_name}, are not "
            f"those on which it was trained. {fix}"
        )
    return table


def _check_folds(run: Path, info: RunInfo, teacher_config: Config, config: Config) -> None:
    """Checks that the teacher has seen only training or validation folds of this run.

    Otherwise, a later evaluation on another fold would not detect the leakage. The folds
    that influenced a distilled teacher are not known.

    Raises:
        ConfigError: The teacher was trained or validated on other folds, or was distilled.
    """
    if info.teacher is not None:
        raise ConfigError(
            f"`distillation.teacher`: {run} was itself trained with a teacher, which may "
            "have seen other images. Use a teacher that was trained without distillation."
        )
    seen = {*teacher_config.data.train_folds, *teacher_config.data.validation_folds}
    own = {*config.data.train_folds, *config.data.validation_folds}
    if not seen <= own:
        raise ConfigError(
            f"`distillation.teacher`: {run} was trained or validated on the folds "
            f"{sorted(seen - own)}, which are neither training nor validation folds of "
            "this run. Use a teacher whose training and validation folds are among those "
            "of this run."
        )


def _check_leakage(
    run: Path,
    train: pd.DataFrame,
    teacher_config: Config,
    config: Config,
    tables: Mapping[str, pd.DataFrame],
    dataset: CombinedDataset,
) -> None:
    """Checks that the teacher has not seen images on which the scores depend.

    Raises:
        ConfigError: The teacher was trained on validation or test images, or validated on
            test images.
    """
    validation = make_splits(dataset, teacher_config.data, ("val",))["val"]
    held_out = pd.concat([tables["val"], tables["test"]])
    for seen, split, verb in (
        (train, held_out, "trained on the validation or test images"),
        # The epoch of the teacher may be chosen on the same images as that of the student.
        (validation, tables["test"], "validated on the test images"),
    ):
        shared = count_shared(seen, split)
        by_image = config.data.split_by == "image"
        count = shared.num_shared_images if by_image else shared.num_leaky_images
        if count:
            raise ConfigError(
                f"`distillation.teacher`: {run} was {verb} of this run, or on images of "
                f"the same lesions or groups ({count} images). The scores would be too "
                "high. Use a teacher with the same --data.train-folds, "
                "--data.validation-folds and --data.test-folds, or with folds within the "
                "training folds."
            )
