from __future__ import annotations

import dataclasses
import io
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from tfds_ham10000 import demo, demo_renderer


def test_the_dataset_has_the_class_shares_of_ham10000_and_several_views() -> None:
    records, _ = demo.make_dataset(3000)
    assert 2850 <= len(records) <= 3150
    assert len({record.image_id for record in records}) == len(records)
    total = sum(demo.CLASS_COUNTS.values())
    counts = Counter(record.dx for record in records)
    for dx, count in demo.CLASS_COUNTS.items():
        assert counts[dx] / len(records) == pytest.approx(count / total, rel=0.35)
    views = Counter(Counter(record.lesion_id for record in records).values())
    assert set(views) == {1, 2, 3}
    assert all(record.dataset == "synthetic" for record in records)
    assert all(record.image_id.startswith("DEMO_") for record in records)


def test_rendering_is_deterministic_and_views_differ() -> None:
    first = demo_renderer.render("mel", 7, 0)
    assert first.shape == (demo_renderer.HEIGHT, demo_renderer.WIDTH, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, demo_renderer.render("mel", 7, 0))
    assert np.abs(first.astype(int) - demo_renderer.render("mel", 7, 1)).mean() > 3
    assert np.abs(first.astype(int) - demo_renderer.render("mel", 8, 0)).mean() > 3


def test_images_are_read_as_jpeg_files() -> None:
    records, images = demo.make_dataset(300)
    content = images.read(records[5].image_id)
    with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
        decoded = np.asarray(image, int)
    assert decoded.shape == (demo_renderer.HEIGHT, demo_renderer.WIDTH, 3)
    assert decoded.std() > 5


@pytest.mark.parametrize(
    "field", [f.name for f in dataclasses.fields(demo_renderer.Appearance)]
)
def test_each_structure_is_visible(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changing only the strength of one structure changes the image."""
    half = demo_renderer.Appearance(**dict.fromkeys(vars(demo_renderer.Appearance()), 0.5))
    images = []
    for strength in (0.0, 1.0):
        look = dataclasses.replace(half, **{field: strength})
        monkeypatch.setattr(demo_renderer, "_blend", lambda rng, dx, look=look: look)
        images.append(demo_renderer.render("nv", 0, 0).astype(int))
    changed = np.abs(images[0] - images[1]).max(axis=-1) > 8
    assert changed.mean() > 0.005


def test_classes_overlap_and_differ() -> None:
    """Nearest-centroid accuracy is well above chance and well below 1."""
    rng = np.random.default_rng(0)
    names = list(demo_renderer.APPEARANCES)
    labels = rng.integers(0, 7, 700)
    looks = np.array(
        [dataclasses.astuple(demo_renderer._blend(rng, names[i])) for i in labels]
    )
    centers = np.array(
        [dataclasses.astuple(look) for look in demo_renderer.APPEARANCES.values()]
    )
    nearest = ((looks[:, None] - centers) ** 2).sum(axis=-1).argmin(axis=1)
    assert 0.6 < (nearest == labels).mean() < 0.98


def test_images_match_the_version_of_the_builder() -> None:
    """Built demo datasets are reused until the version of the builder changes.

    If this test fails, raise `Builder.VERSION`, then update the means.
    """
    means = [
        demo_renderer.render(dx, lesion, 0)
        .astype(float)
        .mean(axis=(0, 1))
        .round(1)
        .tolist()
        for dx, lesion in (("mel", 3), ("bcc", 4), ("vasc", 5))
    ]
    np.testing.assert_allclose(means, EXPECTED_MEANS, atol=0.5)


EXPECTED_MEANS = [[171.2, 138.2, 106.8], [147.5, 99.0, 85.4], [153.8, 112.6, 99.0]]
