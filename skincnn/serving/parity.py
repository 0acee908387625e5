"""How far an export answers as the network does, class by class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from skincnn.config import Config
from skincnn.errors import DataError
from skincnn.files import locked, write_json, write_text
from skincnn.inference.run_dir import read_report
from skincnn.metrics.classification import balanced_accuracy
from skincnn.metrics.sample import Floats, Labels, Sample
from skincnn.reporting.model_card import render_card
from skincnn.serving.postprocessing import DecisionRule, answer

Decisions = dict[str, npt.NDArray[np.bool_]]
NUM_COMPARED = 256
"""Pictures of the test fold, at equal distances, on which a copy is compared."""
FEW_OF_CLASS, MOST_OF_CLASS = 20, 100
"""Of a class with fewer than the one among these all are added, at most the other."""


def choose_compared(labels: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Returns the places of pictures on which a copy is compared, the same each time.

    They lie at equal distances, so that they are as the fold is. Of a class that these
    hold fewer than `FEW_OF_CLASS` of, all follow, or `MOST_OF_CLASS` of them: a copy may
    not lose one that is rare.

    Args:
        labels: Of the pictures of the fold, in the order of their table.

    Returns:
        Each place once, int64 [num_compared]; first those at equal distances.
    """
    names = np.asarray(labels)
    chosen = _spread(np.arange(len(names)), NUM_COMPARED)
    for name in np.unique(names):
        if (names[chosen] == name).sum() < FEW_OF_CLASS:
            others = np.setdiff1d(np.flatnonzero(names == name), chosen)
            chosen = np.concatenate([chosen, _spread(others, MOST_OF_CLASS)])
    return chosen


def agreement(
    y_true: Labels, before: Floats, after: Floats, class_names: Sequence[str]
) -> dict[str, Any]:
    """Returns what a copy changes.

    Args:
        y_true: Labels of pictures, [num_images].
        before: Probabilities of the network, [num_images, num_classes].
        after: The same of the copy.
        class_names: The names of the classes, in order.

    Returns:
        num_images, same_class (the share of pictures that are called the same),
        largest_difference in probability, balanced_accuracy_before and _after, and
        `classes`: name to num_images, same_class, largest_difference, recall_before and
        recall_after; None where there is no picture of a class.
    """
    called = before.argmax(axis=1), after.argmax(axis=1)
    same, away = called[0] == called[1], np.abs(after - before).max(axis=1)
    described = {}
    for number, name in enumerate(class_names):
        of_class = y_true == number
        described[name] = {
            "num_images": int(of_class.sum()),
            "same_class": _mean(same[of_class]),
            "largest_difference": _largest(away[of_class]),
            "recall_before": _mean(called[0][of_class] == number),
            "recall_after": _mean(called[1][of_class] == number),
        }
    scores = [float(balanced_accuracy(Sample(y_true, prob))) for prob in (before, after)]
    return {
        "num_images": len(y_true),
        "same_class": _mean(same),
        "largest_difference": _largest(away),
        "balanced_accuracy_before": scores[0],
        "balanced_accuracy_after": scores[1],
        "classes": described,
    }


def refuse_other(
    name: str, found: dict[str, Any], called: Sequence[set[int]], tolerance: float | None
) -> None:
    """Refuses a copy that has lost a class, or whose probabilities are others.

    Args:
        name: Of the format, for the message.
        found: From `agreement`.
        called: The classes that the network calls pictures by, and those of the copy.
        tolerance: The largest difference in probability, if there is one.

    Raises:
        DataError: It is such a copy.
    """
    lost = sorted(
        class_name
        for number, (class_name, of) in enumerate(found["classes"].items())
        if (of["recall_before"] and not of["recall_after"])
        or (number in called[0] and number not in called[1])
    )
    if lost:
        raise DataError(
            f"The copy as {name} never tells {', '.join(lost)}, which the network does. "
            "It is not kept; export another format."
        )
    if tolerance is not None and not found["largest_difference"] <= tolerance:
        raise DataError(
            f"The copy as {name} differs by {found['largest_difference']:.2g} in "
            f"probability from the network. Expected at most {tolerance}. It is not kept."
        )


def decide(
    y_prob: npt.NDArray[Any], distances: npt.NDArray[Any], rules: DecisionRule
) -> Decisions:
    """Returns which pictures are referred, and which are unknown: bool [num_images]."""
    tiny = np.finfo(np.float32).tiny
    logits = tf.constant(np.log(np.maximum(y_prob, tiny)), tf.float32)
    is_read = tf.ones(len(y_prob), tf.bool)
    found = answer([logits], [tf.constant(distances, tf.float32)], is_read, rules)
    return {what: found[what].numpy() for what in ("refer", "unknown")}


def same_decisions(before: Decisions, after: Decisions) -> dict[str, float]:
    """Returns same_refer and same_unknown: the shares of pictures decided alike."""
    return {f"same_{what}": float(np.mean(before[what] == after[what])) for what in before}


def tell(workdir: Path, name: str, found: dict[str, Any], config: Config) -> None:
    """Writes how an export agrees into the report and the model card.

    Args:
        workdir: The folder with the report.
        name: Of the export.
        found: From `agreement` and `same_decisions`, and its size in `bytes`.
        config: The configuration that the card shows.
    """
    with locked(workdir / "export", wait=True):  # two may be exported at once
        report = read_report(workdir)
        report["exports"] = {**report.get("exports", {}), name: found}
        write_json(workdir / "report.json", report)
        write_text(workdir / "README.md", render_card(report, config))


def _spread(places: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """Returns at most `count` of the places, at equal distances."""
    at = np.linspace(0, len(places) - 1, min(count, len(places))).round().astype(int)
    return places[at]


def _mean(values: npt.NDArray[Any]) -> float | None:
    return float(values.mean()) if len(values) else None


def _largest(values: npt.NDArray[Any]) -> float | None:
    return float(values.max()) if len(values) else None
