"""Evaluation of a run's folder: predictions, scores with intervals, and the report."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import keras
import numpy as np
import numpy.typing as npt
import pandas as pd
import tensorflow_datasets as tfds
from matplotlib.figure import Figure

from skincnn import classes
from skincnn.config import Config, EvaluateConfig, read_config
from skincnn.data import datasets, pipeline
from skincnn.data.cache import Cache
from skincnn.data.metadata import encode_metadata
from skincnn.data.splits import make_splits
from skincnn.errors import ConfigError, DataError
from skincnn.evaluation import plots
from skincnn.evaluation.intervals import bootstrap_interval, lesion_weights
from skincnn.evaluation.metrics import METRICS, confusion_matrix, recall_per_class
from skincnn.evaluation.predict import arrays, predict_probabilities, predictions_table
from skincnn.files import replacing, sha256, write_json, write_text

SPLIT_ROLES = {
    "val": "validation (the epoch was chosen on it)",
    "test": "test (no choice of this run was made on it)",
}


def evaluate(
    workdir: Path, data_dir: Path | None = None, cache: Cache = "auto"
) -> dict[str, Any]:
    """Predicts validation and test, and writes tables, figures and the report.

    Needs nothing of a run but its folder, and the dataset. Writes
    predictions/{val,test}.csv, figures/*.png, report.json and report.html.

    Args:
        workdir: The folder of a finished training.
        data_dir: Where TFDS keeps built datasets.
        cache: Where decoded pictures are kept; see `cache.cached_images`.

    Returns:
        The content of report.json.

    Raises:
        ConfigError: The folder holds no finished run.
        DataError: The dataset is missing, or is not the one of the training.
    """
    metadata, config = read_run(workdir)
    builder = datasets.open_dataset(config.data.dataset, data_dir)
    model = load_model(workdir, metadata)
    names = metadata["class_names"]
    folds = {"val": config.data.validation_fold, "test": config.data.test_fold}
    report: dict[str, Any] = {
        "made_up": metadata["made_up"],
        "dataset": metadata["dataset"],
        "attribution": builder.builder_config.attribution,
        "folds": {"train": list(config.data.train_folds), **folds},
        "split_by": config.data.split_by,
        "one_image_per_lesion": config.data.one_image_per_lesion,
        "audit": metadata["audit"],
        "class_names": names,
        "best_epoch": metadata["best_epoch"],
        "training_seconds": metadata["seconds"],
        "num_parameters": metadata["num_parameters"],
        "interval": {
            "confidence": config.evaluate.confidence,
            "method": "percentile bootstrap over lesions",
            "resamples": config.evaluate.resamples,
        },
        "splits": {},
    }
    history = pd.read_csv(workdir / "history.csv")
    pictures = "MADE-UP pictures" if report["made_up"] else report["dataset"]
    figures = {
        "learning_curves": plots.plot_learning_curves(
            history, report["best_epoch"], pictures
        )
    }
    for split, table in _read_splits(builder, config, metadata, workdir).items():
        fold = folds[split]
        images = pipeline.load_images(builder, table, config.data, cache)
        metadata_rows = encode_metadata(table) if config.model.metadata else None
        batches = pipeline.evaluation_batches(images, metadata_rows)
        probabilities = predict_probabilities(model, batches)
        predictions = predictions_table(table, probabilities, names)
        path = workdir / "predictions" / f"{split}.csv"
        write_text(path, predictions.to_csv(index=False))
        scores = score(predictions, names, config.evaluate, config.seed)
        report["splits"][split] = {"fold": fold, "sha256": sha256(path), **scores}
        figures[f"confusion_matrix_{split}"] = plots.plot_confusion_matrix(
            np.array(scores["confusion_matrix"]),
            names,
            f"{pictures}, {split}: fold {fold}",
        )
    _write_report(workdir, report, config, figures)
    return report


def score(
    predictions: pd.DataFrame,
    class_names: Sequence[str],
    config: EvaluateConfig,
    seed: int,
) -> dict[str, Any]:
    """Returns every score of a predictions table, with its interval.

    Args:
        predictions: A table of `predictions_table`.
        class_names: The names of the labels, in order.
        config: Resamples and confidence.
        seed: Seed of the resamples.

    Returns:
        num_images, num_lesions, `metrics` and `recall` (each name to value, low, high;
        None for a class without pictures), and `confusion_matrix`.
    """
    y_true, y_prob = arrays(predictions, class_names)
    weights = lesion_weights(predictions["lesion_id"].tolist(), config.resamples, seed)

    def interval(metric: Any) -> npt.NDArray[np.float64]:
        ends = bootstrap_interval(metric, y_true, y_prob, weights, config.confidence)
        return np.array([metric(y_true, y_prob), *ends])

    recalls = interval(recall_per_class)
    return {
        "num_images": len(predictions),
        "num_lesions": int(predictions["lesion_id"].nunique()),
        "metrics": {name: _named(interval(metric)) for name, metric in METRICS.items()},
        "recall": {
            name: _named(recalls[:, index]) for index, name in enumerate(class_names)
        },
        "confusion_matrix": confusion_matrix(y_true, y_prob).astype(int).tolist(),
    }


def summary(report: dict[str, Any]) -> str:
    """Returns the scores of a report as lines for the terminal."""
    lines = []
    if report["made_up"]:
        lines.append("MADE-UP pictures: these scores say nothing about skin lesions.")
    if report["split_by"] == "image":
        lines.append(
            "SPLIT BY IMAGE: "
            f"{report['audit']['share_test_images']:.0%} of the test pictures show a "
            "lesion that the model was trained on; these scores are inflated."
        )
    for split, content in report["splits"].items():
        lines.append(
            f"{split} (fold {content['fold']}, {content['num_images']} pictures of "
            f"{content['num_lesions']} lesions)"
        )
        for name, value in content["metrics"].items():
            label = name.replace("_", " ")
            lines.append(f"  {label:<18} {_text(value)}")
        recalls = ", ".join(
            f"{name} {'-' if value['value'] is None else format(value['value'], '.2f')}"
            for name, value in content["recall"].items()
        )
        lines.append(f"  recall             {recalls}")
    return "\n".join(lines)


def read_run(workdir: Path) -> tuple[dict[str, Any], Config]:
    """Returns the metadata and the configuration of a finished run.

    Raises:
        ConfigError: A file is missing.
    """
    for name in ("config.json", "metadata.json", "model.keras", "history.csv"):
        if not (workdir / name).is_file():
            raise ConfigError(
                f"{workdir} holds no finished run: {name} is missing. Expected a "
                "--workdir of scripts/train.py."
            )
    metadata = json.loads((workdir / "metadata.json").read_text())
    return metadata, read_config(workdir / "config.json")


def load_model(workdir: Path, metadata: dict[str, Any]) -> keras.Model:
    """Returns a run's model, after checking that its file is the one that was written.

    Raises:
        DataError: The file has changed.
    """
    path = workdir / "model.keras"
    expected = metadata["sha256"]["model.keras"]
    if sha256(path) != expected:
        raise DataError(
            f"{path} has changed since it was written: its SHA-256 is not {expected}."
        )
    return keras.saving.load_model(path, compile=False)


def _named(values: npt.NDArray[np.float64]) -> dict[str, float | None]:
    keys = ("value", "low", "high")
    return {
        key: None if np.isnan(value) else round(float(value), 6)
        for key, value in zip(keys, values, strict=True)
    }


def _text(value: dict[str, float | None]) -> str:
    if value["value"] is None:
        return "no picture"
    return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def _read_splits(
    builder: tfds.core.DatasetBuilder,
    config: Config,
    metadata: dict[str, Any],
    workdir: Path,
) -> dict[str, pd.DataFrame]:
    tables = make_splits(builder, config.data, ("val", "test"))
    for split, table in tables.items():
        if pipeline.fingerprint(table) != metadata["data_fingerprint"][split]:
            raise DataError(
                f"{split} of {builder.info.full_name} is not the one that {workdir} was "
                "trained with. Expected the same pictures and labels; train again, or "
                "give the --data-dir of the training."
            )
    return tables


def _write_report(
    workdir: Path, report: dict[str, Any], config: Config, figures: dict[str, Figure]
) -> None:
    pictures = {name: plots.to_png(figure) for name, figure in figures.items()}
    for name, png in pictures.items():
        with replacing(workdir / "figures" / f"{name}.png") as temporary:
            temporary.write_bytes(png)
    write_json(workdir / "report.json", report)
    write_text(workdir / "report.html", _html(report, config, pictures))


def _html(report: dict[str, Any], config: Config, pictures: dict[str, bytes]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("skincnn.evaluation", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["interval"] = _text
    return environment.get_template("report.html.j2").render(
        report=report,
        roles=SPLIT_ROLES,
        classes=classes.describe(report["class_names"]),
        config=json.dumps(config.to_dict(), indent=2),
        figures={
            name: "data:image/png;base64," + base64.b64encode(png).decode()
            for name, png in pictures.items()
        },
    )
