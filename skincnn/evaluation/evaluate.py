"""Evaluation of a run: predictions on its splits, and the results computed from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from skincnn.commands import command_line
from skincnn.config import Config
from skincnn.config.section import require_count
from skincnn.data.cache import Cache, Images
from skincnn.evaluation.mistakes import Mistakes, collect_mistakes, mistakes_path
from skincnn.evaluation.ood import choose_max_distance, score_all_ood
from skincnn.evaluation.results import (
    FOLDER,
    OTHER_RESULTS,
    SplitResult,
    read_split_results,
    result_path,
    write_results,
)
from skincnn.evaluation.robustness import score_corruptions
from skincnn.evaluation.scoring import InferenceVariant, score_variants
from skincnn.evaluation.splits import LoadedRun, describe_storage, load_run, name_splits
from skincnn.evaluation.variants import (
    adjust_variant,
    predict_as_is,
    predict_tta,
    read_tta,
    reread,
)
from skincnn.inference.grad_cam import GradCam
from skincnn.inference.logit_adjustment import adjusted_name
from skincnn.inference.ood import OOD_FILE, FeatureGaussian, predict_ood
from skincnn.inference.ood_images import OOD_TABLE, make_ood_images, read_ood_folder
from skincnn.inference.predictions import (
    file_sha256,
    table_path,
    table_sha256,
    write_predictions,
)
from skincnn.inference.run_dir import read_run
from skincnn.inference.scored_tables import record_scored
from skincnn.inference.tta import VIEWS, View
from skincnn.lookup import look_up
from skincnn.metrics.calibration import CalibrationMap
from skincnn.parts import is_custom, warn_of_changes
from skincnn.paths import real_path
from skincnn.records import Record
from skincnn.write_errors import explain_write_errors

Tables = dict[str, pd.DataFrame]
"""Predictions tables by name, such as "test.d4"."""


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Evaluations in addition to that of the model as is on validation and test.

    Attributes:
        splits: Other splits of the dataset, such as "fold_3" or "test_official".
        tta: Kinds of test-time augmentation (keys of `VIEWS`).
        num_views: Number of views of each image for test-time augmentation.
        logit_adjustment: Whether to also apply logit adjustment to the model as is, and to
            each kind of test-time augmentation in this evaluation or an earlier one.
        corruptions: Whether to also evaluate on corrupted images: those of `splits[0]`, or
            of the test split if `splits` is empty.
        ood_dir: A directory of OOD images to use in addition to the built-in ones.
    """

    splits: Sequence[str] = ()
    tta: Sequence[str] = ()
    num_views: int = 8
    logit_adjustment: bool = False
    corruptions: bool = False
    ood_dir: Path | None = None


@dataclass(frozen=True)
class Evaluation:
    """The predictions tables and results, by name, for `write_evaluation`.

    `headline` is the split to report first. `folders` are the directories of the built
    datasets, by name. `gaussian` describes the features of validation images for OOD
    detection. `mistakes` are from `collect_all_mistakes`.
    """

    headline: str
    folders: dict[str, Path]
    gaussian: FeatureGaussian
    predictions: Tables
    results: dict[str, Record]
    mistakes: dict[str, Mistakes]


def evaluate(
    workdir: Path,
    data_dir: Path | None = None,
    cache: Cache = "auto",
    options: EvaluateOptions | None = None,
) -> Evaluation:
    """Predicts the splits of a run and computes all results, without writing them.

    For `data_dir` and `cache`, see `load_run`.

    Raises:
        ConfigError: The directory contains no finished run, a file is damaged, a split or
            option is not valid for this run, or a custom metric or augmentation cannot be
            imported or fails; see also `load_run`.
        DataError: The dataset is missing, damaged or not that of the training run, the
            model file or an earlier predictions table is damaged, or an image in
            `options.ood_dir` cannot be read or decoded; see also `load_run`.
        OSError: The model file or a predictions table exists, but is not readable; see also
            `load_run`.
    """
    options = options or EvaluateOptions()
    info, config = read_run(workdir)
    # Invalid input is rejected before the slow steps.
    augmentations = config.augment.parts if "augment" in options.tta else ()
    custom = filter(is_custom, (*config.evaluate.metrics, *augmentations))
    warn_of_changes(info.modules, tuple(custom), workdir)
    on_disk = read_split_results(workdir) if options.logit_adjustment else {}
    views = choose_views(options, config)
    ood_images = read_ood_images(options, config)
    run = load_run(workdir, data_dir, cache, options.splits)
    as_is, gaussian = predict_as_is(run)
    built_in = make_ood_images(config.data, run.splits["val"].images)
    ood = {
        name: predict_ood(run.feature_model, gaussian, *images, run.info.class_names)
        for name, images in {OOD_TABLE: built_in, **ood_images}.items()
    }
    variants = [as_is, *(predict_tta(run, as_is, name, views[name]) for name in views)]
    if options.logit_adjustment:
        tta_on_disk = read_tta(workdir, on_disk, as_is.tables, leave_out=list(views))
        predicted = [as_is, *tta_on_disk, *map(reread, variants[1:])]
        variants += [adjust_variant(variant, run.info) for variant in predicted]
    stored_in = {split: describe_storage(split, config) for split in run.splits}
    max_distance = choose_max_distance(as_is.tables["val"], ood)
    tables, scores = score_variants(
        variants,
        stored_in,
        run.leakage,
        config.evaluate,
        max_distance,
        run.info.declared,
    )
    results = {**scores, **score_all_ood(as_is.tables, ood, config.evaluate)}
    headline = (*name_splits(options.splits, config), "test")[0]
    clean = scores[headline]
    if options.corruptions:
        results[f"{headline}.corruptions"] = evaluate_corruptions(run, as_is, clean)
    mistakes = collect_all_mistakes(run, as_is, clean.calibration_map)
    predictions = {**ood, **tables}
    return Evaluation(headline, run.folders, gaussian, predictions, results, mistakes)


def write_evaluation(workdir: Path, evaluation: Evaluation) -> None:
    """Writes the tables, results, mistakes and `FeatureGaussian` of an evaluation.

    The predictions tables of all splits except validation are also recorded as scored; see
    `record_scored`. Other results of the run are kept, except those that `remove_replaced`
    removes.

    Raises:
        ConfigError: A file cannot be written or removed.
    """
    advice = f"Afterward, run: {command_line('evaluate', workdir)}"
    with explain_write_errors(f"The evaluation of {workdir}", advice):
        remove_replaced(workdir, evaluation.predictions)
        evaluation.gaussian.write(workdir / OOD_FILE)
        write_predictions(workdir, evaluation.predictions)
        scored = {
            name: result
            for name, result in evaluation.results.items()
            if isinstance(result, SplitResult) and result.split != "val"
        }
        tables = {name: evaluation.predictions[name] for name in scored}
        positions = record_scored(evaluation.folders, tables)
        numbered = {
            name: result.model_copy(update={"position": positions[name]})
            for name, result in scored.items()
        }
        write_results(workdir, {**evaluation.results, **numbered})
        for name in evaluation.predictions:  # a split may now have no errors
            mistakes_path(workdir, name).unlink(missing_ok=True)
        for split, mistakes in evaluation.mistakes.items():
            mistakes.write(mistakes_path(workdir, split))


def remove_replaced(workdir: Path, predictions: Tables) -> None:
    """Removes results that would be inconsistent with new predictions.

    If a new table with test-time augmentation differs from the table that it replaces (for
    example, in the number of views), all earlier results with this augmentation are
    outdated, with and without logit adjustment. These results and their tables are removed,
    except for those that new tables replace.

    Raises:
        OSError: A file cannot be read or removed.
    """
    existing = {path.stem for path in (workdir / FOLDER).glob("[!.]*.json")}
    for tta in VIEWS:
        new = [name for name in predictions if _has_variant(name, tta)]
        replaced = any(
            (path := table_path(workdir, name)).is_file()
            and file_sha256(path) != table_sha256(predictions[name])
            for name in new
        )
        for name in existing - predictions.keys():
            depends = any(_has_variant(name, v) for v in (tta, adjusted_name(tta)))
            if replaced and depends:
                table_path(workdir, name).unlink(missing_ok=True)
                result_path(workdir, name).unlink()


def choose_views(options: EvaluateOptions, config: Config) -> dict[str, list[View]]:
    """Returns the views of each kind of test-time augmentation.

    Raises:
        ConfigError: A kind does not exist, or the number of views is not valid; see also
            `skincnn.inference.tta.augmented_views`.
    """
    count = options.num_views
    require_count("num_views", count)
    return {name: look_up(VIEWS, name, "`tta`")(config, count) for name in options.tta}


def read_ood_images(
    options: EvaluateOptions, config: Config
) -> dict[str, tuple[pd.DataFrame, Images]]:
    """Returns the OOD images in `options.ood_dir`, if any, by table name.

    Raises:
        ConfigError: See `read_ood_folder`.
        DataError: See `read_ood_folder`.
    """
    if options.ood_dir is None:
        return {}
    name = f"{OOD_TABLE}.{real_path(options.ood_dir).name}"
    return {name: read_ood_folder(options.ood_dir, config.data)}


def evaluate_corruptions(
    run: LoadedRun, as_is: InferenceVariant, clean: SplitResult
) -> Record:
    """Returns the scores on corrupted images of `clean.split`; see `score_corruptions`.

    `clean` is the result of the model as is.
    """
    split = run.splits[clean.split]

    def predict(images: Images, rows: slice) -> npt.NDArray[np.float32]:
        inputs: Any = images
        if split.metadata is not None:
            inputs = {"images": images, "metadata": split.metadata[rows]}
        return np.asarray(run.model.predict_on_batch(inputs), np.float32)

    table = as_is.tables[clean.split]
    return score_corruptions(predict, split.images, table, clean, run.config)


def collect_all_mistakes(
    run: LoadedRun, as_is: InferenceVariant, calibration_map: CalibrationMap
) -> dict[str, Mistakes]:
    """Returns the most confident errors by split; omits val and splits without errors."""
    grad_cam = GradCam(run.model)
    mistakes = {
        name: collect_mistakes(
            grad_cam,
            split.images,
            split.metadata,
            as_is.tables[name],
            calibration_map,
            declared=run.info.declared,
        )
        for name, split in run.splits.items()
        if name != "val"
    }
    return {name: errors for name, errors in mistakes.items() if errors}


def _has_variant(name: str, variant: str) -> bool:
    """Returns whether a table name, such as "test.d4", has a variant, such as "d4"."""
    return name.endswith(f".{variant}") and not OTHER_RESULTS.fullmatch(name)
