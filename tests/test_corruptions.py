from __future__ import annotations

import ast
import inspect

import numpy as np
import pytest

from skincnn.config import AugmentConfig
from skincnn.errors import ConfigError
from skincnn.inference import corruptions, synthetic_artifacts
from skincnn.inference.corruptions import CORRUPTIONS, corrupt
from tfds_ham10000 import demo_renderer

STRENGTHS = {name: strengths for name, (_, strengths) in CORRUPTIONS.items()}


@pytest.fixture(scope="module")
def rendered() -> np.ndarray:
    """Returns synthetic images, uint8 [12, 60, 80, 3]."""
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


def test_brightness_changes_in_both_directions_and_more_than_in_training(
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


def test_filters_spread_a_point_as_documented() -> None:
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
