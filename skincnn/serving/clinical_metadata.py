"""What an exported model is told of a patient: years and words, encoded in its graph."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from skincnn.clinical_metadata import CLINICAL_FEATURES, REGION_OF, REGIONS, SEXES, UNKNOWN

SIGNATURE = (
    tf.TensorSpec((None,), tf.float32, name="age"),
    tf.TensorSpec((None,), tf.string, name="sex"),
    tf.TensorSpec((None,), tf.string, name="localization"),
)
"""An input for each of `CLINICAL_COLUMNS`."""


def encode(age: tf.Tensor, sex: tf.Tensor, localization: tf.Tensor) -> tf.Tensor:
    """Returns float32 [batch, len(CLINICAL_FEATURES)], equal to `encode_clinical_metadata`.

    Made of TensorFlow's operations alone, so that a SavedModel can hold it.

    Args:
        age: Years, float32 [batch]; NaN where it is not known.
        sex: Words, string [batch]; "unknown" or "" where it is not known.
        localization: Sites on the body, string [batch]; "unknown" or "" likewise.

    Raises:
        tf.errors.InvalidArgumentError: An age of the batch is no age, or a word is not
            known; there is no answer then for the others either, as with a picture that
            cannot be decoded.
    """
    unknown = tf.math.is_nan(age)
    age = tf.where(unknown, 0.0, age)
    possible = tf.math.is_finite(age) & (age >= 0)
    tf.debugging.Assert(
        tf.reduce_all(possible),
        ["age must be years >= 0, or NaN. Received:", tf.boolean_mask(age, ~possible)],
    )
    centuries = tf.cast(tf.cast(age, tf.float64) / 100, tf.float32)
    sexes = (*SEXES, UNKNOWN)
    regions = (*REGIONS, UNKNOWN)
    places_of_sites = {site: regions.index(region) for site, region in REGION_OF.items()}
    encoded = tf.concat(
        [
            centuries[:, None],
            tf.cast(unknown, tf.float32)[:, None],
            tf.one_hot(
                _places("sex", sex, {name: i for i, name in enumerate(SEXES)}), len(sexes)
            ),
            tf.one_hot(
                _places("localization", localization, places_of_sites), len(regions)
            ),
        ],
        axis=1,
    )
    return tf.ensure_shape(encoded, (None, len(CLINICAL_FEATURES)))


def _places(name: str, words: tf.Tensor, places: Mapping[str, int]) -> tf.Tensor:
    """Returns the place of each word, int32 [batch]; "unknown" has the last one."""
    last = max(places.values()) + 1
    places = {**places, UNKNOWN: last, "": last}
    words = tf.strings.lower(tf.strings.strip(words), encoding="utf-8")
    words = tf.strings.regex_replace(words, "_", " ")
    is_word = words[:, None] == tf.constant(list(places))
    strange = tf.boolean_mask(words, ~tf.reduce_any(is_word, axis=1))
    tf.debugging.Assert(
        tf.equal(tf.size(strange), 0),
        [f"{name} must hold some of {', '.join(places)}. Received:", strange],
    )
    # Compared with each word in turn: a table would have to be tracked by the model.
    return tf.gather(
        tf.constant(list(places.values())), tf.argmax(is_word, axis=1, output_type=tf.int32)
    )
