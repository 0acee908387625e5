from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy.special import softmax
from test_grad_cam import find_squares

from skincnn.clinical_metadata import CLINICAL_FEATURES
from skincnn.config import ModelConfig
from skincnn.inference.grad_cam import GradCam, overlay
from skincnn.inference.predictions import predictions_table
from skincnn.model.classifier import build_classifier
from skincnn.reporting.mistakes import draw_mistakes, find_mistakes, plot_mistakes
from skincnn.reporting.plots import to_png

NAMES = ["bcc", "bkl", "mel", "nv"]
BENIGN = ("bkl", "nv")
TEMPERATURE = 1.7


def make_logits(seed: int, num_images: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, num_images)
    return labels, rng.normal(0, 2, (num_images, 4)).astype(np.float32)


def make_table(
    labels: np.ndarray, logits: np.ndarray, names: list[str] = NAMES, per_lesion: int = 2
) -> pd.DataFrame:
    """Predictions whose lesions have several pictures, of different labels for once."""
    numbers = np.arange(len(labels))
    rows = pd.DataFrame(
        {
            "image_id": [f"i{n}" for n in numbers],
            "lesion_id": [f"l{n // per_lesion}" for n in numbers],
            "label": labels,
            "sha256": "",
        }
    )
    return predictions_table(rows, logits, names)


def by_hand(labels: np.ndarray, logits: np.ndarray, count: int) -> list[int]:
    """The positions, found one after the other."""
    chances = softmax(logits / TEMPERATURE, axis=1)
    order = sorted(range(len(labels)), key=lambda n: -chances[n].max())
    chosen: list[int] = []

    def choose(n: int, most: int) -> None:
        of_another_lesion = all(n // 2 != other // 2 for other in chosen)
        if logits[n].argmax() != labels[n] and of_another_lesion and len(chosen) < most:
            chosen.append(n)

    for n in order:
        if NAMES[labels[n]] == "mel" and NAMES[logits[n].argmax()] in BENIGN:
            choose(n, count // 2)
    for n in order:
        choose(n, count)
    return chosen


@pytest.mark.parametrize("count", [1, 5, 12, 1000])
@pytest.mark.parametrize("seed", range(3))
def test_mistakes_are_those_found_by_hand(seed: int, count: int) -> None:
    labels, logits = make_logits(seed, 80)
    table = make_table(labels, logits)
    found = find_mistakes(table.set_index(table.index[::-1]), NAMES, TEMPERATURE, count)
    assert found["position"].tolist() == by_hand(labels, logits, count)
    chances = softmax(logits / TEMPERATURE, axis=1)
    for row in found.itertuples():
        n = row.position
        assert row.image_id == f"i{n}"
        assert row.label == NAMES[labels[n]]
        assert row.predicted == NAMES[logits[n].argmax()]
        assert row.confidence == pytest.approx(chances[n].max(), rel=1e-4)
        assert row.probability_of_label == pytest.approx(chances[n, labels[n]], rel=1e-4)


def test_few_missed_melanomas_leave_their_places_to_others() -> None:
    labels = np.array([2, 3, 3, 3, 0, 1])
    logits = np.zeros((6, 4), np.float32)
    logits[np.arange(6), [3, 1, 2, 3, 3, 1]] = [1, 2, 3, 9, 4, 9]
    found = find_mistakes(make_table(labels, logits, per_lesion=1), NAMES, 1.0, 6)
    # The melanoma first, though nothing is less sure; then the others by confidence.
    assert found["position"].tolist() == [0, 4, 2, 1]


@pytest.mark.parametrize(
    ("names", "first"), [(["benign", "malignant"], [2, 0]), (["cat", "dog"], [1, 2])]
)
def test_classes_without_melanoma(names: list[str], first: list[int]) -> None:
    """Where malignancy is known, that comes first."""
    labels = np.array([0, 0, 1])
    logits = np.array([[0, 2], [0, 4], [3, 0]], np.float32)
    if names[0] == "benign":
        logits[0, 1], logits[1, 1] = 4, -4
    found = find_mistakes(make_table(labels, logits, names, 1), names, 1.0, 2)
    assert found["position"].tolist() == first


def test_no_mistake_no_figure() -> None:
    labels = np.arange(4)
    table = make_table(labels, 5 * np.eye(4, dtype=np.float32))
    assert find_mistakes(table, NAMES, 1.0, 12).empty
    images = np.zeros((4, 8, 8, 3), np.uint8)
    assert draw_mistakes(find_squares(), images, None, table, NAMES, 1.0, "t") is None


def captions(figure: Figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.get_axes()[::2]]


def test_a_figure_shows_each_picture_and_its_map() -> None:
    mistakes = pd.DataFrame(
        {
            "position": [3, 1, 0],
            "image_id": ["ISIC_1", r"$\no$", "folder/" * 9 + "last"],
            "label": ["mel", "nv", "bcc"],
            "predicted": ["nv", "mel", "mel"],
            "confidence": [0.97, 0.999, 0.5],
            "probability_of_label": [0.02, 0.0001, 0.4],
        }
    )
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 16, 24, 3), dtype=np.uint8)
    maps = rng.uniform(0, 1, (3, 2, 3)).astype(np.float32)
    figure = plot_mistakes(mistakes, images, maps, "fold 9", ["mel", "bcc"])
    axes = figure.get_axes()
    assert len(axes) == 6
    for number in range(3):
        left, right = (a.images[0].get_array() for a in axes[2 * number :][:2])
        np.testing.assert_array_equal(left, images[number])
        np.testing.assert_array_equal(right, overlay(images[number], maps[number]))
    assert captions(figure) == [
        "mel called nv, 97 % sure",
        "nv called mel, over 99 % sure",
        "bcc called mel, 50 % sure",
    ]
    below = [a.get_xlabel() for a in axes[::2]]
    assert below[:2] == ["ISIC_1  (mel: 2 %)", r"$\no$  (nv: under 1 %)"]
    assert below[2].startswith("...")
    assert below[2].endswith("folder/last  (bcc: 40 %)")
    assert len(below[2]) == 52
    # A malignant one that was called another malignant one was not missed.
    marked = [[text.get_text() for text in a.texts] for a in axes[::2]]
    assert marked == [["MISSED"], [], []]
    framed = [a.spines["top"].get_visible() for a in axes]
    assert framed == [True, True, False, False, False, False]
    assert "fold 9" in figure.get_suptitle()
    assert to_png(figure).startswith(b"\x89PNG")


def test_what_is_drawn_is_the_class_that_was_said() -> None:
    names = ["red", "blue", "neither"]
    images = np.zeros((5, 32, 32, 3), np.uint8)
    for n in range(5):
        images[n, 4 * n : 4 * n + 4, 8:12, 0] = 200
        images[n, 20:24, 4 * n : 4 * n + 4, 2] = 100
    model = find_squares()
    said = np.array([0, 1, 1, 0, 2])
    labels = np.array([0, 0, 0, 1, 2])
    logits = np.eye(3, dtype=np.float32)[said] * np.array([[1, 2, 3, 4, 5]]).T
    table = make_table(labels, logits, names, per_lesion=1)
    figure = draw_mistakes(model, images, None, table, names, 1.0, "squares", count=2)
    assert figure is not None
    sure = [f"{100 / (1 + 2 * np.exp(-logit)):.0f} % sure" for logit in (4, 3)]
    assert captions(figure) == [
        f"blue called red, {sure[0]}",
        f"red called blue, {sure[1]}",
    ]
    maps = GradCam(model)(images, said)
    assert maps[[3, 2]].max(axis=(1, 2)).tolist() == [1, 1]
    for axes, n in zip(figure.get_axes()[1::2], [3, 2], strict=True):
        np.testing.assert_array_equal(
            axes.images[0].get_array(), overlay(images[n], maps[n])
        )


def test_pictures_of_a_file_are_drawn_by_a_model_that_is_told_of_patients(
    tmp_path: Path, uncompiled: None
) -> None:
    labels, logits = make_logits(0, 20)
    table = make_table(labels, logits)
    images = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    stored = np.load(tmp_path / "images.npy", mmap_mode="r")
    patients = np.zeros((20, len(CLINICAL_FEATURES)), np.float32)
    config = ModelConfig(
        backbone="small_cnn", weights="none", width_multiplier=0.25, clinical_metadata=True
    )
    model = build_classifier(config, 4)
    figure = draw_mistakes(model, stored, patients, table, NAMES, TEMPERATURE, "file", 4)
    assert figure is not None
    drawn = [axes.images[0].get_array() for axes in figure.get_axes()[::2]]
    np.testing.assert_array_equal(drawn, images[by_hand(labels, logits, 4)])
