"""External validation: evaluates a run on the images of another dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from skincnn.commands import command_line
from skincnn.config import Config, EvaluateConfig
from skincnn.data.cache import Cache
from skincnn.data.combined import CombinedDataset, open_datasets
from skincnn.data.label_maps import LabelMap, find_label_map, read_user_map
from skincnn.data.links import IMAGE_ID, StoredImages, is_same_id
from skincnn.errors import ConfigError, DataError
from skincnn.evaluation.external import overlap
from skincnn.evaluation.external.result import (
    KINDS,
    ExternalResult,
    Overlap,
    external_name,
)
from skincnn.evaluation.external.scoring import (
    ORIGINAL_LABEL,
    RunChoices,
    score_chosen_prevalences,
    score_images,
    score_other_label,
    score_out_of_distribution,
)
from skincnn.evaluation.results import (
    OodResult,
    SplitResult,
    read_result,
    result_path,
    write_results,
)
from skincnn.evaluation.splits import Split, load_split
from skincnn.evaluation.triage import ValidationChoices
from skincnn.inference.load import load_model
from skincnn.inference.ood import OOD_FILE, FeatureGaussian
from skincnn.inference.predict import predict, with_features
from skincnn.inference.predictions import (
    DISTANCE,
    LEFT_OUT,
    as_written,
    file_sha256,
    predictions_table,
    read_predictions,
    table_path,
    table_sha256,
    write_predictions,
)
from skincnn.inference.run_dir import RunInfo, read_run
from skincnn.inference.scored_tables import record_scored
from skincnn.lookup import suggest
from skincnn.metrics.operating_points import find_targets
from skincnn.write_errors import explain_write_errors

OTHER_LABEL = "label"
"""Reason in `LEFT_OUT` of images whose label is not a class of the model. The other
reasons are the kinds of overlap, which have priority."""


@dataclass(frozen=True, kw_only=True)
class ExternalOptions:
    """Options of an external validation.

    Attributes:
        dataset: Name of the built dataset.
        label_map: A user's JSON file with the class of each label (see `read_user_map`);
            None for the defaults.
        prevalences: Prevalence by target, such as {"melanoma": 0.02}, at which to give PPV
            and NPV in addition to `PREVALENCES`.
        skip_overlap_audit: Whether to score the images without comparing them with the
            training and validation images.
    """

    dataset: str
    label_map: Path | None = None
    prevalences: Mapping[str, float] = field(default_factory=dict)
    skip_overlap_audit: bool = False


@dataclass(frozen=True)
class ExternalEvaluation:
    """The result of an external validation, for `write_external`.

    Attributes:
        folders: Directory of each built dataset, by name.
        predictions: The predictions table of all images, including those left out.
        result: The scores and the result of the overlap audit.
    """

    folders: dict[str, Path]
    predictions: pd.DataFrame
    result: ExternalResult


def evaluate_external(
    workdir: Path,
    options: ExternalOptions,
    data_dir: Path | None = None,
    cache: Cache = "auto",
) -> ExternalEvaluation:
    """Predicts all images of another dataset and scores them, without writing the result.

    The preprocessing, the calibration, the thresholds and the OOD limit are those of the
    run. Images whose label is not a class of the model are not scored. Images that overlap
    with the training and validation images are left out, as far as the overlap audit finds
    them, unless it is skipped. For `data_dir` and `cache`, see `load_run`.

    Raises:
        ConfigError: The directory contains no evaluated run, a file is damaged, a label has
            no entry in the label map and no default, an option is not valid for this run, a
            custom metric cannot be imported or fails, or the image cache cannot be written;
            see also `load_model`, `read_user_map` and `open_training_images`.
        DataError: A dataset is missing or damaged, the training images are not those of the
            run, the model file or the validation table is damaged, or no images remain to
            be scored.
        OSError: The model file is not readable; see also `open_training_images` and
            `find_overlap`.
    """
    info, config = read_run(workdir)
    run = read_choices(workdir, info, config.evaluate)
    check_prevalences(options.prevalences, info)
    user_map = read_user_map(options.label_map, info.class_names)
    dataset = open_external(options.dataset, config, data_dir)
    table, label_map = read_images(dataset, info, user_map)
    # Damaged files are reported before the slow search for overlap.
    gaussian = FeatureGaussian.read(workdir / OOD_FILE)
    model = with_features(load_model(workdir, info))
    audit = None
    if not options.skip_overlap_audit:
        trained, splits = overlap.open_training_images(info, config, data_dir, workdir)
        seen = pd.concat([splits["train"], splits["val"]], ignore_index=True)
        external = StoredImages(table, dataset.iterate_files, dataset.synthetic)
        kinds = overlap.find_overlap(external, *overlap.by_origin(trained, seen))
        table[LEFT_OUT] = kinds.where(kinds != "", table[LEFT_OUT])
        searched = not (info.synthetic or dataset.synthetic)
        audit = summarize_overlap(table, splits["test"], searched=searched)
    if not (table[LEFT_OUT] == "").any():
        raise DataError(
            f"No image of {dataset.full_name} remains to be scored. Left out: "
            f"{table[LEFT_OUT].value_counts().to_dict()}; {OTHER_LABEL!r} counts images "
            "whose label is not a class of the model, and the other numbers are those of "
            "images that overlap with the training and validation images, by kind of "
            "overlap. Use another dataset, or --label-map."
        )
    split = load_split(dataset, table, config, cache)
    predictions = predict_images(split, model, gaussian, info.class_names)
    result = score_external(dataset, predictions, label_map, audit, run, options)
    return ExternalEvaluation(dataset.folders, predictions, result)


def write_external(workdir: Path, evaluation: ExternalEvaluation) -> None:
    """Writes predictions/external.<name>.csv and results/external.<name>.json.

    The table is also recorded as scored; see `record_scored`. Other files are kept.

    Raises:
        ConfigError: A file cannot be written.
    """
    result = evaluation.result
    name = external_name(result.name)
    command = command_line("evaluate", workdir, "--external", result.name)
    advice = f"Afterward, run: {command}"
    with explain_write_errors(f"The evaluation of {workdir} on {result.name}", advice):
        write_predictions(workdir, {name: evaluation.predictions})
        scored = read_predictions(table_path(workdir, name))
        position = record_scored(evaluation.folders, {name: scored})[name]
        scores = result.scores.model_copy(update={"position": position})
        write_results(workdir, {name: result.model_copy(update={"scores": scores})})


def read_choices(workdir: Path, info: RunInfo, config: EvaluateConfig) -> RunChoices:
    """Returns the calibration, the thresholds and the OOD limit of an evaluated run.

    `config` contains the number of resamples and the confidence level.

    Raises:
        ConfigError: The run was not evaluated, a result is damaged, or the validation table
            has changed.
        DataError: The validation table is missing or damaged.
    """
    result = read_result(workdir, "val", SplitResult)
    ood = read_result(workdir, "ood", OodResult)
    path = table_path(workdir, "val")
    validation = read_predictions(path)
    if file_sha256(path) != result.predictions_sha256:
        raise ConfigError(
            f"{path} has changed since {result_path(workdir, 'val')} was computed from it. "
            f"Restore the file, or run: {command_line('evaluate', workdir)}"
        )
    choices = ValidationChoices(
        calibration_map=result.calibration_map,
        thresholds=result.thresholds,
        max_distance=ood.limit if ood.is_on else None,
        set_thresholds=result.prediction_sets.thresholds,
    )
    return RunChoices(validation, choices, result.cost, config, info.declared)


def check_prevalences(prevalences: Mapping[str, float], info: RunInfo) -> None:
    """Checks that each prevalence is that of a target of the model and between 0 and 1.

    Raises:
        ConfigError: `prevalences` is not a mapping, the model does not have one of the
            targets, or a prevalence is not a number or is out of range.
    """
    if not isinstance(prevalences, Mapping):
        raise ConfigError(
            "`prevalences` must contain a share by target, such as {'melanoma': 0.02}. "
            f"Received: {prevalences!r}."
        )
    targets = find_targets(info.class_names, info.declared)
    for name, prevalence in prevalences.items():
        is_share = isinstance(prevalence, Real) and 0 < prevalence < 1
        if name not in targets or not is_share:
            raise ConfigError(
                "A prevalence must be TARGET=SHARE, with a target of the model "
                f"({', '.join(targets) or 'none'}) and a share between 0 and 1. Received: "
                f"{name}={prevalence}."
                f"{'' if name in targets else suggest(targets, str(name))}"
            )


def open_external(name: str, config: Config, data_dir: Path | None) -> CombinedDataset:
    """Returns the external dataset.

    Raises:
        ConfigError: The run was trained on this dataset; see also `open_datasets`.
        DataError: The dataset has not been built, or is damaged.
    """
    if name in config.data.datasets:
        raise ConfigError(
            f"{name} is a dataset that the run was trained on. Expected a dataset that was "
            "not used for training. To evaluate another split of this dataset, use --split "
            "(in Python: splits) instead of --external."
        )
    return open_datasets([name], data_dir)


def read_images(
    dataset: CombinedDataset, info: RunInfo, user_map: Mapping[str, str | None]
) -> tuple[pd.DataFrame, LabelMap]:
    """Returns the table of all images of a dataset, and the class of each label in it.

    In the table, `label` is the index of the class of the model, or -1 if the label has no
    class. `ORIGINAL_LABEL` and `LEFT_OUT` are additional columns.

    Raises:
        ConfigError: A label has no entry in the user's map and no default; see
            `find_label_map`.
        DataError: The dataset is damaged.
    """
    table = dataset.read_table(dataset.split_sizes)
    names = np.array(dataset.class_names)
    original = pd.Series(names[table["label"]], table.index)
    labels = [str(name) for name in names if (original == name).any()]
    label_map = find_label_map(labels, info.class_names, user_map)
    index_of = {name: index for index, name in enumerate(info.class_names)}
    indices = {
        label: index_of.get(name or "", -1) for label, name in label_map.classes.items()
    }
    table["label"] = original.map(indices)
    table[ORIGINAL_LABEL] = original
    table[LEFT_OUT] = np.where(table["label"] < 0, OTHER_LABEL, "")
    return table, label_map


def predict_images(
    split: Split, model: keras.Model, gaussian: FeatureGaussian, class_names: Sequence[str]
) -> pd.DataFrame:
    """Returns the predictions table of all images, as if written and read again.

    For `model`, see `with_features`.
    """
    logits, *features = predict(model, split.batches())
    predictions = predictions_table(split.table, logits, class_names)
    predictions[DISTANCE] = gaussian.distances(features)
    return as_written(predictions)


def score_external(
    dataset: CombinedDataset,
    predictions: pd.DataFrame,
    label_map: LabelMap,
    audit: Overlap | None,
    run: RunChoices,
    options: ExternalOptions,
) -> ExternalResult:
    """Returns the result for a predictions table of all images of a dataset.

    `audit` is the result of the overlap audit; None if it was skipped.

    Raises:
        ConfigError: See `skincnn.evaluation.scoring.score_functions`.
    """
    scored = predictions[predictions[LEFT_OUT] == ""].reset_index(drop=True)
    other = predictions[predictions[LEFT_OUT] == OTHER_LABEL]
    sample, thresholds = run.resample(scored), run.thresholds()
    name, stored = external_name(options.dataset), f"external dataset {options.dataset}"
    scores = score_images(name, stored, sample, run, thresholds)
    return ExternalResult(
        name=options.dataset,
        dataset=dataset.full_name,
        attribution=dataset.attribution,
        synthetic=dataset.synthetic,
        label_map=label_map,
        num_images=len(predictions),
        overlap=audit,
        other_labels=tuple(
            score_other_label(str(label), rows, run)
            for label, rows in other.groupby(ORIGINAL_LABEL)
        ),
        # The file also contains the images that are not scored.
        scores=scores.model_copy(update={"predictions_sha256": table_sha256(predictions)}),
        out_of_distribution=score_out_of_distribution(sample, run.choices),
        prevalences=score_chosen_prevalences(
            sample, run.choices, thresholds, options.prevalences
        ),
    )


def summarize_overlap(
    table: pd.DataFrame, test: pd.DataFrame, *, searched: bool
) -> Overlap:
    """Returns the result of the audit for a table with the column `LEFT_OUT`.

    `test` is the table of the test split of the run. `searched` states whether the audit
    searched for near-duplicates.
    """
    scored = table[table[LEFT_OUT] == ""]
    in_test = scored["sha256"].isin(test["sha256"]) | is_same_id(scored, test, IMAGE_ID)
    counts = {kind: int((table[LEFT_OUT] == kind).sum()) for kind in KINDS}
    return Overlap(
        counts={kind: count for kind, count in counts.items() if count},
        searched=searched,
        num_test_images=int(in_test.sum()),
    )
