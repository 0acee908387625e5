"""Training on the predictions of a teacher."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
from scipy.special import log_softmax, softmax
from setups import make_setup
from test_resume import CONFIG, assert_same, train_with_interruptions

from skincnn.config import (
    AugmentConfig,
    Config,
    DataConfig,
    DistillationConfig,
    ImbalanceConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from skincnn.data import pipeline
from skincnn.data.combined import open_datasets
from skincnn.data.splits import make_splits
from skincnn.errors import ConfigError, DataError
from skincnn.files import sha256, write_json
from skincnn.inference.run_dir import RUN_FILE, Teacher, read_run_info
from skincnn.training import run
from skincnn.training.distillation import (
    DistillationLoss,
    SoftLabels,
    average_unseen,
    make_targets,
    predict_teacher,
)
from skincnn.training.fitting import fit
from skincnn.training.losses import WeightedCrossEntropy

RNG = np.random.default_rng(0)
LABELS = np.array([0, 2, 1, 2])
Y_PROB = RNG.dirichlet(np.ones(3), 4)
SOFT = SoftLabels(Y_PROB.astype(np.float32), Teacher(models={"a": "0"}, out_of_fold=False))
WEIGHTS = np.array([1.0, 3.0, 0.5])


@pytest.mark.parametrize(("weight", "temperature"), [(0.0, 2.0), (0.3, 1.0), (0.5, 4.0)])
def test_the_loss_is_that_of_hinton(weight: float, temperature: float) -> None:
    config = DistillationConfig(weight=weight, temperature=temperature)
    targets = make_targets(LABELS, SOFT, config)
    logits = RNG.normal(0, 3, (4, 3)).astype(np.float32)
    loss = DistillationLoss(WeightedCrossEntropy(WEIGHTS), config)(targets, logits)
    of_labels = -log_softmax(logits, axis=1)[range(4), LABELS] * WEIGHTS[LABELS]
    # The teacher's probabilities at the temperature, from its logits.
    softened = softmax(np.log(Y_PROB) / temperature, axis=1)
    of_teacher = -(softened * log_softmax(logits / temperature, axis=1)).sum(axis=1)
    expected = (1 - weight) * of_labels + weight * temperature**2 * of_teacher
    np.testing.assert_allclose(loss, expected.mean(), rtol=1e-5)


def test_at_a_high_temperature_the_gradient_matches_the_logits() -> None:
    """Hinton et al., section 2.1: as for half the mean squared difference of the logits."""
    teacher = RNG.normal(0, 1, (4, 3))
    teacher -= teacher.mean(axis=1, keepdims=True)
    config = DistillationConfig(weight=1.0, temperature=1000.0)
    soft = SoftLabels(softmax(teacher, axis=1).astype(np.float32), SOFT.teacher)
    targets = make_targets(LABELS, soft, config)
    student = RNG.normal(0, 1, (4, 3))
    student -= student.mean(axis=1, keepdims=True)
    loss = DistillationLoss(WeightedCrossEntropy(WEIGHTS), config)

    def value(logits: np.ndarray) -> float:
        log_prob = log_softmax(logits / config.temperature, axis=1)
        return float(-(config.temperature**2) * (targets[:, 3:] * log_prob).sum())

    direction = RNG.normal(size=(4, 3))
    slope = (value(student + direction) - value(student - direction)) / 2
    expected = ((student - teacher) * direction).sum() / 3
    assert slope == pytest.approx(expected, rel=0.02)
    computed = float(loss(targets, student.astype(np.float32)))
    assert computed == pytest.approx(value(student) / 4, rel=1e-4)


def test_only_models_that_did_not_see_an_image_predict_it() -> None:
    predictions = [RNG.dirichlet(np.ones(3), 3) for _ in range(3)]
    seen = np.array([[True, False, False], [True, True, False], [False, False, True]])
    mean, out_of_fold = average_unseen(predictions, list(seen))
    assert out_of_fold
    for image in range(3):
        parts = [predictions[m][image] for m in range(3) if not seen[m, image]]
        np.testing.assert_allclose(mean[image], np.mean(parts, axis=0), rtol=1e-6)
    # If one image was seen by all models, all images are predicted by all models.
    seen[2, 0] = True
    mean, out_of_fold = average_unseen(predictions, list(seen))
    assert not out_of_fold
    np.testing.assert_allclose(mean, np.mean(predictions, axis=0), rtol=1e-6)


@pytest.mark.parametrize("mix", ["none", "mixup"])
def test_training_reproduces_the_teacher(mix: str, tmp_path: Path) -> None:
    """With weight 1, only the teacher matters: it contradicts the labels here."""
    config = Config(
        data=DataConfig(image_size=32, batch_size=6),
        augment=AugmentConfig(parts=(), mix=mix),  # type: ignore[arg-type]
        model=ModelConfig(
            backbone="small_cnn", width_multiplier=0.25, weights="none", dropout=0.0
        ),
        optimizer=OptimizerConfig(learning_rate=0.02, warmup_epochs=0),
        imbalance=ImbalanceConfig(strategy="none"),
        train=TrainConfig(scenario="from_scratch", epochs=15),
        distillation=DistillationConfig(teacher=("a",), weight=1.0, temperature=1.0),
    )
    setup = make_setup(config, 3, 12, 6)
    constant = np.tile(np.float32([[0.7, 0.2, 0.1]]), (12, 1))
    setup = dataclasses.replace(setup, soft_labels=SoftLabels(constant, SOFT.teacher))
    fit(setup, tmp_path, verbose=0)
    images = setup.load_images(setup.tables["train"], config.data).astype(np.float32)
    y_prob = softmax(np.asarray(setup.classifier(images, training=True)), axis=1)
    np.testing.assert_allclose(y_prob.mean(axis=0), constant[0], atol=0.12)


@pytest.fixture(scope="module")
def teachers(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs of one epoch, trained on fold 0 and on fold 1."""
    folders = []
    for fold in (0, 1):
        data = dataclasses.replace(CONFIG.data, train_folds=(fold,), image_size=32)
        train = TrainConfig(scenario="from_scratch", epochs=1)
        config = dataclasses.replace(CONFIG, data=data, train=train)
        folders.append(tmp_path_factory.mktemp("teacher"))
        run.train(config, folders[-1], data_dir, cache="memory")
    return folders


def distill(teachers: list[Path], **data: Any) -> Config:
    """Returns a configuration that trains on folds 0 and 1 with a teacher."""
    return dataclasses.replace(
        CONFIG,
        data=dataclasses.replace(CONFIG.data, **data),
        train=TrainConfig(scenario="from_scratch", epochs=2),
        distillation=DistillationConfig(teacher=tuple(map(str, teachers))),
    )


def predict(config: Config, data_dir: Path) -> tuple[SoftLabels, pd.DataFrame]:
    dataset = open_datasets(config.data.datasets, data_dir)
    tables = make_splits(dataset, config.data)
    soft_labels = predict_teacher(config, tables, dataset, "memory")
    assert soft_labels is not None
    return soft_labels, tables["train"]


def test_each_image_is_predicted_by_the_model_that_was_not_trained_on_it(
    teachers: list[Path], data_dir: Path
) -> None:
    soft_labels, table = predict(distill(teachers), data_dir)
    hashes = {str(path): sha256(path / "model.keras") for path in teachers}
    assert soft_labels.teacher == Teacher(models=hashes, out_of_fold=True)
    dataset = open_datasets(["demo_tiny"], data_dir)
    small = dataclasses.replace(CONFIG.data, image_size=32)
    images = pipeline.load_images(dataset, table, small, "memory").astype(np.float32)
    models = [keras.saving.load_model(path / "model.keras") for path in teachers]
    y_prob = [softmax(np.asarray(model(images)), axis=1) for model in models]
    assert not np.allclose(*y_prob, atol=1e-3)
    of_other = np.where((table["fold"] == 0).to_numpy()[:, None], y_prob[1], y_prob[0])
    np.testing.assert_allclose(soft_labels.probabilities, of_other, atol=1e-5)
    alone, _ = predict(distill(teachers[:1]), data_dir)
    assert not alone.teacher.out_of_fold
    np.testing.assert_allclose(alone.probabilities, y_prob[0], atol=1e-5)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"train_folds": (0,), "validation_folds": (1,)}, "neither training nor validat"),
        ({"train_folds": (0,), "test_folds": (1,)}, "trained on the validation or"),
        ({"validation_folds": (7,), "test_folds": (8,)}, "validated on the test images"),
        ({"datasets": ("demo",)}, "trained with the datasets and label maps demo_tiny"),
    ],
)
def test_a_teacher_that_saw_held_out_images_is_rejected(
    data: dict[str, Any], message: str, teachers: list[Path], data_dir: Path
) -> None:
    config = distill(teachers, **data)
    dataset = open_datasets(["demo_tiny"], data_dir)
    splits = dataclasses.replace(config.data, datasets=("demo_tiny",))
    tables = make_splits(dataset, splits)
    with pytest.raises(ConfigError, match=message):
        predict_teacher(config, tables, dataset, "memory")


def test_a_teacher_with_other_classes_is_rejected(
    teachers: list[Path], data_dir: Path, tmp_path: Path
) -> None:
    teacher = shutil.copytree(teachers[0], tmp_path / "teacher")
    content = json.loads((teacher / RUN_FILE).read_text())
    content["class_names"].reverse()
    write_json(teacher / RUN_FILE, content)
    config = distill([teacher])
    dataset = open_datasets(["demo_tiny"], data_dir)
    tables = make_splits(dataset, config.data)
    with pytest.raises(DataError) as caught:
        predict_teacher(config, tables, dataset, "memory")
    names = list(dataset.class_names)
    assert str(caught.value) == (
        f"{dataset.full_name} has the classes {', '.join(names)}. Expected the classes of "
        f"{teacher} in the order of the outputs of the model: {', '.join(names[::-1])}. "
        f"Use the --data-dir with which {teacher} was trained, or another teacher."
    )


@pytest.mark.slow
def test_a_distilled_run_is_resumed_with_the_same_weights(
    teachers: list[Path], data_dir: Path, tmp_path: Path
) -> None:
    config = distill(teachers)
    one, other = (
        train_with_interruptions(config, tmp_path / name, data_dir, stops)
        for name, stops in (("uninterrupted", []), ("resumed", [3]))
    )
    assert_same(one, other)
    teacher = read_run_info(tmp_path / "resumed").teacher
    assert teacher is not None
    assert teacher.out_of_fold
    (path, *_) = (tmp_path / "resumed" / "checkpoints").glob("checkpoint-*.json")
    assert json.loads(path.read_text())["fingerprint"]["teacher"] == [
        *teacher.models.values()
    ]
