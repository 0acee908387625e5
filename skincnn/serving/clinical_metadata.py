"""Encodes clinical metadata in the graph of an exported model."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from skincnn.clinical_metadata import (
    CLINICAL_FEATURES,
    REGION_OF,
    REGIONS,
    SEX_NAMES,
    UNKNOWN,
    VOCABULARIES,
)
from tfds_ham10000.records import MAX_AGE

METADATA_SIGNATURE = (
    tf.TensorSpec((None,), tf.float32, name="age"),
    tf.TensorSpec((None,), tf.string, name="sex"),
    tf.TensorSpec((None,), tf.string, name="localization"),
)
"""Clinical metadata inputs of a SavedModel, one for each of `CLINICAL_COLUMNS`."""


def encode_in_graph(age: tf.Tensor, sex: tf.Tensor, localization: tf.Tensor) -> tf.Tensor:
    """Encodes clinical metadata as `skincnn.clinical_metadata` does, but with TensorFlow.

    Args:
        age: Age in years, float32 [batch]; NaN if unknown.
        sex: A key of `VOCABULARIES["sex"]`, string [batch]; "" if unknown.
        localization: A key of `VOCABULARIES["localization"]`, string [batch]; "" if
            unknown.

    Returns:
        The `CLINICAL_FEATURES`, float32 [batch, len(CLINICAL_FEATURES)].

    Raises:
        tf.errors.InvalidArgumentError: An age in the batch is not in 0..`MAX_AGE`, or a
            sex or localization is not one of these words.
    """
    is_unknown = tf.math.is_nan(age)
    age = tf.where(is_unknown, 0.0, age)
    is_valid = (age >= 0) & (age <= MAX_AGE)
    tf.debugging.Assert(
        tf.reduce_all(is_valid),
        [
            f"age must be a number of years in 0..{MAX_AGE}, or NaN. Received:",
            tf.boolean_mask(age, ~is_valid),
        ],
    )
    centuries = tf.cast(tf.cast(age, tf.float64) / 100, tf.float32)
    sexes, regions = (*SEX_NAMES, UNKNOWN), (*REGIONS, UNKNOWN)
    sex_indices = {word: sexes.index(sex) for word, sex in VOCABULARIES["sex"].items()}
    site_indices = {
        word: regions.index(REGION_OF.get(site, UNKNOWN))
        for word, site in VOCABULARIES["localization"].items()
    }
    encoded = tf.concat(
        [
            centuries[:, None],
            tf.cast(is_unknown, tf.float32)[:, None],
            tf.one_hot(_look_up("sex", sex, sex_indices), len(sexes)),
            tf.one_hot(_look_up("localization", localization, site_indices), len(regions)),
        ],
        axis=1,
    )
    return tf.ensure_shape(encoded, (None, len(CLINICAL_FEATURES)))


def _look_up(name: str, words: tf.Tensor, indices: Mapping[str, int]) -> tf.Tensor:
    """Returns the index in `indices` for each of the `words`, int32 [batch]."""
    words = tf.strings.regex_replace(words, r"[\s_]+", " ")
    words = tf.strings.lower(tf.strings.strip(words), encoding="utf-8")
    # A tf.lookup table would be a resource that the SavedModel has to track.
    matches = words[:, None] == tf.constant(list(indices))
    invalid = tf.boolean_mask(words, ~tf.reduce_any(matches, axis=1))
    tf.debugging.Assert(
        tf.equal(tf.size(invalid), 0),
        [f"{name} must be one of {', '.join(filter(None, indices))}. Received:", invalid],
    )
    rows = tf.argmax(matches, axis=1, output_type=tf.int32)
    return tf.gather(tf.constant(list(indices.values())), rows)
