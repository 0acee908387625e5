"""Search for near-duplicates by local features and by perceptual hashes."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from tfds_ham10000.near_duplicates.features import (
    MAX_FEATURES,
    Bytes,
    ImageFeatures,
    root_sift,
)
from tfds_ham10000.near_duplicates.geometry import MIN_INLIERS, count_inliers
from tfds_ham10000.near_duplicates.hashes import similar_hashes
from tfds_ham10000.near_duplicates.words import (
    NUM_CANDIDATES,
    similar_images,
    visual_words,
)

MAX_DESCRIPTORS = 16_000_000
"""Maximum number of local features for the search for candidates. Of each image, only the
`MAX_DESCRIPTORS // num_images` strongest features, and at least one, are used."""

MAX_PAIRS = 4_000_000
"""Maximum number of candidate pairs, which are verified. Therefore, the images of a large
dataset have fewer than `NUM_CANDIDATES` candidates, down to one."""

Pairs = npt.NDArray[np.int64]
"""Indices (i, j) of two images, i < j, in each row, [num_pairs, 2]."""
Load = Callable[[int], ImageFeatures]
"""Function that returns the features of the image with a given index."""


@dataclass(frozen=True, order=True)
class NearDuplicate:
    """Two images that appear to show the same lesion.

    Attributes:
        first: The smaller image_id, or the image_id in the first of two datasets.
        second: The other image_id.
        method: "geometry" if local features match (`count_inliers`), otherwise "hash"
            (`similar_hashes`).
        num_inliers: Number of matching positions, see `count_inliers`; 0 for "hash".
    """

    first: str
    second: str
    method: Literal["hash", "geometry"]
    num_inliers: int


def find_near_duplicates(
    features: Mapping[str, ImageFeatures], skip: Collection[str] = ()
) -> list[NearDuplicate]:
    """Returns the pairs of near-duplicates that are found, sorted. Uses all CPU cores.

    Args:
        features: `extract_features` of each image, by image_id.
        skip: image_ids; pairs of two of them are left out, to save time.
    """
    image_ids = sorted(features)
    skipped = np.array([image_id in skip for image_id in image_ids], bool)
    found = _search(
        lambda index: features[image_ids[index]],
        len(image_ids),
        lambda pairs: ~(skipped[pairs[:, 0]] & skipped[pairs[:, 1]]),
    )
    return _named(found, image_ids)


def find_near_duplicates_between(
    first: Mapping[str, ImageFeatures], second: Mapping[str, ImageFeatures]
) -> list[NearDuplicate]:
    """Returns the near-duplicates of an image in `first` and one in `second`, sorted.

    Pairs within a dataset are left out, and the datasets may have equal image_ids. The
    candidates are the most similar images in `second` of each image in `first`, so the
    maximum number of pairs to verify does not depend on the size of `second`. Both
    arguments are the `features` of `find_near_duplicates`.
    """
    image_ids = [*sorted(first), *sorted(second)]
    found = _search(
        lambda index: (second if index >= len(first) else first)[image_ids[index]],
        len(image_ids),
        lambda pairs: (pairs < len(first)).sum(axis=1) == 1,
        num_first=len(first),
    )
    return _named(found, image_ids)


def _named(
    found: Mapping[tuple[int, int], int], image_ids: list[str]
) -> list[NearDuplicate]:
    return sorted(
        NearDuplicate(image_ids[i], image_ids[j], "geometry" if number else "hash", number)
        for (i, j), number in found.items()
    )


def _search(
    load: Load,
    num_images: int,
    select: Callable[[Pairs], npt.NDArray[np.bool_]],
    num_first: int | None = None,
) -> dict[tuple[int, int], int]:
    """Returns the number of inliers of each pair that is found; 0 if only hashes match.

    Args:
        load: Returns the features of an image.
        num_images: Number of images.
        select: Returns whether each pair may be a result, [num_pairs].
        num_first: Number of images at the beginning, whose candidates are the remaining
            images; None if all images are candidates of each other.
    """
    if num_images < 2 or num_first in (0, num_images):
        return {}
    candidates, similar = (
        pairs[select(pairs)] for pairs in _find_candidates(load, num_images, num_first)
    )
    inliers = _count_all(load, candidates)
    verified = inliers >= MIN_INLIERS
    found = dict.fromkeys(zip(*similar.T.tolist(), strict=True), 0)
    verified_pairs = zip(*candidates[verified].T.tolist(), strict=True)
    return found | dict(zip(verified_pairs, inliers[verified].tolist(), strict=True))


def _find_candidates(
    load: Load, num_images: int, num_first: int | None
) -> tuple[Pairs, Pairs]:
    """Returns the pairs to verify, and the pairs with similar hashes. See `_search`."""
    hashes, features, counts = _collect(load, num_images)
    words = visual_words(features, counts)
    most = max(1, min(NUM_CANDIDATES, MAX_PAIRS // (num_first or num_images)))
    if num_first is None:
        candidates = similar_images(words, num_candidates=most)
    else:
        parts = words[:num_first], words[num_first:]
        candidates = similar_images(*parts, num_candidates=most)
        candidates[:, 1] += num_first
    return candidates, similar_hashes(hashes)


def _collect(load: Load, num_images: int) -> tuple[Bytes, Bytes, Pairs]:
    """Returns the hashes [num_images, 8, 32], and the strongest local features.

    The latter are the descriptors [num_features, 128] of all images in turn, and their
    number for each image, [num_images].
    """
    most = max(1, min(MAX_FEATURES, MAX_DESCRIPTORS // num_images))
    hashes = np.empty((num_images, *load(0).hashes.shape), np.uint8)
    descriptors = np.empty((num_images * most, 128), np.uint8)
    ends = [0]
    for index in range(num_images):
        image = load(index)
        hashes[index] = image.hashes
        chosen = np.sort(np.argsort(-image.strengths, kind="stable")[:most])
        ends.append(ends[-1] + len(chosen))
        descriptors[ends[-2] : ends[-1]] = image.descriptors[chosen]
    return hashes, descriptors[: ends[-1]], np.diff(ends)


def _count_all(load: Load, pairs: Pairs, block: int = 1000) -> Pairs:
    """Returns `count_inliers` of each pair, [num_pairs]. Uses all CPU cores."""

    def count(part: Pairs) -> list[int]:
        counts = []
        for i, others in itertools.groupby(part.tolist(), key=lambda pair: pair[0]):
            first = load(i)
            roots = root_sift(first.descriptors)
            for _, j in others:
                second = load(j)
                roots_2 = root_sift(second.descriptors)
                counts.append(count_inliers(first.points, roots, second.points, roots_2))
        return counts

    parts = np.array_split(pairs, 1 + len(pairs) // block)
    # The matrix products are small: several BLAS threads per product would only wait.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
        return np.concatenate([*pool.map(count, parts)]).astype(np.int64)
