"""The most confident errors of a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_runs import make_mistakes
from run_dirs import make_tables, predict_lesions, write_run
from scipy.special import softmax
from test_grad_cam import find_squares

from skincnn.clinical_metadata import CLINICAL_FEATURES
from skincnn.config import ModelConfig
from skincnn.errors import DataError
from skincnn.evaluation.evaluate import Evaluation, write_evaluation
from skincnn.evaluation.mistakes import (
    COLUMNS,
    Mistakes,
    collect_mistakes,
    find_mistakes,
    mistakes_path,
)
from skincnn.inference.grad_cam import GradCam
from skincnn.inference.ood import FeatureGaussian
from skincnn.metrics.calibration import CalibrationMap
from skincnn.model.classifier import build_classifier

NAMES = ["bcc", "bkl", "mel", "nv"]
BENIGN = ("bkl", "nv")
CALIBRATION_MAP = CalibrationMap(temperature=1.7, bias=(1.5, -0.5, -2.0, 1.0))


def make_logits(seed: int, num_images: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, num_images)
    return labels, rng.normal(0, 2, (num_images, 4)).astype(np.float32)


def keep(num_classes: int) -> CalibrationMap:
    """Returns a map that changes no probability."""
    return CalibrationMap(temperature=1.0, bias=(0.0,) * num_classes)


def calibrate(logits: np.ndarray) -> np.ndarray:
    return softmax(logits / 1.7 + np.array(CALIBRATION_MAP.bias), axis=1)


def find_positions(labels: np.ndarray, logits: np.ndarray, count: int) -> list[int]:
    """Returns the positions of the errors by a simple loop over all images."""
    y_prob, predicted = calibrate(logits), logits.argmax(axis=1)
    order = sorted(range(len(labels)), key=lambda n: -y_prob[n, predicted[n]])
    positions: list[int] = []

    def add(n: int, limit: int) -> None:
        new_lesion = all(n // 2 != other // 2 for other in positions)
        if logits[n].argmax() != labels[n] and new_lesion and len(positions) < limit:
            positions.append(n)

    for n in order:
        if NAMES[labels[n]] == "mel" and NAMES[logits[n].argmax()] in BENIGN:
            add(n, count // 2)
    for n in order:
        add(n, count)
    return positions


@pytest.mark.parametrize("count", [1, 5, 12, 1000])
@pytest.mark.parametrize("seed", range(3))
def test_mistakes_match_a_simple_loop(seed: int, count: int) -> None:
    labels, logits = make_logits(seed, 80)
    table = predict_lesions(labels, logits, NAMES)
    mistakes = find_mistakes(table.set_index(table.index[::-1]), CALIBRATION_MAP, count)
    assert list(mistakes) == ["position", *COLUMNS]
    assert mistakes["position"].tolist() == find_positions(labels, logits, count)
    y_prob = calibrate(logits)
    for row in mistakes.itertuples():
        n = row.position
        assert row.image_id == f"i{n}"
        assert row.label == NAMES[labels[n]]
        assert row.predicted == NAMES[logits[n].argmax()]
        assert row.confidence == pytest.approx(y_prob[n, logits[n].argmax()], rel=1e-4)
        assert row.probability_of_label == pytest.approx(y_prob[n, labels[n]], rel=1e-4)
        assert row.is_missed == (row.label not in BENIGN and row.predicted in BENIGN)
    # Where lesions are not known, there is one image of each group.
    unknown = table.assign(lesion_id="")
    assert find_mistakes(unknown, CALIBRATION_MAP, count).equals(
        find_mistakes(table, CALIBRATION_MAP, count)
    )


def test_few_missed_melanomas_leave_their_rows_to_other_errors() -> None:
    labels = np.array([2, 3, 3, 3, 0, 1])
    logits = np.zeros((6, 4), np.float32)
    logits[np.arange(6), [3, 1, 2, 3, 3, 1]] = [1, 2, 3, 9, 4, 9]
    table = predict_lesions(labels, logits, NAMES, per_lesion=1)
    mistakes = find_mistakes(table, keep(4), 6)
    # The melanoma comes first despite its low confidence, then all others by confidence.
    assert mistakes["position"].tolist() == [0, 4, 2, 1]


@pytest.mark.parametrize(
    ("names", "first"), [(["benign", "malignant"], [2, 0]), (["cat", "dog"], [1, 2])]
)
def test_without_melanoma_missed_malignant_lesions_come_first(
    names: list[str], first: list[int]
) -> None:
    labels = np.array([0, 0, 1])
    logits = np.array([[0, 2], [0, 4], [3, 0]], np.float32)
    if names[0] == "benign":
        logits[0, 1], logits[1, 1] = 4, -4
    mistakes = find_mistakes(predict_lesions(labels, logits, names, 1), keep(2), 2)
    assert mistakes["position"].tolist() == first


def test_a_perfect_model_has_no_mistakes() -> None:
    table = predict_lesions(np.arange(4), 5 * np.eye(4), NAMES)
    assert find_mistakes(table, keep(4), 12).empty
    images = np.zeros((4, 8, 8, 3), np.uint8)
    assert collect_mistakes(GradCam(find_squares()), images, None, table, keep(4)) is None


def test_the_maps_are_of_the_predicted_class() -> None:
    names = ["red", "blue", "neither"]
    images = np.zeros((5, 32, 32, 3), np.uint8)
    for n in range(5):
        images[n, 4 * n : 4 * n + 4, 8:12, 0] = 200
        images[n, 20:24, 4 * n : 4 * n + 4, 2] = 100
    model = find_squares()
    predicted = np.array([0, 1, 1, 0, 2])
    labels = np.array([0, 0, 0, 1, 2])
    logits = np.eye(3, dtype=np.float32)[predicted] * np.array([[1, 2, 3, 4, 5]]).T
    table = predict_lesions(labels, logits, names, per_lesion=1)
    mistakes = collect_mistakes(GradCam(model), images, None, table, keep(3), count=2)
    assert mistakes is not None
    assert mistakes.table["label"].tolist() == ["blue", "red"]
    assert mistakes.table["predicted"].tolist() == ["red", "blue"]
    confidences = [1 / (1 + 2 * np.exp(-logit)) for logit in (4, 3)]
    np.testing.assert_allclose(mistakes.table["confidence"], confidences, rtol=1e-5)
    np.testing.assert_array_equal(mistakes.images, images[[3, 2]])
    maps = GradCam(model)(images, predicted)[[3, 2]]
    assert maps.max(axis=(1, 2)).tolist() == [1, 1]
    np.testing.assert_array_equal(mistakes.maps, maps)


def test_memory_mapped_images_and_clinical_metadata_are_supported(
    tmp_path: Path, uncompiled: None
) -> None:
    labels, logits = make_logits(0, 20)
    images = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    stored = np.load(tmp_path / "images.npy", mmap_mode="r")
    metadata = np.zeros((20, len(CLINICAL_FEATURES)), np.float32)
    config = ModelConfig(
        backbone="small_cnn", weights="none", width_multiplier=0.25, clinical_metadata=True
    )
    model = build_classifier(config, 4)
    table = predict_lesions(labels, logits, NAMES)
    mistakes = collect_mistakes(GradCam(model), stored, metadata, table, CALIBRATION_MAP, 4)
    assert mistakes is not None
    positions = find_positions(labels, logits, 4)
    np.testing.assert_array_equal(mistakes.images, images[positions])
    assert mistakes.maps.shape[0] == 4


def test_mistakes_equal_what_was_written(tmp_path: Path) -> None:
    mistakes, path = make_mistakes(), mistakes_path(tmp_path, "test")
    mistakes.write(path)
    assert path == tmp_path / "results/test.mistakes.npz"
    assert [file.name for file in path.parent.iterdir()] == ["test.mistakes.npz"]
    copy = Mistakes.read(path)
    pd.testing.assert_frame_equal(copy.table, mistakes.table)
    np.testing.assert_array_equal(copy.images, mistakes.images)
    np.testing.assert_array_equal(copy.maps, mistakes.maps)
    assert (copy.images.dtype, copy.maps.dtype) == (np.uint8, np.float32)
    first = path.read_bytes()
    mistakes.write(path)
    assert path.read_bytes() == first


@pytest.mark.parametrize("fault", ["missing", "empty", "cut", "changed", "other"])
def test_a_damaged_file_is_rejected_in_one_line(fault: str, tmp_path: Path) -> None:
    path = tmp_path / "test.mistakes.npz"
    make_mistakes().write(path)
    if fault == "missing":
        path.unlink()
    elif fault == "empty":
        path.write_bytes(b"")
    elif fault == "cut":
        path.write_bytes(path.read_bytes()[:500])
    elif fault == "changed":
        content = path.read_bytes()
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes(100) + content[middle + 100 :])
    else:
        np.savez(path, images=np.zeros(3))
    problem = "cannot be read: No such" if fault == "missing" else r"not a valid \.npz"
    with pytest.raises(DataError, match=rf"{problem}.*skincnn evaluate") as error:
        Mistakes.read(path)
    assert "\n" not in str(error.value)


def test_earlier_mistakes_are_removed_if_a_split_has_no_errors(tmp_path: Path) -> None:
    workdir = write_run(tmp_path, make_tables(0.8))
    path = mistakes_path(workdir, "test")
    make_mistakes().write(path)
    evaluation = Evaluation(
        "test", {}, FeatureGaussian(()), make_tables(1.0), results={}, mistakes={}
    )
    write_evaluation(workdir, evaluation)
    assert not path.exists()
