"""Geometric verification: local features of two images at the same positions."""

from __future__ import annotations

import cv2
import numpy as np

from tfds_ham10000.near_duplicates.features import Floats

MIN_INLIERS = 8
"""Minimum number of matching positions at which two images are near-duplicates."""

MIN_SPREAD = 5.0
"""Minimum standard deviation of the matching positions in every direction, in pixels at
`LONGEST_SIDE`.

The marks of a ruler match between images of different lesions, but lie on a line.
"""

MAX_RATIO = 0.8
"""Maximum ratio of the distances from a feature to the most similar and the second most
similar feature of the other image (Lowe's ratio test)."""

MAX_ERROR = 3.0
"""Largest error of the position of a match, in pixels at `LONGEST_SIDE`."""


def count_inliers(points: Floats, roots: Floats, points_2: Floats, roots_2: Floats) -> int:
    """Returns the number of positions at which the local features of two images match.

    Two features match if each is the most similar one to the other, and the feature of the
    first image passes Lowe's ratio test (`MAX_RATIO`). RANSAC estimates one rotation,
    scaling and shift; only matches whose positions agree with it, up to `MAX_ERROR`, are
    counted. Several matches at the same pixel of an image count once. The number is 0 if
    fewer than `MIN_INLIERS` features match, if no transform is found, or if the spread of
    the positions in one of the images is below `MIN_SPREAD` in some direction. It can be
    below `MIN_INLIERS`.

    Args:
        points: Positions of the n local features of the first image, [n, 2].
        roots: `root_sift` of the descriptors of the first image, [n, 128].
        points_2: Positions of the m local features of the second image, [m, 2].
        roots_2: `root_sift` of the descriptors of the second image, [m, 128].
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
