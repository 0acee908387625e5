"""Near-duplicates: pairs of images that appear to show the same lesion.

The lesion_ids are not used: near-duplicates can have equal, different or no lesion_ids. Two
images are near-duplicates if one of two methods finds the pair:

1. Geometry. Images that share rare local features are candidates. Candidates are
   near-duplicates if many of their local features lie at the same positions after a
   rotation, a scaling and a shift of one image.
2. Hash. The perceptual hashes of the images are similar in one of eight orientations.

Local features survive crops, rotations by any angle, scaling and color changes. Only the
perceptual hash survives mirroring. Different images of a lesion without sharp structures,
or images taken years apart, are rarely found; docs/guides/data.md gives the measured recall
of the search.

References:
    Lowe, Distinctive Image Features from Scale-Invariant Keypoints (2004).
    Philbin et al., Object Retrieval with Large Vocabularies and Fast Spatial Matching
    (2007).
    Arandjelovic and Zisserman, Three Things Everyone Should Know to Improve Object
    Retrieval (2012): RootSIFT.
"""

from tfds_ham10000.near_duplicates.components import connected_components
from tfds_ham10000.near_duplicates.features import (
    FeatureFile,
    ImageFeatures,
    extract_features,
)
from tfds_ham10000.near_duplicates.search import (
    NearDuplicate,
    find_near_duplicates,
    find_near_duplicates_between,
)

__all__ = [
    "FeatureFile",
    "ImageFeatures",
    "NearDuplicate",
    "connected_components",
    "extract_features",
    "find_near_duplicates",
    "find_near_duplicates_between",
]
