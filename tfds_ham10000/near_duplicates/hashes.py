"""Search for pairs of images with similar perceptual hashes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from tfds_ham10000.near_duplicates.features import Bytes

Indices = npt.NDArray[np.int64]

MAX_DISTANCE = 30
"""Largest Hamming distance, of 256 bits, between the hashes of near-duplicates.

Of the 50 million pairs of HAM10000, 111 are within this distance; 110 of them have the same
lesion_id, and the other pair is the same image in other colors. Pairs of unrelated
lesions begin at a distance of 32: small, round, centered nevi have similar hashes.
"""

BLOCK = 1 << 20
"""Approximate number of pairs that a thread compares at a time, which bounds the memory."""


def similar_hashes(hashes: Bytes, max_distance: int = MAX_DISTANCE) -> Indices:
    """Returns the pairs (i, j), i < j, whose hashes are similar in some orientation.

    The hash of i is compared with the hashes of j in all orientations. The search is exact:
    if two hashes of w parts of 32 bits differ in at most max_distance bits, one part
    differs in at most max_distance / w bits, and one half of this part in at most half as
    many. An index finds the pairs with such a half, and only these are compared. Uses all
    CPU cores.

    Args:
        hashes: uint8 [num_images, 8, num_bytes], from `perceptual_hashes`; num_bytes is a
            multiple of 4.
        max_distance: The largest Hamming distance of a pair.

    Returns:
        The sorted pairs, [num_pairs, 2].

    References:
        Norouzi, Punjani and Fleet, Fast Exact Search in Hamming Space with Multi-Index
        Hashing (2014), arXiv:1307.2982.
    """
    halves = np.ascontiguousarray(hashes).view(np.uint16)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(
            lambda half: _similar_halves(hashes, halves, half, max_distance),
            range(halves.shape[2]),
        )
        codes = np.unique(np.concatenate([*found]))
    return np.stack(np.divmod(codes, len(hashes)), axis=1)


def _similar_halves(
    hashes: Bytes, halves: npt.NDArray[np.uint16], half: int, max_distance: int
) -> Indices:
    """Returns i * num_images + j of each similar pair whose `half` is similar, sorted."""
    num_images, num_orientations, num_bytes = hashes.shape
    limit = max_distance // (num_bytes // 4)
    masks = np.arange(1 << 16, dtype=np.uint16)
    masks = masks[np.bitwise_count(masks) <= limit // 2]
    index = _Index(halves[:, 0, half], halves[:, 0, half ^ 1])
    pairs = [np.zeros(0, np.int64)]
    for orientation in range(num_orientations):
        code, other = halves[:, orientation, half], halves[:, orientation, half ^ 1]
        for mask in masks:
            left = limit - int(np.bitwise_count(mask))
            for i, j in index.search(code ^ mask, other, left):
                i, j = i[i < j], j[i < j]
                different = hashes[i, 0] ^ hashes[j, orientation]
                distance = np.bitwise_count(different).sum(1, dtype=np.int64)
                near = distance <= max_distance
                pairs.append(i[near] * num_images + j[near])
    return np.unique(np.concatenate(pairs))


class _Index:
    """An index of images by one half of a 32-bit part of their hashes.

    Args:
        code: The half by which images are found, uint16 [num_images].
        other: The other half of the part, uint16 [num_images].
    """

    def __init__(self, code: npt.NDArray[np.uint16], other: npt.NDArray[np.uint16]) -> None:
        self._images = np.argsort(code, kind="stable")
        self._other = other[self._images]
        self._starts = np.searchsorted(code[self._images], np.arange((1 << 16) + 1))

    def search(
        self, code: npt.NDArray[np.uint16], other: npt.NDArray[np.uint16], limit: int
    ) -> Iterator[tuple[Indices, Indices]]:
        """Yields arrays of i and j: pairs with equal codes whose other halves are similar.

        i is an image in the index, and j a position in `code` and `other`. The other halves
        differ in at most `limit` bits.
        """
        first = self._starts[code]
        counts = self._starts[code.astype(np.int64) + 1] - first
        ends = np.cumsum(counts)
        splits = np.searchsorted(ends, np.arange(BLOCK, ends[-1], BLOCK))
        for rows in np.split(np.arange(len(code)), splits):
            count = counts[rows]
            # The rows of the index for each row in turn: first, first + 1, ...
            skipped = np.repeat(first[rows] - np.cumsum(count) + count, count)
            found = skipped + np.arange(len(skipped))
            different = self._other[found] ^ np.repeat(other[rows], count)
            near = np.flatnonzero(np.bitwise_count(different) <= limit)
            yield self._images[found[near]], np.repeat(rows, count)[near]
