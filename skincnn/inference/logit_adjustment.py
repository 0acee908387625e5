"""Post-hoc logit adjustment for imbalanced classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import scipy.special

from skincnn.inference.predictions import ENERGY, arrays, probability_columns
from skincnn.metrics.classification import balanced_accuracy
from skincnn.metrics.sample import Floats, Labels, Sample

ADJUSTED = "adjusted"
STRENGTHS = np.linspace(-1, 1.5, 51)
"""Candidate strengths, from -1 to 1.5 in steps of 0.05.

Menon et al. (see `adjust`) use 1 for models that are trained without class balancing.
Negative strengths undo excessive balancing in training."""


def adjusted_name(variant: str) -> str:
    """Returns "augment_adjusted" for "augment", and "adjusted" for "" (the model as is)."""
    return f"{variant}_{ADJUSTED}" if variant else ADJUSTED


def unadjusted_name(variant: str) -> str:
    """Returns "augment" for "augment_adjusted" or "augment", and "" for "adjusted"."""
    return variant.removesuffix(ADJUSTED).removesuffix("_")


def variant_flags(variant: str) -> str:
    """Returns the flags of a variant: " --tta d4 --logit-adjustment" for "d4_adjusted"."""
    tta = unadjusted_name(variant)
    adjusted = " --logit-adjustment" if variant != tta else ""
    return f"{f' --tta {tta}' if tta else ''}{adjusted}"


def class_priors(class_names: Sequence[str], class_counts: Mapping[str, int]) -> Floats:
    """Returns the frequency of each class in training, [num_classes], with the sum 1.

    `class_counts` are the numbers of training images by class. A class without images is
    treated as if it had one image.
    """
    counts = np.array([max(class_counts[name], 1) for name in class_names], float)
    return np.asarray(counts / counts.sum())


def adjust(y_prob: Floats, class_priors: Floats, strength: float) -> Floats:
    """Returns adjusted probabilities, [num_images, num_classes].

    They are the softmax of log(y_prob) - strength * log(class_priors): Menon et al.,
    Long-tail Learning via Logit Adjustment (2021), arXiv:2007.07314, equation (9).

    Args:
        y_prob: Probabilities [num_images, num_classes]. Values below 1.2e-38 are replaced
            with 1.2e-38.
        class_priors: Positive frequency of each class in training, [num_classes].
        strength: Strength of the adjustment. 0 changes nothing; 1 is optimal for the
            balanced accuracy if the probabilities are correct for `class_priors`.
    """
    logits = np.log(np.maximum(y_prob, np.finfo(np.float32).tiny))
    adjusted = logits - strength * np.log(class_priors)
    return np.asarray(scipy.special.softmax(adjusted, axis=1))


def choose_strength(y_true: Labels, y_prob: Floats, class_priors: Floats) -> float:
    """Returns the strength in `STRENGTHS` with the best balanced accuracy after `adjust`.

    The balanced accuracy is that of the given images. Of several such strengths, the one
    closest to 0 is returned. `y_true` are integer labels [num_images]; see `adjust` for the
    other arguments.
    """

    def key(strength: float) -> tuple[float, float]:
        sample = Sample(y_true, adjust(y_prob, class_priors, strength))
        return float(balanced_accuracy(sample)), -abs(strength)

    return max(STRENGTHS.tolist(), key=key)


def adjust_tables(
    tables: Mapping[str, pd.DataFrame],
    class_names: Sequence[str],
    class_counts: Mapping[str, int],
) -> tuple[dict[str, pd.DataFrame], float]:
    """Returns the adjusted predictions tables by split, and the strength.

    The strength is chosen on the table "val". `class_counts` are the numbers of training
    images by class. The adjusted tables have no column `ENERGY`.
    """
    priors = class_priors(class_names, class_counts)
    strength = choose_strength(*arrays(tables["val"], class_names), priors)
    adjusted = {}
    for split, table in tables.items():
        y_prob = adjust(arrays(table, class_names)[1], priors, strength)
        columns = probability_columns(y_prob, class_names)
        # The energy is that of the original logits, not of the adjusted ones.
        adjusted[split] = table.assign(**columns).drop(columns=ENERGY)
    return adjusted, strength
