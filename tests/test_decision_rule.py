from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import softmax

from skincnn.metrics.calibration import CalibrationMap
from skincnn.metrics.decision_rule import DecisionRule
from skincnn.serving.postprocessing import postprocess

RULE = DecisionRule(
    class_names=("bcc", "bkl", "mel"),
    set_thresholds=(0.2, 0.5, 0.0),
    calibration_map=CalibrationMap(temperature=2.0, bias=(0.5, 0.3, -0.8)),
    threshold=0.6,
    max_distance=1.5,
)
RNG = np.random.default_rng(0)
PROBABILITIES = RNG.dirichlet(np.ones(3), 200)
DISTANCES = RNG.gamma(4, 0.25, 200)


@pytest.mark.parametrize("max_distance", [1.5, None])
@pytest.mark.parametrize("threshold", [0.6, None])
@pytest.mark.parametrize("names", [RULE.class_names, ("own", "bkl", "nv")])
def test_the_rule_is_the_same_for_arrays_and_tensors(
    threshold: float | None, names: tuple[str, ...], max_distance: float | None
) -> None:
    """Evaluation uses NumPy arrays; exports use float32 tensors in a graph."""
    changes = {"threshold": threshold, "class_names": names}
    rule = RULE.model_copy(update={**changes, "max_distance": max_distance})
    refer, ood = rule.decide(PROBABILITIES, DISTANCES)
    expected = DISTANCES > 1.5
    assert 0 < expected.mean() < 1
    if max_distance is None:
        expected = np.zeros(len(DISTANCES), bool)
    assert ood.tolist() == expected.tolist()
    if threshold is not None and rule.target is not None:
        expected = expected | (PROBABILITIES[:, 0] + PROBABILITIES[:, 2] >= 0.6)
    assert refer.tolist() == expected.tolist()

    @tf.function
    def decide(
        probabilities: tf.Tensor, distances: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        return rule.decide(probabilities, distances)

    outputs = postprocess(
        [tf.constant(PROBABILITIES, tf.float32)],
        [tf.constant(DISTANCES, tf.float32)],
        tf.ones(200, tf.bool),
        rule,
    )
    referral = {"malignant_probability", "refer"}
    # The class "own" may be malignant or benign.
    assert outputs.keys() & referral == (set() if "own" in names else referral)
    assert ("out_of_distribution" in outputs) == (max_distance is not None)
    in_graph = decide(
        tf.constant(PROBABILITIES, tf.float32), tf.constant(DISTANCES, tf.float32)
    )
    for tensor, array in zip(in_graph, (refer, ood), strict=True):
        np.testing.assert_array_equal(tensor, array)


def test_exports_apply_the_rule_to_calibrated_probabilities() -> None:
    bias = np.array(RULE.calibration_map.bias)
    logits = RULE.calibration_map.temperature * (np.log(PROBABILITIES) - bias)
    distances = tf.constant(DISTANCES, tf.float32)
    is_readable = tf.constant([False] + [True] * 199)
    outputs = postprocess([tf.constant(logits, tf.float32)], [distances], is_readable, RULE)
    np.testing.assert_allclose(outputs["probabilities"][1:], PROBABILITIES[1:], atol=1e-6)
    refer, ood = RULE.decide(PROBABILITIES, DISTANCES)
    np.testing.assert_array_equal(outputs["refer"][1:], refer[1:])
    np.testing.assert_array_equal(outputs["out_of_distribution"][1:], ood[1:])
    uncalibrated = softmax(logits, axis=1)
    np.testing.assert_allclose(
        outputs["uncalibrated_probabilities"][1:], uncalibrated[1:], atol=1e-6
    )
    np.testing.assert_allclose(RULE.calibration_map.apply(uncalibrated), PROBABILITIES)
    # The bias changes the most probable class of some images, but not the predicted class.
    best = uncalibrated.argmax(axis=1)
    assert (best != PROBABILITIES.argmax(axis=1)).any()
    names = [RULE.class_names[index].encode() for index in best]
    assert outputs["predicted_class"].numpy()[1:].tolist() == names[1:]
    assert outputs["refer"][0]
    assert not outputs["out_of_distribution"][0]
    assert outputs["predicted_class"][0] == b""


def test_prediction_sets_are_the_same_in_numpy_and_tensorflow() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (50, 3)).astype(np.float32)
    outputs = postprocess(
        [tf.constant(logits)], [tf.zeros(50)], tf.constant([False] + [True] * 49), RULE
    )
    in_set = outputs["in_prediction_set"].numpy()
    probabilities = outputs["probabilities"].numpy()[1:]
    np.testing.assert_array_equal(in_set[1:], RULE.prediction_set(probabilities))
    np.testing.assert_array_equal(in_set[1:], probabilities >= np.array([0.2, 0.5, 0.0]))
    assert not in_set[0].any()
    assert in_set[1:, 2].all()
