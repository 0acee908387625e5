from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from tfds_ham10000.demo import make_dataset
from tfds_ham10000.near_duplicates import (
    MAX_DISTANCE,
    ORIENTATIONS,
    components,
    find_similar,
    perceptual_hashes,
    similar_pairs,
)


def distance(first: Image.Image, second: Image.Image) -> int:
    """Fewest differing bits over the orientations of the second."""
    return int((perceptual_hashes(first)[0] != perceptual_hashes(second)).sum(1).min())


def demo_picture(position: int) -> Image.Image:
    records, images = make_dataset(300)
    return Image.open(io.BytesIO(images.read(records[position].image_id)))


def recompressed(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=60)
    return Image.open(buffer)


@pytest.mark.parametrize(
    "change",
    [
        recompressed,
        lambda image: image.resize((80, 60), Image.Resampling.LANCZOS),
        lambda image: ImageEnhance.Brightness(image).enhance(0.9),
        lambda image: ImageEnhance.Color(image).enhance(0.6),
        ImageOps.mirror,
        lambda image: image.rotate(90, expand=True),
    ],
)
def test_the_same_photograph_is_found_however_it_was_changed(change: object) -> None:
    image = demo_picture(100)
    assert distance(image, change(image)) <= MAX_DISTANCE  # type: ignore[operator]


def test_orientations_are_the_eight_of_the_square() -> None:
    pixels = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4))
    seen = {
        np.asarray(pixels if o is None else pixels.transpose(o)).tobytes()
        for o in ORIENTATIONS
    }
    assert len(seen) == 8


def test_different_lesions_are_not_joined() -> None:
    assert distance(demo_picture(0), demo_picture(100)) > MAX_DISTANCE


def test_pairs_agree_with_a_plain_comparison() -> None:
    hashes = np.random.default_rng(0).random((40, 8, 32)) < 0.5
    plain = [
        (i, j)
        for i in range(40)
        for j in range(i + 1, 40)
        if min((hashes[i, 0] != hashes[j, o]).sum() for o in range(8)) <= 8
    ]
    assert len(plain) > 3
    assert similar_pairs(hashes, max_distance=8, rows=7) == plain


def test_components_are_transitive_and_named_by_their_smallest() -> None:
    found = components(list("fedcba"), [("e", "c"), ("c", "f"), ("a", "z")])
    assert found == {"a": "a", "b": "b", "c": "c", "d": "d", "e": "c", "f": "c"}
    assert components(["a"], []) == {"a": "a"}


def test_files_that_are_alike_are_found_by_their_names() -> None:
    records, images = make_dataset(300)
    ids = [record.image_id for record in records[::40]]
    twin = recompressed(ImageOps.mirror(demo_picture(0)))
    buffer = io.BytesIO()
    twin.save(buffer, "PNG")
    files = {name: images.read(name) for name in ids} | {"twin": buffer.getvalue()}
    hashes = {
        name: perceptual_hashes(Image.open(io.BytesIO(content)))
        for name, content in files.items()
    }
    assert (ids[0], "twin") in find_similar(hashes)
    assert find_similar({}) == []
