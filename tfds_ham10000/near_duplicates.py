"""Near-duplicate images: images of the same lesion with different lesion_ids.

A perceptual hash finds copies of an image that were recompressed, recolored, rotated or
mirrored. `REVIEWED_PAIRS` lists different images of the same lesion, which a hash cannot
find without also joining unrelated lesions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import imagehash
import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.cluster.hierarchy import DisjointSet

HASH_SIZE = 16
MAX_DISTANCE = 30
"""Largest Hamming distance, of 256 bits, between the hashes of near-duplicates.

Of the 50 million pairs of HAM10000, 111 are within this distance; 110 of them have the same
lesion_id, and the other pair is the same image in different colors. Unrelated
lesions have distances of 32 and more: small, round, centered nevi have similar hashes.
"""

REVIEWED_PAIRS = (
    ("ISIC_0025141", "ISIC_0025323"),
    ("ISIC_0025387", "ISIC_0029880"),
    ("ISIC_0025452", "ISIC_0026068"),
    ("ISIC_0027027", "ISIC_0029036"),
    ("ISIC_0027636", "ISIC_0027994"),
    ("ISIC_0028438", "ISIC_0031105"),
    ("ISIC_0029152", "ISIC_0033173"),
    ("ISIC_0033421", "ISIC_0033481"),
    ("ISIC_0034228", "ISIC_0034248"),
)
"""Pairs of HAM10000 images with different lesion_ids that visibly show the same lesion.

Candidates were pairs with correlated fine structure after registration and with similar
ImageNet features, which were reviewed by eye. The images of each pair agree in diagnosis,
age, sex and site. Two pairs (0025452, 0028438) are uncertain and included, because joining
unrelated lesions is harmless, while a missed pair causes leakage.
"""

ORIENTATIONS = (None, *Image.Transpose)
"""The eight symmetries of the square; None is the identity."""


def find_near_duplicates(
    hashes: Mapping[str, npt.NDArray[np.bool_]],
) -> list[tuple[str, str]]:
    """Returns the pairs of image_ids with similar hashes, and `REVIEWED_PAIRS`."""
    if not hashes:
        return []
    image_ids = sorted(hashes)
    stacked = np.stack([hashes[image_id] for image_id in image_ids])
    pairs = [(image_ids[i], image_ids[j]) for i, j in similar_pairs(stacked)]
    return [*pairs, *REVIEWED_PAIRS]


def perceptual_hashes(image: Image.Image) -> npt.NDArray[np.bool_]:
    """Returns the perceptual hash of an image in each orientation, bool [8, 256].

    Each bit indicates whether a low-frequency coefficient of the discrete cosine transform
    is above the median of these coefficients.

    References:
        Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions (2010).
    """
    gray = image.convert("L")
    # Rotating a small image takes less than half the time of rotating the original.
    small = gray.resize((4 * HASH_SIZE,) * 2, Image.Resampling.LANCZOS)
    return np.stack(
        [
            imagehash.phash(
                small if orientation is None else small.transpose(orientation), HASH_SIZE
            ).hash.ravel()
            for orientation in ORIENTATIONS
        ]
    )


def similar_pairs(
    hashes: npt.NDArray[np.bool_], max_distance: int = MAX_DISTANCE, rows: int = 1000
) -> list[tuple[int, int]]:
    """Returns the pairs (i, j), i < j, whose hashes are similar in some orientation.

    Args:
        hashes: bool [num_images, 8, num_bits], from `perceptual_hashes`.
        max_distance: The largest Hamming distance of a pair.
        rows: The number of images to compare with all others at a time, which bounds the
            memory.
    """
    num_bits = hashes.shape[-1]
    first = _signs(hashes[:, 0])
    pairs: set[tuple[int, int]] = set()
    for orientation in range(hashes.shape[1]):
        other = _signs(hashes[:, orientation]).T
        for start in range(0, len(first), rows):
            near = first[start : start + rows] @ other >= num_bits - 2 * max_distance
            pairs |= {
                (start + i, j) for i, j in np.argwhere(near).tolist() if start + i < j
            }
    return sorted(pairs)


def _signs(hashes: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    # The dot product of two rows of signs is the number of equal bits minus the number of
    # different bits.
    return hashes.astype(np.float32) * 2 - 1


def connected_components(
    names: Sequence[str], pairs: Iterable[tuple[str, str]]
) -> dict[str, str]:
    """Returns, for each name, the smallest name in its connected component.

    Pairs with a name that is not in `names` are ignored.
    """
    components = DisjointSet(names)
    for first, second in pairs:
        if first in components and second in components:
            components.merge(first, second)
    return {
        name: smallest
        for component in components.subsets()
        for smallest in [min(component)]
        for name in component
    }
