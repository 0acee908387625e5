"""Near-duplicates: images that show the same lesion under different lesion_ids.

The search has two steps:

1. Candidates. Two images are a candidate pair if they share rare local features, or if
   their perceptual hashes are similar in one of eight orientations.
2. Verification. Two images show the same lesion if many of their local features lie at the
   same positions after a rotation, a scaling and a shift of one image.

Local features survive crops, rotations by any angle, scaling and color changes. Only the
perceptual hash survives mirroring. Neither finds images of a lesion without sharp
structures, nor images taken years apart; docs/data.md gives the measured recall.

References:
    Lowe, Distinctive Image Features from Scale-Invariant Keypoints (2004).
    Philbin et al., Object Retrieval with Large Vocabularies and Fast Spatial Matching
    (2007).
    Arandjelovic and Zisserman, Three Things Everyone Should Know to Improve Object
    Retrieval (2012): RootSIFT.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import imagehash
import numpy as np
import numpy.typing as npt
import scipy.sparse
from PIL import Image, ImageOps
from scipy.cluster.hierarchy import DisjointSet
from sklearn.cluster import MiniBatchKMeans
from sklearn.preprocessing import normalize

Floats = npt.NDArray[np.float32]
Words = Any
"""A `scipy.sparse.csr_array` of shape [num_images, num_words]."""

MIN_INLIERS = 8
"""Number of matching positions from which two images count as near-duplicates."""

MIN_SPREAD = 5.0
"""Smallest standard deviation of the matching positions in any direction, in pixels.

The marks of a ruler match between images of different lesions, but lie on a line.
"""

LONGEST_SIDE = 300
"""Size, in pixels, at which local features are detected."""

MIN_SIDE = 16
"""Smallest side, in pixels at `LONGEST_SIDE`, of images in which features are detected."""

MAX_FEATURES = 400
"""Maximum number of local features of an image."""

MAX_RATIO = 0.8
"""A feature matches only if its distance is below this share of the second smallest one."""

MAX_ERROR = 3.0
"""Largest error of the position of a match, in pixels at `LONGEST_SIDE`."""

NUM_WORDS = 1 << 18
WORDS_PER_FEATURE = 2
"""A local feature counts as its two most similar visual words."""

MAX_WORD_SHARE = 0.15
"""Visual words of a larger share of all images identify no image and are ignored."""

NUM_CANDIDATES = 50
"""Number of the most similar images of an image that are verified."""

HASH_SIZE = 16
MAX_DISTANCE = 30
"""Largest Hamming distance, of 256 bits, between the hashes of near-duplicates.

Of the 50 million pairs of HAM10000, 111 are within this distance; 110 of them have the same
lesion_id, and the other pair is the same image in other colors. Pairs of unrelated
lesions begin at a distance of 32: small, round, centered nevi have similar hashes.
"""

ORIENTATIONS = (None, *Image.Transpose)
"""The eight symmetries of the square; None is the identity."""


@dataclass(frozen=True)
class ImageFeatures:
    """The features of an image by which near-duplicates are found.

    Attributes:
        hashes: Perceptual hash in each orientation, bool [8, 256].
        points: Positions of the local features in pixels at `LONGEST_SIDE`, [n, 2].
        descriptors: SIFT descriptors of the local features, uint8 [n, 128].
    """

    hashes: npt.NDArray[np.bool_]
    points: Floats
    descriptors: npt.NDArray[np.uint8]


@dataclass(frozen=True, order=True)
class NearDuplicate:
    """Two images that show the same lesion.

    Attributes:
        first: The smaller image_id.
        second: The larger image_id.
        method: How the pair was found.
        num_inliers: Number of local features at the same position; 0 for "hash".
    """

    first: str
    second: str
    method: Literal["hash", "geometry"]
    num_inliers: int


def extract_features(image: Image.Image) -> ImageFeatures:
    """Returns the features of an image. Thread-safe.

    The contrast is equalized locally first, because most structures of a lesion differ
    little from the skin around them.
    """
    gray = image.convert("L")
    small = ImageOps.contain(gray, (LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    points: Sequence[Any] = ()
    descriptors = None
    # OpenCV does not return from images that are a few pixels high or wide.
    if min(small.size) >= MIN_SIDE:
        equalize = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8))
        sift = cv2.SIFT.create(nfeatures=MAX_FEATURES, contrastThreshold=0.01)
        points, descriptors = sift.detectAndCompute(equalize.apply(np.asarray(small)), None)
    if descriptors is None:
        descriptors = np.zeros((0, 128))
    positions = np.array([point.pt for point in points], np.float32).reshape(-1, 2)
    return ImageFeatures(
        perceptual_hashes(gray),
        positions[:MAX_FEATURES],
        descriptors[:MAX_FEATURES].astype(np.uint8),
    )


def find_near_duplicates(
    features: Mapping[str, ImageFeatures], skip: Collection[str] = ()
) -> list[NearDuplicate]:
    """Returns the pairs of near-duplicates that are found, sorted. Uses all CPU cores.

    Args:
        features: `extract_features` of each image, by image_id.
        skip: Pairs of two of these image_ids are left out, to save time.
    """
    image_ids = sorted(features)
    images = [features[image_id] for image_id in image_ids]
    if len(images) < 2:
        return []
    similar, candidates = (
        [(i, j) for i, j in pairs if image_ids[i] not in skip or image_ids[j] not in skip]
        for pairs in (
            similar_hashes(np.stack([image.hashes for image in images])),
            similar_images(visual_words([image.descriptors for image in images])),
        )
    )

    def count(pair: tuple[int, int]) -> int:
        i, j = pair
        first, second = images[i], images[j]
        roots, roots_2 = (root_sift(image.descriptors) for image in (first, second))
        return count_inliers(first.points, roots, second.points, roots_2)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        counts = dict(zip(candidates, pool.map(count, candidates), strict=True))
    results = {pair: number for pair, number in counts.items() if number >= MIN_INLIERS}
    results |= {pair: 0 for pair in similar if pair not in results}
    return sorted(
        NearDuplicate(image_ids[i], image_ids[j], "geometry" if number else "hash", number)
        for (i, j), number in results.items()
    )


def count_inliers(points: Floats, roots: Floats, points_2: Floats, roots_2: Floats) -> int:
    """Returns the number of local features of two images that match in their positions.

    Two features match if each is the most similar one to the other and the second most
    similar one is clearly less similar. The positions of matches must agree, up to
    `MAX_ERROR`, after one rotation, scaling and shift, which RANSAC estimates.

    Args:
        points: Positions in the first image, [n, 2].
        roots: `root_sift` of the features in the first image, [n, 128].
        points_2: Positions in the second image, [m, 2].
        roots_2: `root_sift` of the features in the second image, [m, 128].
    """
    if min(len(points), len(points_2)) < 2:
        return 0
    similarity = roots @ roots_2.T
    rows = np.arange(len(roots))
    best = similarity.argmax(1)
    largest = similarity[rows, best]
    mutual = similarity.argmax(0)[best] == rows
    similarity[rows, best] = -1
    # The squared distance of two unit vectors is 2 - 2 * similarity.
    distinct = 1 - largest < MAX_RATIO**2 * (1 - similarity.max(1))
    matches = np.flatnonzero(mutual & distinct)
    if len(matches) < MIN_INLIERS:
        return 0
    source, target = points[matches], points_2[best[matches]]
    transform, inliers = cv2.estimateAffinePartial2D(
        source, target, ransacReprojThreshold=MAX_ERROR, maxIters=1000, confidence=0.99
    )
    if transform is None:
        return 0
    positions = [points[inliers.ravel() > 0] for points in (source, target)]
    if min(_spread(points) for points in positions) < MIN_SPREAD:
        return 0
    # SIFT has several features at a position if the orientation there is ambiguous.
    return min(len(np.unique(points.round(), axis=0)) for points in positions)


def _spread(points: Floats) -> float:
    """Returns the smallest standard deviation of points [n, 2] in any direction."""
    return float(np.sqrt(np.linalg.eigvalsh(np.cov(points.T, ddof=0))[0].clip(0)))


def root_sift(descriptors: npt.NDArray[np.uint8]) -> Floats:
    """Returns SIFT descriptors as unit vectors: the square roots of shares, [n, 128]."""
    sums = descriptors.sum(1, dtype=np.float32, keepdims=True)
    return np.sqrt(descriptors / np.maximum(sums, 1))


def visual_words(
    descriptors: Sequence[npt.NDArray[np.uint8]], block: int = 100_000
) -> Words:
    """Returns the visual words of each image as unit rows, [num_images, num_words].

    The visual words are randomly drawn local features, at most one in eight. Each local
    feature is assigned to the most similar words, and words weigh more the fewer images
    have them (tf-idf). Words are searched in the nearest of up to 256 clusters only.

    Args:
        descriptors: SIFT descriptors of each image, [n, 128].
        block: The number of local features to convert to `root_sift` at a time, which
            bounds the memory.
    """
    rng = np.random.default_rng(0)
    features = np.concatenate(descriptors)
    num_words = min(NUM_WORDS, len(features) // 8)
    if not num_words:
        return scipy.sparse.csr_array((len(descriptors), 1), dtype=np.float32)
    chosen = np.sort(rng.choice(len(features), num_words, replace=False))
    words = root_sift(features[chosen])
    clusters = MiniBatchKMeans(min(256, 1 + num_words // 64), n_init=1, random_state=0)
    of_word = clusters.fit(words[:: 1 + num_words // 50_000]).predict(words)
    assigned = np.zeros((len(features), WORDS_PER_FEATURE), np.int64)
    starts = range(0, len(features), block)
    of_feature = np.concatenate(
        [clusters.predict(root_sift(features[start : start + block])) for start in starts]
    )
    for cluster in np.unique(of_feature):
        rows, members = (np.flatnonzero(of == cluster) for of in (of_feature, of_word))
        count = min(WORDS_PER_FEATURE, len(members))
        if count:
            distance = -root_sift(features[rows]) @ words[members].T
            nearest = members[np.argpartition(distance, count - 1)[:, :count]]
            assigned[rows] = nearest[:, [0, -1]]
    sizes = [len(of_image) * WORDS_PER_FEATURE for of_image in descriptors]
    image = np.repeat(np.arange(len(descriptors)), sizes)
    shape = (len(descriptors), num_words)
    present = scipy.sparse.csr_array(
        (np.ones(assigned.size, np.float32), (image, assigned.ravel())), shape
    )
    present.data[:] = 1
    num_images: npt.NDArray[np.float32] = present.sum(0)
    common = num_images > max(2, MAX_WORD_SHARE * len(descriptors))
    weights = np.where(common, 0, np.log(len(descriptors) / np.maximum(num_images, 1)))
    return normalize(present.multiply(weights.astype(np.float32)).tocsr())


def similar_images(words: Words, rows: int = 1000) -> list[tuple[int, int]]:
    """Returns the pairs (i, j), i < j, of each image and its most similar images.

    Args:
        words: `visual_words` of all images.
        rows: The number of images to compare with all others at a time, which bounds the
            memory.
    """
    count = min(NUM_CANDIDATES, words.shape[0] - 1)
    transposed = words.T.tocsr()
    pairs: set[tuple[int, int]] = set()
    for start in range(0, words.shape[0], rows):
        similarity = (words[start : start + rows] @ transposed).toarray()
        own = np.arange(len(similarity))
        similarity[own, start + own] = 0
        nearest = np.argpartition(-similarity, count - 1)[:, :count]
        i, k = np.nonzero(np.take_along_axis(similarity, nearest, 1))
        j = nearest[i, k]
        i += start
        pairs |= set(zip(np.minimum(i, j).tolist(), np.maximum(i, j).tolist(), strict=True))
    return sorted(pairs)


def perceptual_hashes(image: Image.Image) -> npt.NDArray[np.bool_]:
    """Returns the perceptual hash of an image in each orientation, bool [8, 256].

    A bit states whether one of the lowest frequencies of the discrete cosine transform is
    above their median.

    References:
        Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions (2010).
    """
    gray = image.convert("L")
    # Takes less than half the time of rotating the full-size image eight times.
    small = gray.resize((4 * HASH_SIZE,) * 2, Image.Resampling.LANCZOS)
    return np.stack(
        [
            imagehash.phash(
                small if orientation is None else small.transpose(orientation), HASH_SIZE
            ).hash.ravel()
            for orientation in ORIENTATIONS
        ]
    )


def similar_hashes(
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


def _signs(hashes: npt.NDArray[np.bool_]) -> Floats:
    # The dot product of two rows of signs is the number of equal bits minus the number of
    # different bits.
    return hashes.astype(np.float32) * 2 - 1


def connected_components(
    names: Sequence[str], pairs: Iterable[tuple[str, str]]
) -> dict[str, str]:
    """Returns the smallest name of the connected component of each name.

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
