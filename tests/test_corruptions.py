from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax
from sklearn.metrics import balanced_accuracy_score

from skincnn.config import AugmentConfig
from skincnn.errors import ConfigError, DataError
from skincnn.evaluation import robustness
from skincnn.evaluation.robustness import (
    plot_corruption_examples,
    score_corruptions,
    trained_corruptions,
)
from skincnn.inference import corruptions, synthetic_artifacts
from skincnn.inference.corruptions import CORRUPTIONS, STRENGTHS, corrupt
from skincnn.inference.predictions import predictions_table
from skincnn.metrics.bootstrap import bootstrap_weights
from skincnn.metrics.calibration import apply_temperature
from skincnn.model.augment import AUGMENTATIONS
from skincnn.reporting.plots import plot_corruptions, to_png
from tfds_ham10000 import demo_renderer

NAMES = ["bkl", "mel", "nv"]
Predict = Callable[[np.ndarray], np.ndarray]


@pytest.fixture(scope="module")
def rendered() -> np.ndarray:
    """Synthetic images, uint8 [12, 60, 80, 3]."""
    classes = ("mel", "nv", "bkl")
    return np.stack(
        [demo_renderer.render(classes[n % 3], n, 0)[::2, ::2] for n in range(12)]
    )


def mean_change(images: np.ndarray, corrupted: np.ndarray) -> float:
    return float(np.abs(corrupted.astype(float) - images).mean())


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_severities_increase(name: str, rendered: np.ndarray) -> None:
    changes = [
        mean_change(rendered, corrupt(rendered, name, n, seed=1)) for n in range(1, 6)
    ]
    assert changes[0] > 0.5
    assert (np.diff(changes) > 0).all()


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(600, 450), (64, 64)])
def test_a_lesion_is_recognizable_at_severity_5(name: str, shape: tuple[int, int]) -> None:
    image = demo_renderer.render("mel", 3, 0)
    rows, columns = (np.arange(n) * image.shape[i] // n for i, n in enumerate(shape))
    image = np.ascontiguousarray(image[rows][:, columns])
    corrupted = corrupt(image[None], name, 5, seed=0)[0]
    assert corrupted.shape == (*shape, 3)
    assert corrupted.dtype == np.uint8
    assert np.corrcoef(image.ravel(), corrupted.ravel())[0, 1] > 0.3


# Noise and JPEG artifacts depend on the pixel size.
@pytest.mark.parametrize("name", sorted(set(CORRUPTIONS) - {"noise", "jpeg"}))
def test_corruptions_do_not_depend_on_the_image_size(name: str) -> None:
    small = demo_renderer.render("nv", 5, 0)
    large = np.repeat(np.repeat(small, 4, axis=0), 4, axis=1)
    corrupted, large_corrupted = (
        corrupt(i[None], name, 5, seed=6)[0] for i in (small, large)
    )
    reduced = large_corrupted.reshape(120, 4, 160, 4, 3).mean(axis=(1, 3))
    assert mean_change(corrupted, reduced) < 0.4 * mean_change(corrupted, small)


def test_corruptions_do_not_depend_on_the_batch(rendered: np.ndarray) -> None:
    for name in CORRUPTIONS:
        at_once = corrupt(rendered[:5], name, 3, seed=4)
        parts = [corrupt(rendered[i : i + 1], name, 3, seed=4, first=i) for i in range(5)]
        np.testing.assert_array_equal(at_once, np.concatenate(parts))


def test_brightness_changes_in_both_directions_and_beyond_training(
    rendered: np.ndarray,
) -> None:
    gray = np.full((40, 8, 8, 3), 128, np.uint8)
    change = corrupt(gray, "brightness", 1, seed=0).astype(float).mean(axis=(1, 2, 3)) - 128
    assert 5 < (change > 0).sum() < 35
    assert np.abs(change).min() > 255 * AugmentConfig().brightness
    for corrupted in corrupt(rendered, "brightness", 5, seed=0):
        assert corrupted.std() > 5


def test_strengths_start_beyond_the_default_augmentation() -> None:
    training = AugmentConfig()
    assert STRENGTHS["contrast"][0] < 1 - training.contrast
    assert STRENGTHS["zoom"][0] > np.exp(training.zoom)
    assert STRENGTHS["hairs"][0] > training.hairs
    gray = np.full((20, 8, 8, 3), 128, np.uint8)
    gains = corrupt(gray, "color_cast", 1, seed=0)[:, 0, 0] / 128
    spread = gains.max(axis=1) / gains.min(axis=1)
    assert spread.min() > (1 + training.color_cast) / (1 - training.color_cast)
    point = np.zeros((1, 65, 65, 3), np.uint8)
    point[0, 32, 32] = 255
    blurred = corrupt(point, "blur", 1, seed=0)[0, :, :, 0].astype(float)
    assert blurred.max() < 255 / (2 * np.pi * training.blur**2)
    for module in (corruptions, synthetic_artifacts):
        tree = ast.parse(inspect.getsource(module))
        names = [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
        assert not any(name.startswith(("skincnn.model", "keras")) for name in names)


def test_what_training_does_as_well_is_named() -> None:
    assert trained_corruptions(AugmentConfig(parts=())) == []
    assert trained_corruptions(AugmentConfig(magnitude=0)) == []
    default = trained_corruptions(AugmentConfig())
    assert default == ["brightness", "contrast", "color_cast", "zoom"]
    parts = ("hair", "ruler", "blur", "light", "hue", "flip")
    found = trained_corruptions(AugmentConfig(parts=parts, contrast=0, hairs=0))
    assert found == ["brightness", "blur", "defocus", "ruler"]
    assert set(robustness.TRAINED_BY) < set(CORRUPTIONS)
    assert {part for part, _ in robustness.TRAINED_BY.values()} < set(AUGMENTATIONS)


def test_filters_have_the_documented_kernels() -> None:
    point = np.zeros((1, 101, 101, 3), np.uint8)
    point[0, 50, 50] = 255
    rows, columns = np.mgrid[-50:51, -50:51]
    disk = corrupt(point, "defocus", 2, seed=0)[0, :, :, 1].astype(float)
    radius = 0.5 + STRENGTHS["defocus"][1] * 101
    assert not disk[np.hypot(rows, columns) > radius + 0.5].any()
    assert disk.sum() == pytest.approx(255, rel=0.15)
    line = corrupt(point, "motion", 3, seed=0)[0, :, :, 1].astype(float)
    length = STRENGTHS["motion"][2] * 101
    spread = np.linalg.eigvalsh(
        np.cov(np.stack([rows.ravel(), columns.ravel()]), aweights=line.ravel())
    )
    assert spread[0] < 0.5
    assert spread[1] == pytest.approx((length + 1) ** 2 / 12, rel=0.25)
    uniform = np.full((1, 30, 40, 3), 90, np.uint8)
    for name in ("blur", "defocus", "motion", "contrast", "zoom"):
        np.testing.assert_array_equal(corrupt(uniform, name, 5, seed=0), uniform)


def test_noise_has_the_documented_variance() -> None:
    for level, relative_variance in (
        (128, 0.2 + 0.8 * 128 / 255),
        (60, 0.2 + 0.8 * 60 / 255),
    ):
        uniform = np.full((1, 100, 100, 3), level, np.uint8)
        noisy = corrupt(uniform, "noise", 1, seed=0).astype(float) - level
        assert noisy.mean() == pytest.approx(0, abs=0.3)
        expected = 255 * STRENGTHS["noise"][0] * np.sqrt(relative_variance)
        assert noisy.std() == pytest.approx(expected, rel=0.02)


def test_artifacts_cover_a_part_of_the_image() -> None:
    uniform = np.full((6, 120, 160, 3), 180, np.uint8)
    for name, limit in (("hairs", 0.35), ("bubbles", 0.5), ("ruler", 0.28)):
        corrupted = corrupt(uniform, name, 5, seed=2)
        covered = np.any(corrupted != uniform, axis=-1).mean(axis=(1, 2))
        assert (covered > 0.04).all()
        assert (covered < limit).all()
    # Hairs are darker than skin; a ruler covers one border along its whole length.
    assert corrupt(uniform, "hairs", 5, seed=2).max() == 180
    for corrupted in corrupt(uniform, "ruler", 3, seed=2):
        changed = np.any(corrupted != 180, axis=-1)
        borders = (changed[0], changed[-1], changed[:, 0], changed[:, -1])
        assert sum(border.all() for border in borders) == 1


def test_an_invalid_name_or_severity_is_an_error(rendered: np.ndarray) -> None:
    for severity in (0, 6):
        with pytest.raises(ConfigError, match=rf"in 1\.\.5. Received: severity={severity}"):
            corrupt(rendered, "blur", severity, seed=0)
    with pytest.raises(ConfigError, match=r"corruption must be one of: .*Did you mean 'jp"):
        corrupt(rendered, "jpg", 1, seed=0)


def by_brightness(images: np.ndarray, rows: slice) -> np.ndarray:
    """Logits that rise with the mean of red, of green and of blue."""
    assert images.dtype == np.uint8
    assert len(images) == rows.stop - rows.start <= 128
    means = images.mean(axis=(1, 2)) / 255
    return (8 * (means - means.mean(axis=1, keepdims=True))).astype(np.float32)


def make_table(
    images: np.ndarray,
    predict: Predict = by_brightness,
    classes: tuple[int, ...] = (0, 1, 2),
) -> pd.DataFrame:
    """Predictions of pairs of pictures, of these classes of three."""
    numbers = np.arange(len(images))
    rows = pd.DataFrame(
        {
            "image_id": [f"i{n}" for n in numbers],
            "lesion_id": [f"l{n // 2}" for n in numbers],
            "label": np.take(classes, numbers % len(classes)),
            "sha256": "",
        }
    )
    return predictions_table(rows, predict(images, slice(0, len(images))), NAMES)


@pytest.fixture(scope="module")
def colors() -> np.ndarray:
    """Even pictures whose largest channel is mostly the one of their class."""
    rng = np.random.default_rng(0)
    levels = rng.uniform(80, 160, (30, 3)) + 60 * np.eye(3)[np.arange(30) % 3]
    return np.repeat(levels.astype(np.uint8)[:, None], 64, axis=1).reshape(30, 8, 8, 3)


def score(
    images: np.ndarray,
    table: pd.DataFrame,
    predict: Predict = by_brightness,
    **changed: object,
) -> dict:
    arguments = {
        "class_names": NAMES,
        "temperature": 1.7,
        "threshold": 0.4,
        "weights": bootstrap_weights(table["image_id"], table["lesion_id"], 50),
        "confidence": 0.95,
        "seed": 3,
    }
    return score_corruptions(predict, images, table, **{**arguments, **changed})


@pytest.fixture(scope="module")
def content(colors: np.ndarray) -> dict:
    return score(colors, make_table(colors))


def test_scores_are_those_of_a_plain_computation(colors: np.ndarray, content: dict) -> None:
    labels = np.arange(30) % 3
    plain = {("clean", 0): colors}
    for name in CORRUPTIONS:
        plain[name, 4] = corrupt(colors, name, 4, seed=3)
    found = {(row["name"], row["severity"]): row for row in content["rows"]}
    assert len(found) == len(content["rows"]) == 5 * len(CORRUPTIONS)
    found["clean", 0] = content["clean"]
    for case, images in plain.items():
        y_prob = softmax(by_brightness(images, slice(0, len(images))), axis=1)
        row = found[case]
        expected = balanced_accuracy_score(labels, y_prob.argmax(axis=1))
        assert row["balanced_accuracy"]["value"] == pytest.approx(expected, abs=1e-6)
        called = [p[1] >= 0.4 for p in apply_temperature(y_prob, 1.7)]
        hits = [told for told, label in zip(called, labels, strict=True) if label == 1]
        rest = [told for told, label in zip(called, labels, strict=True) if label != 1]
        assert row["melanoma_sensitivity"]["value"] == pytest.approx(
            np.mean(hits), abs=1e-6
        )
        assert row["melanoma_specificity"]["value"] == pytest.approx(
            1 - np.mean(rest), abs=1e-6
        )
    assert content["num_images"] == 30
    assert "NaN" not in json.dumps(content)


def test_the_difference_is_that_to_clean_pictures(content: dict) -> None:
    clean = content["clean"]["balanced_accuracy"]["value"]
    assert "difference" not in content["clean"]
    for row in content["rows"]:
        of = row["difference"]
        expected = row["balanced_accuracy"]["value"] - clean
        assert of["value"] == pytest.approx(expected, abs=2e-6)
        assert of["low"] <= of["value"] <= of["high"]
    even = [row for row in content["rows"] if row["name"] in ("blur", "zoom", "motion")]
    # Even pictures stay as they are: paired, the interval of no difference is a point.
    for row in even:
        assert row["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    drops = {row["difference"]["value"] for row in content["rows"] if row not in even}
    assert min(drops) < -0.1


@pytest.fixture
def three_corruptions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores three corruptions alone, to save time."""
    some = {name: CORRUPTIONS[name] for name in ("contrast", "noise", "hairs")}
    monkeypatch.setattr(robustness, "CORRUPTIONS", some)


@pytest.mark.usefixtures("three_corruptions")
def test_chunks_change_nothing(colors: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    few, table = colors[:12], make_table(colors[:12])
    at_once = score(few, table)
    monkeypatch.setattr(robustness, "CHUNK", 7)
    sizes = set()

    def predict(images: np.ndarray, rows: slice) -> np.ndarray:
        sizes.add(len(images))
        return by_brightness(images, rows)

    assert score(few, table, predict) == at_once
    assert sizes == {7, 5}
    assert score(few, table, seed=4) != at_once


@pytest.mark.usefixtures("three_corruptions")
def test_without_melanoma_nothing_is_said_of_it(colors: np.ndarray) -> None:
    rates = ("melanoma_sensitivity", "melanoma_specificity")
    few = colors[:6]
    found = score(few, make_table(few), threshold=None)
    for row in (found["clean"], *found["rows"]):
        assert [row[rate] for rate in rates] == [None, None]
    assert len(plot_corruptions(found, "no threshold").axes) == 1
    # The class is there, but no picture of it.
    found = score(few, make_table(few, classes=(0, 2)))
    assert found["clean"][rates[0]] == {"value": None, "low": None, "high": None}
    assert found["clean"][rates[1]]["value"] is not None
    assert found["clean"]["balanced_accuracy"]["value"] is not None
    assert len(plot_corruptions(found, "no melanoma").axes) == 1
    table = make_table(few).rename(columns={"probability_mel": "probability_df"})
    table["label"] = table["label"].replace("mel", "df")
    found = score(few, table, class_names=["bkl", "df", "nv"])
    assert found["clean"][rates[0]] is None


def test_pictures_of_other_predictions_are_refused(colors: np.ndarray) -> None:
    table = make_table(colors)
    with pytest.raises(DataError, match="does not belong to these pictures"):
        score(np.roll(colors, 1, axis=0), table)
    with pytest.raises(DataError, match="29 pictures and 30 predictions"):
        score(colors[1:], table)


def test_figures_show_every_cell(content: dict, rendered: np.ndarray) -> None:
    figure = plot_corruptions(content, "made up")
    assert to_png(figure).startswith(b"\x89PNG")
    accuracy, sensitivity = figure.axes
    texts = [text.get_text() for text in accuracy.texts]
    expected = []
    for name in CORRUPTIONS:
        rows = [row for row in content["rows"] if row["name"] == name]
        values = [row["balanced_accuracy"]["value"] for row in (content["clean"], *rows)]
        expected += [f"{value:.2f}" for value in values]
    assert texts == expected
    assert len(sensitivity.texts) == len(expected)
    page = plot_corruption_examples(rendered[0], 1, "made up")
    assert len(page.axes) == 6 * len(CORRUPTIONS)
    shown = np.asarray(
        page.axes[6 * list(CORRUPTIONS).index("hairs") + 5].images[0].get_array()
    )
    np.testing.assert_array_equal(shown, corrupt(rendered[:1], "hairs", 5, seed=1)[0])
