"""Variants of a run's predictions: as is, test-time augmentation, logit adjustment."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from skincnn.evaluation.results import InferenceCost, SplitResult, split_name
from skincnn.evaluation.scoring import InferenceVariant
from skincnn.evaluation.splits import LoadedRun, Split
from skincnn.inference.logit_adjustment import adjust_tables, adjusted_name
from skincnn.inference.ood import FeatureGaussian, fit_gaussian
from skincnn.inference.predict import predict
from skincnn.inference.predictions import (
    DISTANCE,
    as_written,
    file_sha256,
    mean_predictions,
    read_predictions,
    table_path,
)
from skincnn.inference.run_dir import RunInfo
from skincnn.inference.tta import VIEWS, View, predict_views

T = TypeVar("T")


def predict_as_is(run: LoadedRun) -> tuple[InferenceVariant, FeatureGaussian]:
    """Returns the predictions of the model as is, and the Gaussians for OOD detection.

    The tables of all splits contain the OOD distances (`DISTANCE`).
    """
    outputs, seconds = _timed(
        run, lambda split: predict(run.feature_model, split.batches())
    )
    groups = run.splits["val"].table["group_id"].tolist()
    gaussian, validation_distances = fit_gaussian(outputs["val"][1:], groups)
    tables = {
        name: run.predictions_table(name, logits).assign(
            **{DISTANCE: gaussian.distances(features)}
        )
        for name, (logits, *features) in outputs.items()
    }
    tables["val"][DISTANCE] = validation_distances
    cost = InferenceCost(num_views=1, seconds_per_image=seconds)
    return InferenceVariant("", tables, cost), gaussian


def predict_tta(
    run: LoadedRun, as_is: InferenceVariant, name: str, views: Sequence[View]
) -> InferenceVariant:
    """Returns the mean predictions over several views of each image, as variant `name`.

    The OOD distances are those of the original images, from `as_is`.
    """
    outputs, seconds = _timed(
        run, lambda split: predict_views(run.model, split.batches(), views)
    )
    tables = {
        split: mean_predictions(
            [run.predictions_table(split, one) for one in logits]
        ).assign(**{DISTANCE: as_is.tables[split][DISTANCE]})
        for split, logits in outputs.items()
    }
    cost = InferenceCost(num_views=len(views), seconds_per_image=seconds)
    return InferenceVariant(name, tables, cost)


def read_tta(
    workdir: Path,
    results: Mapping[str, SplitResult],
    splits: Collection[str],
    leave_out: Collection[str],
) -> list[InferenceVariant]:
    """Reads the predictions of `splits` with test-time augmentation from `workdir`.

    `results` are from `read_split_results`. Tables that do not match their result are
    skipped, and so are augmentations in `leave_out` or without a validation table.

    Raises:
        DataError: A predictions table is damaged.
        OSError: A predictions table exists, but is not readable.
    """
    variants = []
    for name in VIEWS:
        tables = {}
        for split in splits:
            result = results.get(split_name(split, name))
            path = table_path(workdir, split_name(split, name))
            if result and path.is_file() and file_sha256(path) == result.predictions_sha256:
                tables[split] = read_predictions(path)
        if name not in leave_out and "val" in tables:
            cost = results[split_name("val", name)].cost
            variants.append(InferenceVariant(name, tables, cost))
    return variants


def reread(variant: InferenceVariant) -> InferenceVariant:
    """Returns a variant with its tables as if they had been written and read again.

    Logit adjustment in this evaluation then gives the same values as in a later evaluation,
    which reads the tables from files.
    """
    tables = {split: as_written(table) for split, table in variant.tables.items()}
    return dataclasses.replace(variant, tables=tables)


def adjust_variant(variant: InferenceVariant, info: RunInfo) -> InferenceVariant:
    """Returns a variant after logit adjustment, with the same cost."""
    tables, strength = adjust_tables(variant.tables, info.class_names, info.class_counts)
    return InferenceVariant(adjusted_name(variant.name), tables, variant.cost, strength)


def _timed(run: LoadedRun, predict: Callable[[Split], T]) -> tuple[dict[str, T], float]:
    """Returns the outputs by split, and the seconds per image on the second split (test).

    The time on the first split (val) includes compilation.
    """
    outputs, seconds = {}, []
    for name, split in run.splits.items():
        started = time.perf_counter()
        outputs[name] = predict(split)
        seconds.append((time.perf_counter() - started) / len(split.table))
    return outputs, seconds[1]
