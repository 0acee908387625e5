"""Evaluation of a run: predictions of its splits, and the results computed from them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd
import tensorflow as tf

from skincnn.clinical_metadata import encode_clinical_metadata
from skincnn.config import Config
from skincnn.data import datasets, pipeline
from skincnn.data.cache import Cache, Images
from skincnn.data.leakage import SplitLeakage
from skincnn.errors import ConfigError
from skincnn.evaluation.mistakes import Mistakes, collect_mistakes, mistakes_path
from skincnn.evaluation.ood import score_ood
from skincnn.evaluation.results import (
    InferenceCost,
    SplitResult,
    read_split_results,
    result_path,
    split_name,
)
from skincnn.evaluation.robustness import score_corruptions
from skincnn.evaluation.scoring import InferenceVariant, score_variant
from skincnn.evaluation.splits import (
    describe_storage,
    measure_leakage,
    name_splits,
    read_splits,
)
from skincnn.files import sha256
from skincnn.inference.grad_cam import GradCam
from skincnn.inference.load import load_model, require_classes
from skincnn.inference.logit_adjustment import adjust_tables, adjusted_name
from skincnn.inference.ood import (
    OOD_FILE,
    OOD_TABLE,
    FeatureGaussian,
    cross_validated_distances,
    make_ood_images,
    predict_ood,
    read_ood_folder,
)
from skincnn.inference.predict import predict, with_features
from skincnn.inference.predictions import (
    DISTANCE,
    as_written,
    mean_predictions,
    predictions_table,
    read_predictions,
    table_path,
    write_predictions,
)
from skincnn.inference.run_dir import RunInfo, read_history, read_run
from skincnn.inference.tta import VIEWS, View, predict_views
from skincnn.lookup import look_up
from skincnn.records import Record, write_record

T = TypeVar("T")
Tables = dict[str, pd.DataFrame]
"""Split to its predictions table, "val" first."""


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """What to evaluate beside the model as is on validation and test.

    Attributes:
        splits: More splits of the dataset, such as "fold_3" or "test_official".
        tta: Names of `VIEWS`, kinds of test-time augmentation.
        num_views: Number of views of each image for test-time augmentation.
        logit_adjustment: Whether to adjust the logits of the model as is and of every
            test-time augmentation, of this evaluation or an earlier one.
        corruptions: Whether to evaluate on corrupted images.
        ood_dir: A folder of out-of-distribution images.
    """

    splits: Sequence[str] = ()
    tta: Sequence[str] = ()
    num_views: int = 8
    logit_adjustment: bool = False
    corruptions: bool = False
    ood_dir: Path | None = None


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation computed; `write_evaluation` writes it.

    Attributes:
        headline: The split to report first.
        gaussian: Of the features of the validation images.
        predictions: Name of a table, as "test.d4", to the table.
        results: Name of a result, as "test.d4" or "ood", to the result.
        mistakes: Split to its most confident errors.
    """

    headline: str
    gaussian: FeatureGaussian
    predictions: Tables
    results: dict[str, Record]
    mistakes: dict[str, Mistakes]


@dataclass(frozen=True)
class Split:
    """The inputs of one split.

    Attributes:
        table: One row for each image.
        images: uint8 [num_images, size, size, 3], in the order of the table.
        metadata: Clinical metadata, [num_images, num_fields], if the model takes it.
    """

    table: pd.DataFrame
    images: Images
    metadata: npt.NDArray[np.float32] | None

    def batches(self) -> tf.data.Dataset:
        """Returns the inputs of the model in order."""
        return pipeline.evaluation_batches(self.images, self.metadata)


@dataclass(frozen=True)
class LoadedRun:
    """A trained model and the splits on which it is evaluated, "val" first.

    `feature_model` is the model with its features as a second output; see `with_features`.
    """

    info: RunInfo
    config: Config
    model: keras.Model
    feature_model: keras.Model
    splits: dict[str, Split]
    leakage: dict[str, SplitLeakage]

    def predictions_table(
        self, split: str, logits: npt.NDArray[np.float32]
    ) -> pd.DataFrame:
        """Returns the predictions table of a split."""
        return predictions_table(self.splits[split].table, logits, self.info.class_names)


def evaluate(
    workdir: Path,
    data_dir: Path | None = None,
    cache: Cache = "auto",
    options: EvaluateOptions | None = None,
) -> Evaluation:
    """Predicts the splits of a run and computes every result; writes nothing.

    Args:
        workdir: The directory of a finished training.
        data_dir: Where TFDS keeps built datasets.
        cache: Where decoded images are kept; see `cache.cached_images`.
        options: What to evaluate beside the model as is.

    Raises:
        ConfigError: The directory holds no finished run, a split does not exist or was
            used for training or validation, or an option cannot be used.
        DataError: The dataset is missing, or is not the one of the training.
    """
    options = options or EvaluateOptions()
    config = read_run(workdir)[1]
    # Everything that can be refused comes before everything that takes long.
    read_history(workdir)
    views = choose_views(options, config)
    ood_images = load_ood_images(options, config)
    run = load_run(workdir, data_dir, cache, options)
    as_is, gaussian = predict_as_is(run)
    ood = {
        name: predict_ood(run.feature_model, gaussian, *images, run.info.class_names)
        for name, images in ood_images.items()
    }
    variants = [predict_tta(run, as_is, name, views[name]) for name in views]
    if options.logit_adjustment:
        earlier = read_tta(workdir, as_is, leave_out=list(views))
        variants += [
            adjust_variant(variant, run.info) for variant in (as_is, *earlier, *variants)
        ]
    stored = {name: describe_storage(name, config) for name in run.splits}
    results: dict[str, Record] = {}
    predictions = dict(ood)
    for variant in (as_is, *variants):
        baseline = as_is if variant.name else None
        scores = score_variant(variant, stored, run.leakage, config.evaluate, baseline)
        results |= {split_name(name, variant.name): scores[name] for name in scores}
        for name, table in variant.tables.items():
            predictions[split_name(name, variant.name)] = table
    for name, table in ood.items():
        results[name] = score_ood(as_is.tables, table, config.evaluate)
    headline = (*name_splits(options.splits, config), "test")[0]
    clean = results[headline]
    assert isinstance(clean, SplitResult)
    if options.corruptions:
        results[f"{headline}.corruptions"] = evaluate_corruptions(run, as_is, clean)
    mistakes = collect_all_mistakes(run, as_is, clean.temperature)
    return Evaluation(headline, gaussian, predictions, results, mistakes)


def write_evaluation(workdir: Path, evaluation: Evaluation) -> None:
    """Writes the predictions tables, the results and the Gaussian of the features."""
    evaluation.gaussian.write(workdir / OOD_FILE)
    write_predictions(workdir, evaluation.predictions)
    for name, result in evaluation.results.items():
        write_record(result_path(workdir, name), result)
    for split, mistakes in evaluation.mistakes.items():
        mistakes.write(mistakes_path(workdir, split))


def choose_views(options: EvaluateOptions, config: Config) -> dict[str, list[View]]:
    """Returns the views of each kind of test-time augmentation.

    Raises:
        ConfigError: A kind does not exist, or the number of views cannot be used.
    """
    count = options.num_views
    if count < 1:
        raise ConfigError(f"--num-views must be 1 or more. Received: {count}.")
    return {name: look_up(VIEWS, name, "--tta")(config, count) for name in options.tta}


def load_ood_images(
    options: EvaluateOptions, config: Config
) -> dict[str, tuple[pd.DataFrame, Images]]:
    """Returns the name of a table to the OOD images: built in, and the user's."""
    images = {OOD_TABLE: make_ood_images(config.data)}
    if options.ood_dir is not None:
        name = f"{OOD_TABLE}.{options.ood_dir.resolve().name}"
        images[name] = read_ood_folder(options.ood_dir, config.data)
    return images


def load_run(
    workdir: Path, data_dir: Path | None, cache: Cache, options: EvaluateOptions
) -> LoadedRun:
    """Loads the model of a run and reads the images of its splits; see `evaluate`."""
    info, config = read_run(workdir)
    names = name_splits(options.splits, config)
    builder = datasets.open_dataset(config.data.dataset, data_dir)
    class_names = builder.info.features["label"].names
    require_classes(class_names, info, workdir, builder.info.full_name)
    tables = read_splits(builder, config, info, workdir, names)
    leakage = measure_leakage(builder, config, tables)
    model = load_model(workdir, info)
    splits = {
        name: Split(
            table,
            pipeline.load_images(builder, table, config.data, cache),
            encode_clinical_metadata(table) if config.model.clinical_metadata else None,
        )
        for name, table in tables.items()
    }
    return LoadedRun(info, config, model, with_features(model), splits, leakage)


def predict_as_is(run: LoadedRun) -> tuple[InferenceVariant, FeatureGaussian]:
    """Returns the predictions of the model as is, and the Gaussian of its features."""
    outputs, seconds = _timed(
        run, lambda split: predict(run.feature_model, split.batches())
    )
    gaussian = FeatureGaussian.fit(outputs["val"][1])
    tables = {
        name: run.predictions_table(name, logits).assign(
            **{DISTANCE: gaussian.distances(features)}
        )
        for name, (logits, features) in outputs.items()
    }
    lesions = tables["val"]["lesion_id"].tolist()
    tables["val"][DISTANCE] = cross_validated_distances(outputs["val"][1], lesions)
    cost = InferenceCost(num_views=1, seconds_per_image=seconds, relative=1.0)
    return InferenceVariant("", tables, cost), gaussian


def predict_tta(
    run: LoadedRun, as_is: InferenceVariant, name: str, views: Sequence[View]
) -> InferenceVariant:
    """Returns the mean predictions over several views of each image.

    Args:
        run: The model and its images.
        as_is: The predictions without test-time augmentation.
        name: Kind of test-time augmentation.
        views: From `choose_views`.
    """
    outputs, seconds = _timed(
        run, lambda split: predict_views(run.model, split.batches(), views)
    )
    tables = {
        split: mean_predictions([run.predictions_table(split, one) for one in logits])
        for split, logits in outputs.items()
    }
    relative = seconds / as_is.cost.seconds_per_image
    cost = InferenceCost(num_views=len(views), seconds_per_image=seconds, relative=relative)
    return InferenceVariant(name, tables, cost)


def read_tta(
    workdir: Path, as_is: InferenceVariant, leave_out: Sequence[str]
) -> list[InferenceVariant]:
    """Returns the test-time augmentation of earlier evaluations of the same model.

    Args:
        workdir: The run directory.
        as_is: The predictions without test-time augmentation.
        leave_out: Kinds that were predicted again.
    """
    results = read_split_results(workdir)
    variants = []
    for name in VIEWS:
        tables = {}
        for split in as_is.tables:
            result = results.get(split_name(split, name))
            path = table_path(workdir, split_name(split, name))
            if result and path.is_file() and sha256(path) == result.predictions_sha256:
                tables[split] = read_predictions(path)
        if name not in leave_out and tables.keys() == as_is.tables.keys():
            cost = results[split_name("val", name)].cost
            variants.append(InferenceVariant(name, tables, cost))
    return variants


def adjust_variant(variant: InferenceVariant, info: RunInfo) -> InferenceVariant:
    """Returns the same predictions after logit adjustment, at the same cost.

    Tables of test-time augmentation are adjusted as they are read from their files, so
    that a later evaluation, which reads them, adjusts to the same digits.
    """
    tables = variant.tables
    if variant.name:
        tables = {split: as_written(table) for split, table in tables.items()}
    tables, strength = adjust_tables(tables, info.class_names, info.class_counts)
    return InferenceVariant(adjusted_name(variant.name), tables, variant.cost, strength)


def evaluate_corruptions(
    run: LoadedRun, as_is: InferenceVariant, clean: SplitResult
) -> Record:
    """Returns the scores of the model on corrupted images of a split."""
    split = run.splits[clean.split]

    def predict(images: Images, rows: slice) -> npt.NDArray[np.float32]:
        inputs: Any = images
        if split.metadata is not None:
            inputs = {"images": images, "metadata": split.metadata[rows]}
        return np.asarray(run.model.predict_on_batch(inputs), np.float32)

    table = as_is.tables[clean.split]
    return score_corruptions(predict, split.images, table, clean, run.config)


def collect_all_mistakes(
    run: LoadedRun, as_is: InferenceVariant, temperature: float
) -> dict[str, Mistakes]:
    """Returns the most confident errors of each split but val that has any."""
    mistakes = {}
    grad_cam = GradCam(run.model)
    for name, split in run.splits.items():
        if name != "val":
            table = as_is.tables[name]
            of_split = collect_mistakes(
                grad_cam, split.images, split.metadata, table, temperature
            )
            if of_split is not None:
                mistakes[name] = of_split
    return mistakes


def _timed(run: LoadedRun, predict: Callable[[Split], T]) -> tuple[dict[str, T], float]:
    """Returns the outputs of each split, and the seconds for an image.

    The first split, val, includes compilation; the second is timed.
    """
    outputs, seconds = {}, []
    for name, split in run.splits.items():
        started = time.perf_counter()
        outputs[name] = predict(split)
        seconds.append((time.perf_counter() - started) / len(split.table))
    return outputs, seconds[1]
