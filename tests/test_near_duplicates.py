from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from tfds_ham10000.demo import make_dataset
from tfds_ham10000.near_duplicates import (
    MAX_DISTANCE,
    ORIENTATIONS,
    connected_components,
    find_near_duplicates,
    perceptual_hashes,
    similar_pairs,
)


def distance(first: Image.Image, second: Image.Image) -> int:
    """Returns the smallest Hamming distance over the orientations of `second`."""
    return int((perceptual_hashes(first)[0] != perceptual_hashes(second)).sum(1).min())


def demo_image(position: int) -> Image.Image:
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
def test_an_altered_copy_is_a_near_duplicate(change: object) -> None:
    image = demo_image(100)
    assert distance(image, change(image)) <= MAX_DISTANCE  # type: ignore[operator]


def test_orientations_are_the_eight_symmetries_of_the_square() -> None:
    pixels = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4))
    results = {
        np.asarray(pixels if o is None else pixels.transpose(o)).tobytes()
        for o in ORIENTATIONS
    }
    assert len(results) == 8


def test_different_lesions_are_not_joined() -> None:
    assert distance(demo_image(0), demo_image(100)) > MAX_DISTANCE


def test_similar_pairs_equal_those_of_a_direct_comparison() -> None:
    hashes = np.random.default_rng(0).random((40, 8, 32)) < 0.5
    expected = [
        (i, j)
        for i in range(40)
        for j in range(i + 1, 40)
        if min((hashes[i, 0] != hashes[j, o]).sum() for o in range(8)) <= 8
    ]
    assert len(expected) > 3
    assert similar_pairs(hashes, max_distance=8, rows=7) == expected


def test_components_are_transitive_and_named_by_their_smallest_member() -> None:
    components = connected_components(list("fedcba"), [("e", "c"), ("c", "f"), ("a", "z")])
    assert components == {"a": "a", "b": "b", "c": "c", "d": "d", "e": "c", "f": "c"}
    assert connected_components(["a"], []) == {"a": "a"}


def test_near_duplicates_are_found_by_image_id() -> None:
    records, images = make_dataset(300)
    ids = [record.image_id for record in records[::40]]
    copy = recompressed(ImageOps.mirror(demo_image(0)))
    buffer = io.BytesIO()
    copy.save(buffer, "PNG")
    files = {name: images.read(name) for name in ids} | {"copy": buffer.getvalue()}
    hashes = {
        name: perceptual_hashes(Image.open(io.BytesIO(content)))
        for name, content in files.items()
    }
    assert (ids[0], "copy") in find_near_duplicates(hashes)
    assert find_near_duplicates({}) == []
