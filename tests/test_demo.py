from __future__ import annotations

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
    assert all(record.dataset == "made_up" for record in records)
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


@pytest.mark.parametrize("dx", demo.APPEARANCES)
def test_each_class_is_rendered_with_its_structures(
    dx: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a class's structures its pictures look otherwise: none is drawn in vain."""
    own = np.stack([demo.render(dx, lesion, 0) for lesion in range(6)]).astype(int)
    monkeypatch.setitem(demo.APPEARANCES, dx, demo.Appearance())
    plain = np.stack([demo.render(dx, lesion, 0) for lesion in range(6)]).astype(int)
    assert np.abs(own - plain).mean() > 1
