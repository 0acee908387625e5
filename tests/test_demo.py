from __future__ import annotations

import dataclasses
import io
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from tfds_ham10000 import demo


def test_the_dataset_has_the_imbalance_and_several_views() -> None:
    records, _ = demo.make_dataset(3000)
    assert 2850 <= len(records) <= 3150
    assert len({record.image_id for record in records}) == len(records)
    total = sum(demo.CLASS_SHARES.values())
    counts = Counter(record.dx for record in records)
    for dx, share in demo.CLASS_SHARES.items():
        assert counts[dx] / len(records) == pytest.approx(share / total, rel=0.35)
    views = Counter(Counter(record.lesion_id for record in records).values())
    assert set(views) == {1, 2, 3}
    assert all(record.dataset == "synthetic" for record in records)
    assert all(record.image_id.startswith("DEMO_") for record in records)


def test_a_picture_is_the_same_each_time_and_a_view_its_own() -> None:
    first = demo.render("mel", 7, 0)
    assert first.shape == (demo.HEIGHT, demo.WIDTH, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, demo.render("mel", 7, 0))
    assert np.abs(first.astype(int) - demo.render("mel", 7, 1)).mean() > 3
    assert np.abs(first.astype(int) - demo.render("mel", 8, 0)).mean() > 3


def test_a_picture_is_a_jpeg_file_of_what_was_rendered() -> None:
    records, images = demo.make_dataset(300)
    content = images.read(records[5].image_id)
    with Image.open(io.BytesIO(content), formats=["JPEG"]) as picture:
        decoded = np.asarray(picture, int)
    assert decoded.shape == (demo.HEIGHT, demo.WIDTH, 3)
    assert decoded.std() > 5


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(demo.Appearance)])
def test_each_structure_is_drawn(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Strong or absent, all else equal, it must show: none is drawn in vain."""
    half = demo.Appearance(**dict.fromkeys(vars(demo.Appearance()), 0.5))
    pictures = []
    for strength in (0.0, 1.0):
        look = dataclasses.replace(half, **{field: strength})
        monkeypatch.setattr(demo, "_blend", lambda rng, dx, look=look: look)
        pictures.append(demo.render("nv", 0, 0).astype(int))
    changed = np.abs(pictures[0] - pictures[1]).max(axis=-1) > 8
    assert changed.mean() > 0.005


def test_classes_overlap_and_differ() -> None:
    """A nearest-centroid rule on the strengths is well above chance, well below perfect."""
    rng = np.random.default_rng(0)
    names = list(demo.APPEARANCES)
    labels = rng.integers(0, 7, 700)
    looks = np.array([dataclasses.astuple(demo._blend(rng, names[i])) for i in labels])
    centres = np.array([dataclasses.astuple(look) for look in demo.APPEARANCES.values()])
    nearest = ((looks[:, None] - centres) ** 2).sum(axis=-1).argmin(axis=1)
    assert 0.6 < (nearest == labels).mean() < 0.98


def test_pictures_are_those_of_this_version() -> None:
    """A built demo dataset is used as long as the builder's version stays.

    If this fails the pictures have changed: raise `Builder.VERSION`, then these means.
    """
    means = [
        demo.render(dx, lesion, 0).astype(float).mean(axis=(0, 1)).round(1).tolist()
        for dx, lesion in (("mel", 3), ("bcc", 4), ("vasc", 5))
    ]
    np.testing.assert_allclose(means, WRITTEN_DOWN, atol=0.5)


WRITTEN_DOWN = [[171.2, 138.2, 106.8], [147.5, 99.0, 85.4], [153.8, 112.6, 99.0]]
