"""Whether probabilities mean what they say, and the one number that mends most of it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.optimize
import scipy.special

from skincnn.metrics.classification import NUM_BINS, Floats, Labels, Sample, log_loss

TEMPERATURES = (0.05, 20.0)
"""Between which one is looked for."""


def fit_temperature(y_true: Labels, y_prob: Floats) -> float:
    """Returns the temperature under which these labels are likeliest.

    Guo et al., On Calibration of Modern Neural Networks (2017), section 4.2. Fit it on
    validation; a temperature fitted on the test set would flatter.

    Args:
        y_true: Integer labels [num_images].
        y_prob: Probabilities [num_images, num_classes].

    Returns:
        0.05 to 20; above 1 for a model that is too sure of itself.
    """

    def loss(log_temperature: float) -> float:
        scaled = apply_temperature(y_prob, float(np.exp(log_temperature)))
        return float(log_loss(Sample(y_true, scaled)))

    found = scipy.optimize.minimize_scalar(
        loss, bounds=tuple(np.log(TEMPERATURES)), method="bounded", options={"xatol": 1e-6}
    )
    return float(np.exp(found.x))


def apply_temperature(y_prob: Floats, temperature: float) -> Floats:
    """Returns the softmax of the logits divided by a temperature.

    The logarithms of probabilities are the logits but for a number that a softmax ignores.
    The order of the classes does not change, and so no prediction does.

    Args:
        y_prob: Probabilities [num_images, num_classes]; one of 0 counts as 1.2e-38.
        temperature: Above 0.
    """
    logits = np.log(np.maximum(y_prob, np.finfo(np.float32).tiny))
    return np.asarray(scipy.special.softmax(logits / temperature, axis=1))


def reliability(y_true: Labels, y_prob: Floats) -> pd.DataFrame:
    """Returns what the reliability diagram shows, a row for each of 15 bins of confidence.

    Returns:
        Columns low and high (the bin's ends), num_images, confidence (the mean of the
        largest probabilities) and accuracy; the last two are missing in an empty bin.
    """
    sample = Sample(y_true, y_prob)
    confidence = y_prob.max(axis=1)
    rows = pd.DataFrame(
        {
            "bin": np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1),
            "confidence": confidence,
            "accuracy": sample.y_pred == sample.y_true,
        }
    )
    groups = rows.groupby("bin")
    means = groups.mean().reindex(range(NUM_BINS))
    sizes = groups.size().reindex(range(NUM_BINS), fill_value=0)
    edges = np.linspace(0, 1, NUM_BINS + 1)
    return pd.DataFrame(
        {
            "low": edges[:-1],
            "high": edges[1:],
            "num_images": sizes,
            "confidence": means["confidence"],
            "accuracy": means["accuracy"],
        }
    ).reset_index(drop=True)
