from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import imagehash
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from threadpoolctl import threadpool_info

from tfds_ham10000.demo import make_dataset
from tfds_ham10000.near_duplicates import (
    FeatureFile,
    ImageFeatures,
    connected_components,
    extract_features,
    find_near_duplicates,
    find_near_duplicates_between,
    geometry,
    search,
)
from tfds_ham10000.near_duplicates import features as feature_extraction
from tfds_ham10000.near_duplicates import hashes as hash_index
from tfds_ham10000.near_duplicates.features import (
    ORIENTATIONS,
    perceptual_hashes,
    root_sift,
)
from tfds_ham10000.near_duplicates.geometry import MIN_INLIERS, count_inliers
from tfds_ham10000.near_duplicates.hashes import MAX_DISTANCE, similar_hashes
from tfds_ham10000.near_duplicates.words import similar_images, visual_words


def distance(first: Image.Image, second: Image.Image) -> int:
    """Returns the smallest Hamming distance over the orientations of `second`."""
    different = perceptual_hashes(first)[0] ^ perceptual_hashes(second)
    return int(np.bitwise_count(different).sum(axis=1).min())


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


@pytest.mark.parametrize("position", [0, 50, 100])
def test_perceptual_hashes_equal_those_of_imagehash(position: int) -> None:
    image = demo_image(position).resize((64, 64))
    for orientation, packed in zip(ORIENTATIONS, perceptual_hashes(image), strict=True):
        turned = image if orientation is None else image.transpose(orientation)
        expected = imagehash.phash(turned, 16).hash.ravel()
        np.testing.assert_array_equal(np.unpackbits(packed), expected)


def test_different_lesions_are_not_joined() -> None:
    assert distance(demo_image(0), demo_image(100)) > MAX_DISTANCE


def test_similar_hashes_equal_those_of_a_direct_comparison(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    bits = rng.random((60, 8, 256)) < 0.5
    for image, flipped in enumerate(range(20, 40)):
        chosen = rng.choice(256, flipped, replace=False)
        bits[30 + image, image % 8] = bits[image, 0] ^ np.isin(np.arange(256), chosen)
    # The hardest case: of the eight parts of 32 bits, no part has fewer than 3 of the 30
    # different bits, and no half of a part fewer than 1.
    halves = np.zeros((16, 16), bool)
    halves[:, :2] = True
    halves[[0, 5], 0] = False
    bits[59, 3] = bits[20, 0] ^ halves.ravel()
    expected = [
        [i, j]
        for i in range(60)
        for j in range(i + 1, 60)
        if (bits[i, 0] != bits[j]).sum(axis=1).min() <= 30
    ]
    assert len(expected) == 12
    hashes = np.packbits(bits, axis=2)
    assert similar_hashes(hashes, max_distance=30).tolist() == expected
    monkeypatch.setattr(hash_index, "BLOCK", 2)
    assert similar_hashes(hashes, max_distance=30).tolist() == expected


def test_components_are_transitive_and_named_by_their_smallest_member() -> None:
    components = connected_components(list("fedcba"), [("e", "c"), ("c", "f"), ("a", "z")])
    assert components == {"a": "a", "b": "b", "c": "c", "d": "d", "e": "c", "f": "c"}
    assert connected_components(["a"], []) == {"a": "a"}


@pytest.fixture(scope="module")
def originals() -> dict[str, Image.Image]:
    """Returns demo images with skin texture, by image_id."""
    rng = np.random.default_rng(0)
    records, images = make_dataset(300)
    textured = {}
    for record in records[::25]:
        image = Image.open(io.BytesIO(images.read(record.image_id))).resize((300, 225))
        noise = Image.fromarray(rng.integers(0, 256, (75, 100, 3), np.uint8))
        textured[record.image_id] = Image.blend(image, noise.resize(image.size), 0.15)
    return textured


@pytest.fixture(scope="module")
def features(originals: dict[str, Image.Image]) -> dict[str, ImageFeatures]:
    return {name: extract_features(image) for name, image in originals.items()}


def central_part(image: Image.Image, share: float) -> Image.Image:
    """Returns the central `share` of the width and of the height."""
    width, height = image.size
    x, y = round(width * (1 - share) / 2), round(height * (1 - share) / 2)
    return image.crop((x, y, width - x, height - y))


@pytest.mark.parametrize(
    ("change", "method"),
    [
        (recompressed, "geometry"),
        (lambda image: central_part(image, 0.9), "geometry"),
        (lambda image: central_part(image.rotate(10), 0.75), "geometry"),
        (lambda image: central_part(image.rotate(130), 0.5), "geometry"),
        (lambda image: image.resize((200, 150)), "geometry"),
        (lambda image: ImageEnhance.Color(image).enhance(0.4), "geometry"),
        (ImageOps.mirror, "hash"),
    ],
)
def test_an_altered_copy_is_found_and_no_other_image(
    change: Callable[[Image.Image], Image.Image],
    method: str,
    originals: dict[str, Image.Image],
    features: dict[str, ImageFeatures],
) -> None:
    names = list(originals)[:5]
    copies = {f"{name}_copy": extract_features(change(originals[name])) for name in names}
    found = find_near_duplicates({**features, **copies})
    assert [(pair.first, pair.second) for pair in found] == [
        (n, f"{n}_copy") for n in names
    ]
    assert {pair.method for pair in found} == {method}
    assert all(pair.num_inliers >= MIN_INLIERS for pair in found) == (method == "geometry")
    skipped = find_near_duplicates({**features, **copies}, skip=[names[0], *copies])
    assert [pair.first for pair in skipped] == names[1:]


def test_images_of_a_large_dataset_have_fewer_features(
    originals: dict[str, Image.Image],
    features: dict[str, ImageFeatures],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feature_extraction, "FULL_SIZE", 20)
    names = list(originals)[:5]
    few = {name: extract_features(originals[name], 21) for name in names}
    assert {len(of_image.points) for of_image in few.values()} <= {100, 101, 102}
    few |= {f"{n}_copy": extract_features(recompressed(originals[n]), 21) for n in names}
    # The positions are comparable with those of a small dataset.
    between = find_near_duplicates_between(features, few)
    pairs = [(name, other) for name in names for other in (name, f"{name}_copy")]
    assert [(pair.first, pair.second) for pair in between] == pairs
    # Each image has 2 candidates instead of 50, found with 80 of its local features.
    monkeypatch.setattr(search, "MAX_DESCRIPTORS", 10 * 80)
    monkeypatch.setattr(search, "MAX_PAIRS", 10 * 2)
    found = find_near_duplicates(few)
    assert [(pair.first, pair.second) for pair in found] == pairs[1::2]


def test_the_marks_of_a_ruler_do_not_join_lesions(
    originals: dict[str, Image.Image],
) -> None:
    features = []
    for image in list(originals.values())[:2]:
        with_ruler = image.copy()
        draw = ImageDraw.Draw(with_ruler)
        draw.line((30, 200, 270, 200), "black", 2)
        for number, mark in enumerate(range(30, 271, 12)):
            draw.line((mark, 190 - number % 5, mark, 200), "black", 2)
            draw.text((mark, 203), str(number * 7), "black")
        features.append(extract_features(with_ruler))
    first, second = features
    arguments = (
        *(first.points, root_sift(first.descriptors)),
        *(second.points, root_sift(second.descriptors)),
    )
    assert count_inliers(*arguments) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(geometry, "MIN_SPREAD", 0.0)
        assert count_inliers(*arguments) >= MIN_INLIERS


def test_images_without_local_features_are_compared_by_hash_only() -> None:
    plain = [Image.new("RGB", (300, 225), color) for color in ("white", "pink")]
    features = [extract_features(image) for image in plain]
    assert [len(of_image.points) for of_image in features] == [0, 0]
    found = find_near_duplicates(dict(zip("ab", features, strict=True)))
    assert [pair.method for pair in found] == ["hash"]
    assert find_near_duplicates({}) == find_near_duplicates({"a": features[0]}) == []


def test_the_most_similar_images_share_the_rarest_features() -> None:
    """The expected pairs are those with a positive product of the tf-idf vectors."""
    rng = np.random.default_rng(0)
    centers = rng.integers(0, 256, (40, 128), np.uint8)
    drawn = [centers[rng.choice(40, 12, replace=False)] for _ in range(6)]
    descriptors = [np.repeat(of_image, 4, axis=0) for of_image in drawn]
    arguments = np.concatenate(descriptors), np.array([len(of) for of in descriptors])
    words = visual_words(*arguments)
    in_blocks = visual_words(*arguments, block=5)
    np.testing.assert_allclose(in_blocks.toarray(), words.toarray(), rtol=1e-6)
    assert words.shape[0] == 6
    norms = np.sqrt((words.toarray() ** 2).sum(1))
    np.testing.assert_allclose(norms[norms > 0], 1, rtol=1e-5)
    similarity = (words @ words.T).toarray()
    pairs = [[i, j] for i in range(6) for j in range(6) if similarity[i, j] > 0]
    expected = [[i, j] for i, j in pairs if i < j]
    assert similar_images(words, block=24).tolist() == expected
    between = [[i, j - 2] for i, j in expected if i < 2 <= j]
    assert similar_images(words[:2], words[2:], block=12).tolist() == between


def test_pairs_between_datasets_have_one_image_in_each(
    originals: dict[str, Image.Image], features: dict[str, ImageFeatures]
) -> None:
    names = list(originals)[:4]
    # The image_ids of the copies are those of other images.
    changes = {name: ImageOps.mirror if name < names[2] else recompressed for name in names}
    copies = {
        image_id: extract_features(changes[name](originals[name]))
        for image_id, name in zip(reversed(names), names, strict=True)
    }
    second = {**copies, "same": copies[names[0]]}
    found = find_near_duplicates_between(features, second)
    pairs = {(pair.first, pair.second) for pair in found}
    assert pairs == {*zip(reversed(names), names, strict=True), (names[3], "same")}
    assert {pair.method for pair in found} == {"hash", "geometry"}
    assert find_near_duplicates_between(features, {}) == []
    assert find_near_duplicates_between({}, features) == []


def test_threads_that_verify_pairs_start_no_threads(
    features: dict[str, ImageFeatures], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With several BLAS threads in each thread, most of the CPU time was spent waiting."""
    num_threads = []

    def count(*_: object) -> int:
        pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
        num_threads.extend(pool["num_threads"] for pool in pools)
        return 0

    monkeypatch.setattr(search, "count_inliers", count)
    find_near_duplicates(dict(list(features.items())[:4]))
    assert max(num_threads, default=1) == 1


def test_features_in_a_file_give_the_same_pairs(
    features: dict[str, ImageFeatures], tmp_path: Path
) -> None:
    stored = FeatureFile(tmp_path)
    first, *_ = features
    for name in reversed([*features, "again"]):
        stored.add(name, features[first if name == "again" else name])
    stored.add("plain", extract_features(Image.new("RGB", (300, 225))))
    assert {*stored} == {*features, "again", "plain"}
    assert len(stored["plain"].points) == 0
    for name, expected in features.items():
        for attribute in vars(expected):
            np.testing.assert_array_equal(
                getattr(stored[name], attribute), getattr(expected, attribute)
            )
    pairs = find_near_duplicates(stored)
    assert [{pair.first, pair.second} for pair in pairs] == [{first, "again"}]
    assert pairs == find_near_duplicates(dict(stored))


@pytest.mark.parametrize("size", [(3000, 2), (2, 3000), (1, 1), (600, 30), (32, 600)])
def test_images_of_any_shape_have_features(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
    features = extract_features(Image.fromarray(noise))
    assert features.hashes.shape == (8, 32)
    assert features.points.shape == (len(features.descriptors), 2)
    same = dict.fromkeys("abcd", features)
    assert len(find_near_duplicates(same)) == 6
