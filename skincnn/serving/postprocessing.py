"""Computes the outputs of a served model from logits and distances, in TensorFlow."""

from __future__ import annotations

import math
from collections.abc import Sequence

import tensorflow as tf

from skincnn.metrics.decision_rule import DecisionRule
from skincnn.serving.images import OK, UNREADABLE


def postprocess(
    logits: Sequence[tf.Tensor],
    distances: Sequence[tf.Tensor],
    is_readable: tf.Tensor,
    rule: DecisionRule,
) -> dict[str, tf.Tensor]:
    """Returns the outputs of a served model by name, for a batch of images.

    Probabilities are averaged over the networks, as in
    `inference.predictions.mean_predictions`, and then calibrated with `CalibrationMap`.

    Args:
        logits: One tensor for each network, float32 [batch, num_classes].
        distances: OOD distances, one tensor for each network, float32 [batch]; empty if the
            networks do not return them.
        is_readable: Whether each file is readable, bool [batch]. For unreadable files, all
            numbers are NaN, the prediction set is empty, the predicted class is "", `refer`
            is true, and `out_of_distribution` is false.
        rule: The referral rule.

    Returns:
        probabilities: Calibrated probabilities, float32 [batch, num_classes].
        uncalibrated_probabilities: Probabilities before calibration, float32
            [batch, num_classes].
        class_names: Class names, repeated in each row, string [batch, num_classes].
        predicted_class: Class with the highest probability before calibration, string
            [batch], as in the scores of the evaluation.
        in_prediction_set: Whether each class is in the prediction set, bool
            [batch, num_classes].
        malignant_probability: Sum of the probabilities of the malignant classes, float32
            [batch]; only if the rule has a target.
        refer: Whether the rule refers the image, bool [batch]; only if the rule has a
            target.
        ood_distance: OOD distance, averaged over the networks, float32 [batch]; NaN
            without `distances`.
        out_of_distribution: Whether the distance exceeds `rule.max_distance`, bool [batch];
            only if OOD detection is switched on.
        status: `OK` or `UNREADABLE`, string [batch].
    """
    log_mean = tf.reduce_logsumexp(
        [tf.nn.log_softmax(part) for part in logits], axis=0
    ) - math.log(len(logits))
    uncalibrated = tf.exp(log_mean)
    probabilities = tf.nn.softmax(rule.calibration_map.logits(log_mean))
    if distances:
        distance = tf.reduce_mean(tf.stack(distances), axis=0)
    else:
        distance = tf.fill(tf.shape(log_mean)[:1], math.nan)
    refer, out_of_distribution = rule.decide(probabilities, distance)
    names = tf.constant(rule.class_names)
    predicted = tf.gather(names, tf.argmax(log_mean, axis=-1))
    rows = is_readable[:, None]
    decisions = {}
    if rule.max_distance is not None:
        decisions["out_of_distribution"] = is_readable & out_of_distribution
    if rule.target is not None:
        malignant = sum(probabilities[:, index] for index in rule.target.classes)
        decisions["malignant_probability"] = tf.where(is_readable, malignant, math.nan)
        decisions["refer"] = ~is_readable | refer
    return decisions | {
        "probabilities": tf.where(rows, probabilities, math.nan),
        "uncalibrated_probabilities": tf.where(rows, uncalibrated, math.nan),
        "class_names": tf.tile(names[None], (tf.size(is_readable), 1)),
        "predicted_class": tf.where(is_readable, predicted, ""),
        "in_prediction_set": rows & rule.prediction_set(probabilities),
        "ood_distance": tf.where(is_readable, distance, math.nan),
        "status": tf.where(is_readable, OK, UNREADABLE),
    }
