"""Pictures of one lesion that carry different lesion_ids.

Two mechanisms. A perceptual hash finds the same photograph, recompressed, recoloured,
turned or mirrored. `SEEN_PAIRS` holds what a hash cannot find without also joining
strangers: other photographs of one lesion.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import imagehash
import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import sparse
from scipy.sparse import csgraph

HASH_SIZE = 16
MAX_DISTANCE = 30
"""Differing bits, of 256, up to which two pictures count as one.

Among HAM10000's 50 million pairs, 111 lie this near; 110 of them share their lesion_id and
the other is the same photograph in other colors. From 32 bits on, strangers begin: small
round naevi in the middle of a picture look alike to any hash.
"""

SEEN_PAIRS = (
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
"""Pairs of HAM10000 with different lesion_ids that show one lesion, as the eye judges.

Candidates were the pairs whose fine structure correlates after registration and whose
ImageNet features are alike; they were looked at, and all agree in diagnosis, age, sex
and site. Two may be wrong (0025452, 0028438): joining strangers costs nothing,
missing a pair is a leak.
"""

ORIENTATIONS = (
    None,
    Image.Transpose.FLIP_LEFT_RIGHT,
    Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.ROTATE_90,
    Image.Transpose.ROTATE_180,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSPOSE,
    Image.Transpose.TRANSVERSE,
)


def find_similar(
    hashes: Mapping[str, npt.NDArray[np.bool_]],
) -> list[tuple[str, str]]:
    """Returns the pairs of image_ids whose pictures are alike, and `SEEN_PAIRS`.

    Args:
        hashes: What `perceptual_hashes` returns of each picture, by image_id.
    """
    if not hashes:
        return []
    image_ids = sorted(hashes)
    stacked = np.stack([hashes[image_id] for image_id in image_ids])
    alike = [(image_ids[i], image_ids[j]) for i, j in similar_pairs(stacked)]
    return [*alike, *SEEN_PAIRS]


def perceptual_hashes(image: Image.Image) -> npt.NDArray[np.bool_]:
    """Returns the hash of a picture in each of its eight orientations, bool [8, 256].

    The signs of the lowest frequencies of the cosine transform, about their median
    (Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010).
    """
    grey = image.convert("L")
    # Less than half the time of turning the whole picture eight times.
    small = grey.resize((4 * HASH_SIZE,) * 2, Image.Resampling.LANCZOS)
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
    """Returns the pairs (i, j), i < j, that are alike in some orientation.

    Args:
        hashes: bool [num_images, 8, num_bits], from `perceptual_hashes`.
        max_distance: Most bits in which two hashes of a pair differ.
        rows: Pictures compared with all others at a time, which bounds the memory.
    """
    num_bits = hashes.shape[-1]
    first = _signs(hashes[:, 0])
    found: set[tuple[int, int]] = set()
    for orientation in range(hashes.shape[1]):
        other = _signs(hashes[:, orientation]).T
        for start in range(0, len(first), rows):
            near = first[start : start + rows] @ other >= num_bits - 2 * max_distance
            found |= {
                (start + i, j) for i, j in np.argwhere(near).tolist() if start + i < j
            }
    return sorted(found)


def _signs(hashes: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    # The product of two rows of signs counts the bits that agree less those that differ.
    return hashes.astype(np.float32) * 2 - 1


def components(names: Sequence[str], pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Returns, for each name, the smallest name of its connected component.

    Args:
        names: All names.
        pairs: Which names belong together; a pair with an unknown name is ignored.
    """
    position = {name: index for index, name in enumerate(names)}
    edges = [
        (position[a], position[b]) for a, b in pairs if a in position and b in position
    ]
    rows, columns = np.array(edges, np.int64).reshape(-1, 2).T
    graph = sparse.coo_array(
        (np.ones(len(edges)), (rows, columns)), shape=(len(names),) * 2
    )
    _, labels = csgraph.connected_components(graph, directed=False)
    smallest: dict[int, str] = {}
    for name, label in sorted(zip(names, labels.tolist(), strict=True)):
        smallest.setdefault(label, name)
    return {
        name: smallest[label] for name, label in zip(names, labels.tolist(), strict=True)
    }
