"""Visual words, by which pairs of images that share rare local features are found."""

from __future__ import annotations

import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import scipy.sparse

from tfds_ham10000.near_duplicates.features import Bytes, Floats, root_sift

if TYPE_CHECKING:
    from sklearn.cluster import MiniBatchKMeans

Counts = npt.NDArray[np.int64]

Words = Any
"""A `scipy.sparse.csr_array` of shape [num_images, num_words]."""

NUM_WORDS = 1 << 18
WORDS_PER_FEATURE = 2
"""Number of the most similar visual words to which a local feature is assigned."""

MAX_WORD_SHARE = 0.15
"""Visual words in a larger share of all images are ignored, as stop words are in text.
Words in one or two images are kept, unless these are all images."""

NUM_CANDIDATES = 50
"""Maximum number of candidates of each image: the most similar images."""


def visual_words(features: Bytes, counts: Counts, block: int = 10_000) -> Words:
    """Returns the visual words of each image as unit rows, [num_images, num_words].

    Rows of images without local features, or with ignored words only, are 0.

    The visual words are a random sample of at most one eighth of the local features. Each
    local feature is assigned to the most similar words in its nearest cluster of words, of
    up to 256 clusters. Words in fewer images have a larger weight (inverse document
    frequency).

    Args:
        features: SIFT descriptors of all images in turn, [num_features, 128].
        counts: Number of descriptors of each image, [num_images].
        block: The number of local features to compare with words at a time, which bounds
            the memory.
    """
    # Imported here, because scikit-learn takes a second to import.
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.preprocessing import normalize

    num_images = len(counts)
    rng = np.random.default_rng(0)
    num_words = min(NUM_WORDS, len(features) // 8)
    if not num_words:
        return scipy.sparse.csr_array((num_images, 1), dtype=np.float32)
    chosen = np.sort(rng.choice(len(features), num_words, replace=False))
    words = root_sift(features[chosen])
    clusters = MiniBatchKMeans(min(256, 1 + num_words // 64), n_init=1, random_state=0)
    of_word = clusters.fit(words[:: 1 + num_words // 50_000]).predict(words)
    assigned = _assign(features, words, of_word, clusters, block)
    image = np.repeat(np.arange(num_images), counts * WORDS_PER_FEATURE)
    present = scipy.sparse.csr_array(
        (np.ones(assigned.size, np.float32), (image, assigned.ravel())),
        (num_images, num_words),
    )
    present.data[:] = 1
    num_with: npt.NDArray[np.float32] = present.sum(0)
    common = num_with > max(2, MAX_WORD_SHARE * num_images)
    weights = np.where(common, 0, np.log(num_images / np.maximum(num_with, 1)))
    return normalize(present.multiply(weights.astype(np.float32)).tocsr())


def _assign(
    features: Bytes, words: Floats, of_word: Counts, clusters: MiniBatchKMeans, block: int
) -> npt.NDArray[np.int32]:
    """Returns the words of each local feature, [num_features, `WORDS_PER_FEATURE`].

    `of_word` contains the cluster of each word, [num_words]. In a cluster of one word, the
    word is repeated; features in a cluster without words get word 0.
    """
    assigned = np.zeros((len(features), WORDS_PER_FEATURE), np.int32)
    starts = range(0, len(features), 10 * block)
    of_feature = np.concatenate(
        [clusters.predict(root_sift(features[s : s + 10 * block])) for s in starts]
    )
    by_cluster = np.split(
        np.argsort(of_feature, kind="stable"), np.cumsum(np.bincount(of_feature))[:-1]
    )
    for cluster, rows in enumerate(by_cluster):
        members = np.flatnonzero(of_word == cluster)
        if len(members):
            for part in np.array_split(rows, 1 + len(rows) // block):
                similarity = root_sift(features[part]) @ words[members].T
                for column in range(WORDS_PER_FEATURE):
                    best = similarity.argmax(1)
                    assigned[part, column] = members[best]
                    if len(members) > 1:
                        similarity[np.arange(len(part)), best] = -1
    return assigned


def similar_images(
    words: Words,
    others: Words | None = None,
    *,
    num_candidates: int = NUM_CANDIDATES,
    block: int = 1 << 23,
) -> Counts:
    """Returns the sorted pairs of each image and its most similar images, [num_pairs, 2].

    Images that share no word, except ignored ones (see `MAX_WORD_SHARE`), are not paired.
    Uses all CPU cores.

    Args:
        words: `visual_words` of the images. The pairs (i, j) have i < j, unless `others` is
            given.
        others: If given, i is an image in `words`, and j one of the most similar images in
            `others`. Both are rows of one result of `visual_words`.
        num_candidates: Maximum number of the most similar images of an image.
        block: The number of pairs that a thread compares at a time, which bounds the
            memory.
    """
    if others is None:
        count = min(num_candidates, words.shape[0] - 1)
        pairs = np.sort(_nearest(words, words, count, block, same=True), axis=1)
    else:
        pairs = _nearest(words, others, min(num_candidates, others.shape[0]), block)
    return np.unique(pairs, axis=0)


def _nearest(
    words: Words, others: Words, count: int, block: int, *, same: bool = False
) -> Counts:
    """Returns the pairs of each image and the most similar others, [num_pairs, 2].

    `same` states whether the others are the same images. An image is then not paired with
    itself.
    """
    transposed = others.T.tocsr()
    rows = max(1, block // others.shape[0])

    def pairs_from(start: int) -> Counts:
        similarity = words[start : start + rows] @ transposed
        pairs = [np.zeros((0, 2), np.int64)]
        for image, (first, end) in enumerate(itertools.pairwise(similarity.indptr), start):
            other, value = similarity.indices[first:end], similarity.data[first:end]
            if same:
                value = np.where(other == image, 0, value)
            if len(other) > count:
                most = np.argpartition(-value, count - 1)[:count]
                other, value = other[most], value[most]
            other = other[value > 0]
            pairs.append(np.stack([np.full_like(other, image), other], axis=1))
        return np.concatenate(pairs)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return np.concatenate([*pool.map(pairs_from, range(0, words.shape[0], rows))])
