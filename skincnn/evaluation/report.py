"""Evaluation of a run's folder: predictions, scores with intervals, and the report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow_datasets as tfds
from matplotlib.figure import Figure

from skincnn.config import Config, read_config
from skincnn.data import datasets, pipeline
from skincnn.data.cache import Cache
from skincnn.data.metadata import encode_metadata
from skincnn.data.splits import make_splits
from skincnn.errors import ConfigError, DataError
from skincnn.evaluation import plots
from skincnn.evaluation.assessment import assess
from skincnn.evaluation.calibration import apply_temperature, reliability
from skincnn.evaluation.model_card import render_card
from skincnn.evaluation.operating import decision_curve, find_targets
from skincnn.evaluation.page import render_page
from skincnn.evaluation.predict import predict_logits
from skincnn.evaluation.predictions import arrays, predictions_table
from skincnn.evaluation.verdict import SUMMARY_METRICS, SUMMARY_POINT, interval
from skincnn.files import replacing, sha256, write_json, write_text

SPLITS = ("val", "test")


def evaluate(
    workdir: Path,
    data_dir: Path | None = None,
    cache: Cache = "auto",
    splits: Sequence[str] = (),
) -> dict[str, Any]:
    """Predicts validation, test and other splits, and writes tables, figures and report.

    Needs nothing of a run but its folder, and the dataset. Writes predictions/<split>.csv,
    figures/*.png, report.json and report.html.

    Args:
        workdir: The folder of a finished training.
        data_dir: Where TFDS keeps built datasets.
        cache: Where decoded pictures are kept; see `cache.cached_images`.
        splits: More splits of the dataset, as "fold_3" or "test_official". What is chosen
            (the temperature, the thresholds) is chosen on validation.

    Returns:
        The content of report.json.

    Raises:
        ConfigError: The folder holds no finished run, or a split is not there or was
            trained on.
        DataError: The dataset is missing, or is not the one of the training.
    """
    metadata, config = read_run(workdir)
    builder = datasets.open_dataset(config.data.dataset, data_dir)
    names = metadata["class_names"]
    tables = _read_splits(builder, config, metadata, workdir, splits)
    model = load_model(workdir, metadata)
    predictions, written = {}, {}
    for split, table in tables.items():
        images = pipeline.load_images(builder, table, config.data, cache)
        patients = encode_metadata(table) if config.model.metadata else None
        batches = pipeline.evaluation_batches(images, patients)
        predictions[split] = predictions_table(table, predict_logits(model, batches), names)
        path = workdir / "predictions" / f"{split}.csv"
        write_text(path, predictions[split].to_csv(index=False))
        written[split] = sha256(path)
    assessed = assess(predictions, names, config.evaluate, config.seed)
    for split, content in assessed["splits"].items():
        content["fold"] = _stored(split, config)
        content["sha256"] = written[split]
    report: dict[str, Any] = {
        "made_up": metadata["made_up"],
        "dataset": metadata["dataset"],
        "attribution": builder.builder_config.attribution,
        "folds": {
            "train": list(config.data.train_folds),
            "val": list(config.data.validation_folds),
            "test": list(config.data.test_folds),
        },
        "split_by": config.data.split_by,
        "one_image_per_lesion": config.data.one_image_per_lesion,
        "audit": metadata["audit"],
        "class_names": names,
        "best_epoch": metadata["best_epoch"],
        "monitor": config.train.monitor,
        "training_seconds": metadata["seconds"],
        "num_parameters": metadata["num_parameters"],
        "interval": {
            "confidence": config.evaluate.confidence,
            "method": "percentile bootstrap over lesions",
            "resamples": config.evaluate.resamples,
        },
        "headline": splits[0] if splits else "test",
        "models": [],
        "protocol": _protocol(metadata, config, assessed),
        **assessed,
    }
    history = pd.read_csv(workdir / "history.csv")
    figures = draw_figures(report, predictions, history)
    write_report(workdir, report, config, figures)
    return report


def draw_figures(
    report: dict[str, Any],
    predictions: Mapping[str, pd.DataFrame],
    history: pd.DataFrame | None,
) -> dict[str, Figure]:
    """Returns every figure of a report by its name, `<what>_<split>` where it is of one.

    Args:
        report: All of report.json.
        predictions: Split to its table.
        history: The rows of history.csv, for the learning curves.
    """
    names = report["class_names"]
    pictures = "MADE-UP pictures" if report["made_up"] else report["dataset"]
    figures = {}
    if history is not None:
        figures["learning_curves"] = plots.plot_learning_curves(
            history, report["best_epoch"], pictures
        )
    for split, table in predictions.items():
        content = report["splits"][split]
        title = f"{pictures}, {split}: {content['fold']}"
        drawn = {
            "confusion_matrix": plots.plot_confusion_matrix(
                np.array(content["confusion_matrix"]), names, title
            )
        }
        if split != "val":  # whose curves would flatter
            drawn |= _draw_curves(report, content, table, title)
        figures |= {f"{name}_{split}": figure for name, figure in drawn.items()}
    return figures


def _draw_curves(
    report: dict[str, Any], content: dict[str, Any], table: pd.DataFrame, title: str
) -> dict[str, Figure]:
    """Returns the figures of a split that is more than a table of counts."""
    names = report["class_names"]
    y_true, y_prob = arrays(table, names)
    calibrated = apply_temperature(y_prob, report["temperature"])
    drawn = {
        "roc": plots.plot_roc_curves(y_true, y_prob, names, title),
        "precision_recall": plots.plot_precision_recall_curves(
            y_true, y_prob, names, title
        ),
        "reliability": plots.plot_reliability(
            reliability(y_true, y_prob),
            reliability(y_true, calibrated),
            report["temperature"],
            title,
        ),
    }
    curves = {
        target.name: decision_curve(target.positive(y_true), target.score(calibrated))
        for target in find_targets(names)
        if target.positive(y_true).any()
    }
    if curves:
        drawn["decision_curve"] = plots.plot_decision_curves(curves, title)
    if any(group["scores"] for group in content["subgroups"]):
        accuracy = content["metrics"]["accuracy"]["value"]
        drawn["subgroups"] = plots.plot_subgroups(content["subgroups"], accuracy, title)
    return drawn


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
            f"{split} ({content['fold']}, {content['num_images']} pictures of "
            f"{content['num_lesions']} lesions)"
        )
        for name in SUMMARY_METRICS:
            value = content["metrics"][name]
            lines.append(f"  {name.replace('_', ' '):<18} {interval(value)}")
        recalls = ", ".join(
            f"{name} {of['recall']['value']:.2f}"
            for name, of in content["classes"].items()
            if of["num_images"]
        )
        lines.append(f"  recall             {recalls}")
        for target, of in content["targets"].items():
            rates = of["operating_points"][SUMMARY_POINT]
            if "sensitivity" in rates:
                lines.append(
                    f"  {target:<18} sensitivity {interval(rates['sensitivity'])} at the "
                    f"threshold of {SUMMARY_POINT} on validation"
                )
        if content["missing_classes"]:
            lines.append(
                f"  no picture of      {', '.join(content['missing_classes'])}: means are "
                "over the other classes"
            )
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


def read_report(workdir: Path) -> dict[str, Any]:
    """Returns the content of a run's report.json.

    Raises:
        ConfigError: It is missing, or no JSON.
    """
    path = workdir / "report.json"
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} cannot be read: {error}. Make it with scripts/evaluate.py {workdir}."
        ) from error


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


def _read_splits(
    builder: tfds.core.DatasetBuilder,
    config: Config,
    metadata: dict[str, Any],
    workdir: Path,
    others: Sequence[str],
) -> dict[str, pd.DataFrame]:
    tables = make_splits(builder, config.data, SPLITS)
    for split, table in tables.items():
        if pipeline.fingerprint(table) != metadata["data_fingerprint"][split]:
            raise DataError(
                f"{split} of {builder.info.full_name} is not the one that {workdir} was "
                "trained with. Expected the same pictures and labels; train again, or "
                "give the --data-dir of the training."
            )
    for split in others:
        if split not in tables:
            tables[split] = pipeline.read_table(
                builder, [_find_split(split, builder, config)]
            )
    return tables


def _find_split(split: str, builder: tfds.core.DatasetBuilder, config: Config) -> int | str:
    """Returns what `pipeline.read_table` calls a split that is neither val nor test."""
    trained = {pipeline.stored_name(fold) for fold in config.data.train_folds}
    if config.data.split_by == "image":
        trained = {name for name in builder.info.splits if name.startswith("fold_")}
    there = [name for name in builder.info.splits if name not in trained]
    if split not in there:
        raise ConfigError(
            f"--split must be one of: {', '.join((*SPLITS, *there))}. Received: {split}"
            f"{', which was trained on' if split in trained else ''}."
        )
    return int(split.removeprefix("fold_")) if split.startswith("fold_") else split


def _stored(split: str, config: Config) -> str:
    """Returns where the pictures of a split are stored."""
    folds = {"val": config.data.validation_folds, "test": config.data.test_folds}
    if split not in folds:
        return split.replace("_", " ")
    numbers = ", ".join(map(str, folds[split]))
    return f"fold{'s' if len(folds[split]) > 1 else ''} {numbers}"


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


def write_report(
    workdir: Path, report: dict[str, Any], config: Config, figures: dict[str, Figure]
) -> None:
    """Writes figures/*.png, report.json, report.html and README.md, the model card.

    Args:
        workdir: The folder to write to.
        report: The content of report.json.
        config: The configuration, which the page shows.
        figures: From `draw_figures`.
    """
    pictures = {name: plots.to_png(figure) for name, figure in figures.items()}
    for name, png in pictures.items():
        with replacing(workdir / "figures" / f"{name}.png") as temporary:
            temporary.write_bytes(png)
    write_json(workdir / "report.json", report)
    write_text(workdir / "report.html", render_page(report, config, pictures))
    write_text(workdir / "README.md", render_card(report, config))
