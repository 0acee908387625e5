"""Evaluation of a run's folder: what its model says, and all that follows from it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd
import tensorflow as tf
from matplotlib.figure import Figure

from skincnn.config import Config
from skincnn.data import datasets, pipeline
from skincnn.data.cache import Cache, Images
from skincnn.data.metadata import encode_metadata
from skincnn.errors import ConfigError
from skincnn.evaluation.adjustment import ADJUSTED, adjust_tables
from skincnn.evaluation.assessment import assess, metric_values, score_differences
from skincnn.evaluation.earlier import find_earlier, remove_stale
from skincnn.evaluation.folder import read_history, read_run
from skincnn.evaluation.intervals import INTERVALS, lesion_weights
from skincnn.evaluation.mistakes import draw_mistakes
from skincnn.evaluation.predict import predict_logits_and_features
from skincnn.evaluation.predictions import DISTANCE, mean_predictions, predictions_table
from skincnn.evaluation.report import draw_figures, figure_title, write_report
from skincnn.evaluation.robustness import score_corruptions, trained_corruptions
from skincnn.evaluation.runs import (
    audit_others,
    load_model,
    name_splits,
    read_splits,
    require_classes,
    stored_in,
)
from skincnn.evaluation.unknown import (
    FAMILIAR,
    UNKNOWN_TABLE,
    Familiar,
    distances_within,
    predict_unknown,
    read_unknown,
    score_unknown,
)
from skincnn.evaluation.verdict import SUMMARY_POINT
from skincnn.evaluation.views import VIEWS, View, predict_views
from skincnn.files import sha256, write_text
from skincnn.lookup import look_up

Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True)
class Extras:
    """What is reported beside the plain result; each asks the model again.

    Attributes:
        tta: Names of `VIEWS`, kinds of test-time augmentation.
        num_views: How often a picture is shown then.
        logit_adjustment: Whether the logits are also adjusted to the classes' shares.
        corruptions: Whether the model is also tried on spoilt pictures.
        unknown: A folder of pictures that are no dermatoscopy.
    """

    tta: Sequence[str] = ()
    num_views: int = 8
    logit_adjustment: bool = False
    corruptions: bool = False
    unknown: Path | None = None


@dataclass(frozen=True)
class Subject:
    """A model and the pictures that it is asked about, of which each split has a part.

    Attributes:
        model: From what is in the batches to logits.
        class_names: The names of the classes, in order.
        tables: Split to its rows, from `pipeline.read_table`.
        images: Split to its pictures, in the order of the rows.
        patients: Split to what the model is told of the patients, if anything.
    """

    model: keras.Model
    class_names: list[str]
    tables: dict[str, pd.DataFrame]
    images: dict[str, Images]
    patients: dict[str, Any]

    def batches(self, split: str) -> tf.data.Dataset:
        """Returns the inputs of a split, in order."""
        return pipeline.evaluation_batches(self.images[split], self.patients[split])

    def predictions(self, split: str, logits: npt.NDArray[np.float32]) -> pd.DataFrame:
        """Returns the predictions table of a split."""
        return predictions_table(self.tables[split], logits, self.class_names)


def evaluate(
    workdir: Path,
    data_dir: Path | None = None,
    cache: Cache = "auto",
    splits: Sequence[str] = (),
    extras: Extras | None = None,
) -> dict[str, Any]:
    """Predicts validation, test and other splits, and writes tables, figures and report.

    Needs nothing of a run but its folder, and the dataset. Writes predictions/*.csv,
    familiar.npz, figures/*.png, report.json, report.html and README.md, the model card.
    Extras that were found before, of the same model and headline, stay in the report.

    Args:
        workdir: The folder of a finished training.
        data_dir: Where TFDS keeps built datasets.
        cache: Where decoded pictures are kept; see `cache.cached_images`.
        splits: More splits of the dataset, as "fold_3" or "test_official"; the first is
            the report's headline. What is chosen (the temperature, the thresholds) is
            chosen on validation.
        extras: What else is to be found out.

    Returns:
        The content of report.json.

    Raises:
        ConfigError: The folder holds no finished run, a split is not there, is validation
            or was trained on, or an extra is not to be had.
        DataError: The dataset is missing, or is not the one of the training.
    """
    extras = extras or Extras()
    metadata, config = read_run(workdir)
    # All that may be refused comes before what takes long.
    history = read_history(workdir)
    if extras.num_views < 1:
        raise ConfigError(f"--num-views must be 1 or more. Received: {extras.num_views}.")
    views = {
        name: look_up(VIEWS, name, "--tta")(config, extras.num_views) for name in extras.tta
    }
    splits = name_splits(splits, config)
    strange = read_unknown(config, extras.unknown)
    builder = datasets.open_dataset(config.data.dataset, data_dir)
    labels = builder.info.features["label"].names
    require_classes(labels, metadata, workdir, builder.info.full_name)
    tables = read_splits(builder, config, metadata, workdir, splits)
    audits = audit_others(builder, config, tables)
    model = load_model(workdir, metadata)
    subject = Subject(
        model,
        metadata["class_names"],
        tables,
        {
            split: pipeline.load_images(builder, table, config.data, cache)
            for split, table in tables.items()
        },
        {
            split: encode_metadata(table) if config.model.metadata else None
            for split, table in tables.items()
        },
    )
    headline = splits[0] if splits else "test"
    predictions, familiar, seconds = _predict(subject, headline)
    earlier = find_earlier(
        workdir,
        metadata["sha256"]["model.keras"],
        headline,
        asked=(*views, *([ADJUSTED] if extras.logit_adjustment else [])),
        corruptions=extras.corruptions,
        unknown=extras.unknown,
    )
    familiar.write(workdir / FAMILIAR)
    unknown = predict_unknown(model, familiar, *strange, subject.class_names)
    unknown = pd.concat([unknown, earlier.unknown], ignore_index=True)
    write_text(workdir / "predictions" / UNKNOWN_TABLE, unknown.to_csv(index=False))
    written = write_predictions(workdir, predictions)
    assessed = assess(predictions, subject.class_names, config.evaluate, config.seed)
    for split, content in assessed["splits"].items():
        content["fold"] = stored_in(split, config)
        content["sha256"] = written[split]
        if split in audits:
            content["audit"] = audits[split]
    variants = earlier.variants

    def add(name: str, found: dict[str, pd.DataFrame], **said: Any) -> None:
        """Writes the tables of a way to predict, and scores it beside the plain one."""
        written = write_predictions(workdir, found, f"_{name}")
        scores = score_variant(found, predictions, headline, subject.class_names, config)
        variants.append({"name": name, **said, "sha256": written, **scores})

    for name, chosen in views.items():
        found, longer = _predict_views(subject, headline, chosen)
        cost = {"seconds_per_image": longer, "cost": longer / seconds}
        add(name, found, num_views=len(chosen), **cost)
    if extras.logit_adjustment:
        found, strength = adjust_tables(
            predictions, subject.class_names, metadata["class_counts"]
        )
        cost = {"seconds_per_image": seconds, "cost": 1.0}
        add(ADJUSTED, found, num_views=1, strength=strength, **cost)
    report = {
        **_describe_run(metadata, config),
        "model_sha256": metadata["sha256"]["model.keras"],
        "attribution": builder.builder_config.attribution,
        "seconds_per_image": seconds,
        "headline": headline,
        "models": [],
        "protocol": _protocol(metadata, config, assessed),
        **assessed,
        "variants": variants,
        "unknown": score_unknown(predictions, unknown, config),
        "corruptions": earlier.corruptions,
        "exports": earlier.exports,
        "dropped": earlier.dropped,
    }
    if extras.corruptions:
        report["corruptions"] = _spoil(
            subject, headline, predictions[headline], assessed, config
        )
    figures = draw_figures(report, predictions, history)
    figures |= _draw_mistakes(subject, predictions, report)
    write_report(workdir, report, config, figures)
    remove_stale(workdir, report)
    return report


def score_variant(
    tables: Mapping[str, pd.DataFrame],
    plain: Mapping[str, pd.DataFrame],
    split: str,
    class_names: Sequence[str],
    config: Config,
) -> dict[str, Any]:
    """Returns what is said of a way to predict, beside the plain one.

    Args:
        tables: Split to its predictions, "val" among them.
        plain: The same of the plain model.
        split: Of which the scores are wanted.
        class_names: The names of the classes, in order.
        config: The run's, for the intervals.

    Returns:
        split; what `assess` says of it, with a temperature and thresholds of its own; and
        `differences`, what each metric gains over the plain one.
    """
    chosen = {name: tables[name] for name in ("val", split)}
    assessed = assess(chosen, class_names, config.evaluate, config.seed)
    weights = lesion_weights(
        tables[split]["lesion_id"].tolist(), config.evaluate.resamples, config.seed
    )
    return {
        "split": split,
        "temperature": assessed["temperature"],
        "thresholds": assessed["thresholds"],
        **assessed["splits"][split],
        "differences": score_differences(
            metric_values(tables[split], class_names, weights),
            metric_values(plain[split], class_names, weights),
            config.evaluate.confidence,
        ),
    }


def write_predictions(
    workdir: Path, tables: Mapping[str, pd.DataFrame], suffix: str = ""
) -> dict[str, str]:
    """Writes predictions/<split><suffix>.csv of each table, and returns their SHA-256."""
    written = {}
    for split, table in tables.items():
        path = workdir / "predictions" / f"{split}{suffix}.csv"
        write_text(path, table.to_csv(index=False))
        written[split] = sha256(path)
    return written


def _ask(
    subject: Subject, timed: str, ask: Callable[[tf.data.Dataset], Answer]
) -> tuple[dict[str, Answer], float]:
    """Returns what is answered of each split, and the seconds for a picture of one."""
    answers, seconds = {}, 0.0
    for split, table in subject.tables.items():  # the first, val, compiles
        batches = subject.batches(split)
        started = time.perf_counter()
        answers[split] = ask(batches)
        if split == timed:
            seconds = (time.perf_counter() - started) / len(table)
    return answers, seconds


def _predict(
    subject: Subject, timed: str
) -> tuple[dict[str, pd.DataFrame], Familiar, float]:
    """Returns predictions of each split, what is familiar, and seconds for a picture."""
    answers, seconds = _ask(
        subject, timed, lambda batches: predict_logits_and_features(subject.model, batches)
    )
    familiar = Familiar.fit(answers["val"][1])
    found = {
        split: subject.predictions(split, logits).assign(
            **{DISTANCE: familiar.distances(features)}
        )
        for split, (logits, features) in answers.items()
    }
    lesions = found["val"]["lesion_id"].tolist()
    found["val"][DISTANCE] = distances_within(answers["val"][1], lesions)
    return found, familiar, seconds


def _predict_views(
    subject: Subject, timed: str, views: Sequence[View]
) -> tuple[dict[str, pd.DataFrame], float]:
    """Returns the mean predictions of each split, and the seconds for a picture."""
    answers, seconds = _ask(
        subject, timed, lambda batches: predict_views(subject.model, batches, views)
    )
    found = {
        split: mean_predictions([subject.predictions(split, one) for one in logits])
        for split, logits in answers.items()
    }
    return found, seconds


def _spoil(
    subject: Subject,
    split: str,
    predictions: pd.DataFrame,
    assessed: dict[str, Any],
    config: Config,
) -> dict[str, Any]:
    """Returns `score_corruptions` of a split."""
    patients = subject.patients[split]

    def predict(images: Images, rows: slice) -> npt.NDArray[np.float32]:
        inputs: Any = images
        if patients is not None:
            inputs = {"images": images, "metadata": patients[rows]}
        return np.asarray(subject.model.predict_on_batch(inputs), np.float32)

    scores = score_corruptions(
        predict,
        subject.images[split],
        predictions,
        subject.class_names,
        assessed["temperature"],
        assessed["thresholds"].get("melanoma", {}).get(SUMMARY_POINT),
        lesion_weights(
            predictions["lesion_id"].tolist(), config.evaluate.resamples, config.seed
        ),
        config.evaluate.confidence,
        config.seed,
    )
    trained = trained_corruptions(config.augment)
    return {"split": split, "trained": trained, **scores}


def _draw_mistakes(
    subject: Subject, predictions: Mapping[str, pd.DataFrame], report: dict[str, Any]
) -> dict[str, Figure]:
    """Returns the figure mistakes_<split> of each split but val that has any."""
    figures = {}
    for split in predictions.keys() - {"val"}:
        figure = draw_mistakes(
            subject.model,
            subject.images[split],
            subject.patients[split],
            predictions[split],
            subject.class_names,
            report["temperature"],
            figure_title(report, split),
        )
        if figure is not None:
            figures[f"mistakes_{split}"] = figure
    return figures


def _describe_run(metadata: dict[str, Any], config: Config) -> dict[str, Any]:
    """Returns what the report says of the training."""
    return {
        "made_up": metadata["made_up"],
        "dataset": metadata["dataset"],
        "folds": {
            "train": list(config.data.train_folds),
            "val": list(config.data.validation_folds),
            "test": list(config.data.test_folds),
        },
        "split_by": config.data.split_by,
        "one_image_per_lesion": config.data.one_image_per_lesion,
        "audit": metadata["audit"],
        "class_names": metadata["class_names"],
        "best_epoch": metadata["best_epoch"],
        "monitor": config.train.monitor,
        "training_seconds": metadata["seconds"],
        "num_parameters": metadata["num_parameters"],
        "interval": {
            "confidence": config.evaluate.confidence,
            "method": INTERVALS,
            "resamples": config.evaluate.resamples,
        },
    }


def _protocol(metadata: dict[str, Any], config: Config, assessed: dict[str, Any]) -> str:
    """Returns what was trained on what, and where the choices were made."""
    audit, splits = metadata["audit"], assessed["splits"]
    tested = " and ".join(
        content["fold"] for name, content in splits.items() if name != "val"
    )
    return (
        f"Trained on {audit['num_train_images']} pictures of {audit['num_train_lesions']} "
        f"lesions (folds {', '.join(map(str, config.data.train_folds))}). Epoch "
        f"{metadata['best_epoch']} was chosen on {splits['val']['fold']} by its "
        f"{config.train.monitor.replace('_', ' ')}, so the scores there flatter; no choice "
        f"of this run was made on {tested}."
    )
