"""Logit adjustment after training: common classes must be surer to be called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import scipy.special

from skincnn.inference.predictions import ENERGY, PROBABILITY_PREFIX, arrays
from skincnn.metrics.classification import balanced_accuracy
from skincnn.metrics.sample import Floats, Labels, Sample

ADJUSTED = "adjusted"
STRENGTHS = np.linspace(-1, 1.5, 51)
"""Among which one is chosen. The authors' is 1, for a training that did nothing about
classes; one that went too far is taken back by less than 0."""


def adjusted_name(way: str) -> str:
    """Returns "augment_adjusted" of "augment", "adjusted" of "", the plain result."""
    return f"{way}_{ADJUSTED}" if way else ADJUSTED


def unadjusted_name(way: str) -> str:
    """Returns "augment" of "augment_adjusted", "" of "adjusted"; any other as it is."""
    return way.removesuffix(ADJUSTED).removesuffix("_")


def adjust(y_prob: Floats, shares: Floats, strength: float) -> Floats:
    """Returns probabilities whose logits are less by strength * log(share of the class).

    Menon et al., Long-tail Learning via Logit Adjustment (2021), arXiv:2007.07314, (9).

    Args:
        y_prob: Probabilities [num_images, num_classes]; one of 0 counts as 1.2e-38.
        shares: Of each class in the training, above 0, [num_classes].
        strength: 0 changes nothing; 1 is right for balanced accuracy if the probabilities
            are.
    """
    logits = np.log(np.maximum(y_prob, np.finfo(np.float32).tiny))
    return np.asarray(scipy.special.softmax(logits - strength * np.log(shares), axis=1))


def choose_strength(y_true: Labels, y_prob: Floats, shares: Floats) -> float:
    """Returns the strength of the best balanced accuracy; of several, the one nearest to 0.

    Args:
        y_true: Integer labels [num_images]; those of validation.
        y_prob: Probabilities [num_images, num_classes].
        shares: Of each class in the training, [num_classes].
    """
    scores = {
        float(strength): float(
            balanced_accuracy(Sample(y_true, adjust(y_prob, shares, strength)))
        )
        for strength in STRENGTHS
    }
    return max(scores, key=lambda strength: (scores[strength], -abs(strength)))


def adjust_tables(
    tables: Mapping[str, pd.DataFrame],
    class_names: Sequence[str],
    class_counts: Mapping[str, int],
) -> tuple[dict[str, pd.DataFrame], float]:
    """Returns the adjusted predictions of each split, and the strength that "val" chose.

    Args:
        tables: Split to its predictions, "val" among them.
        class_names: The names of the classes, in order.
        class_counts: The training pictures of each.
    """
    shares = np.array([max(class_counts[name], 1) for name in class_names], float)
    shares /= shares.sum()
    strength = choose_strength(*arrays(tables["val"], class_names), shares)
    adjusted = {}
    for split, table in tables.items():
        y_prob = adjust(arrays(table, class_names)[1], shares, strength)
        columns = {
            f"{PROBABILITY_PREFIX}{name}": y_prob[:, index]
            for index, name in enumerate(class_names)
        }
        # The energy is that of other logits.
        adjusted[split] = table.assign(**columns).drop(columns=ENERGY)
    return adjusted, strength
