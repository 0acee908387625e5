"""A model, the pictures that it is asked about, and the ways to ask."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd
import tensorflow as tf
import tensorflow_datasets as tfds
from matplotlib.figure import Figure

from skincnn.config import Config
from skincnn.data import pipeline
from skincnn.data.cache import Cache, Images
from skincnn.data.clinical_metadata import encode_clinical_metadata
from skincnn.evaluation.robustness import score_corruptions, trained_corruptions
from skincnn.inference.ood import FeatureGaussian, distances_within
from skincnn.inference.predict import predict_logits_and_features
from skincnn.inference.predictions import DISTANCE, mean_predictions, predictions_table
from skincnn.inference.tta import View, predict_views
from skincnn.metrics.bootstrap import lesion_weights
from skincnn.reporting.mistakes import draw_mistakes
from skincnn.reporting.report import figure_title
from skincnn.reporting.report_text import SUMMARY_POINT

Answer = TypeVar("Answer")


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


def open_subject(
    model: keras.Model,
    builder: tfds.core.DatasetBuilder,
    tables: dict[str, pd.DataFrame],
    config: Config,
    cache: Cache,
) -> Subject:
    """Returns a model and the pictures of each split, which are read.

    Args:
        model: From `runs.load_model`.
        builder: The dataset of the run.
        tables: Split to its rows, from `runs.read_splits`.
        config: The run's.
        cache: Where decoded pictures are kept; see `cache.cached_images`.
    """
    return Subject(
        model,
        builder.info.features["label"].names,
        tables,
        {
            split: pipeline.load_images(builder, table, config.data, cache)
            for split, table in tables.items()
        },
        {
            split: encode_clinical_metadata(table)
            if config.model.clinical_metadata
            else None
            for split, table in tables.items()
        },
    )


def predict_plainly(
    subject: Subject, timed: str
) -> tuple[dict[str, pd.DataFrame], FeatureGaussian, float]:
    """Returns predictions of each split, what is familiar, and seconds for a picture."""
    answers, seconds = _ask(
        subject, timed, lambda batches: predict_logits_and_features(subject.model, batches)
    )
    familiar = FeatureGaussian.fit(answers["val"][1])
    found = {
        split: subject.predictions(split, logits).assign(
            **{DISTANCE: familiar.distances(features)}
        )
        for split, (logits, features) in answers.items()
    }
    lesions = found["val"]["lesion_id"].tolist()
    found["val"][DISTANCE] = distances_within(answers["val"][1], lesions)
    return found, familiar, seconds


def predict_each_view(
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


def spoil(
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
        lesion_weights(predictions, config.evaluate.num_bootstrap),
        config.evaluate.confidence,
        config.seed,
    )
    trained = trained_corruptions(config.augment)
    return {"split": split, "trained": trained, **scores}


def draw_all_mistakes(
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
