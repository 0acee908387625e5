"""Evaluation of a run's folder: what its model says, and all that follows from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from skincnn.config import Config
from skincnn.data import datasets
from skincnn.data.cache import Cache
from skincnn.errors import ConfigError
from skincnn.evaluation.earlier import find_earlier, remove_stale, table_paths
from skincnn.evaluation.scoring import assess, score_variant
from skincnn.evaluation.splits import (
    audit_others,
    describe_protocol,
    describe_run,
    load_model,
    name_splits,
    read_splits,
    require_classes,
    stored_in,
)
from skincnn.evaluation.subject import (
    Subject,
    draw_all_mistakes,
    open_subject,
    predict_each_view,
    predict_plainly,
    spoil,
)
from skincnn.files import write_text
from skincnn.inference.logit_adjustment import adjust_tables, adjusted_name
from skincnn.inference.ood import (
    OOD_FILE,
    UNKNOWN_TABLE,
    predict_unknown,
    read_unknown,
    score_unknown,
)
from skincnn.inference.predictions import read_predictions, write_predictions
from skincnn.inference.run_dir import read_history, read_run
from skincnn.inference.tta import VIEWS, View
from skincnn.lookup import look_up
from skincnn.reporting.report import draw_figures, write_report

Way = tuple[dict[str, Any], dict[str, pd.DataFrame]]
"""A way to predict and what it costs, and split to its predictions."""


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """What is reported beside the plain result; each asks the model again.

    Attributes:
        tta: Names of `VIEWS`, kinds of test-time augmentation.
        num_views: How often a picture is shown then.
        logit_adjustment: Whether the logits are also adjusted to the classes' shares: of
            the plain result, and of the test-time augmentation in the report.
        corruptions: Whether the model is also tried on spoilt pictures.
        unknown: A folder of pictures that are no dermatoscopy.
    """

    tta: Sequence[str] = ()
    num_views: int = 8
    logit_adjustment: bool = False
    corruptions: bool = False
    unknown: Path | None = None


def evaluate(
    workdir: Path,
    data_dir: Path | None = None,
    cache: Cache = "auto",
    splits: Sequence[str] = (),
    options: EvaluateOptions | None = None,
) -> dict[str, Any]:
    """Predicts validation, test and other splits, and writes tables, figures and report.

    Needs nothing of a run but its folder, and the dataset. Writes predictions/*.csv,
    ood.npz, figures/*.png, report.json, report.html and README.md, the model card.
    Extras that were found before, of the same model and headline, stay in the report.

    Args:
        workdir: The folder of a finished training.
        data_dir: Where TFDS keeps built datasets.
        cache: Where decoded pictures are kept; see `cache.cached_images`.
        splits: More splits of the dataset, as "fold_3" or "test_official"; the first is
            the report's headline. What is chosen (the temperature, the thresholds) is
            chosen on validation.
        options: What else is to be found out.

    Returns:
        The content of report.json.

    Raises:
        ConfigError: The folder holds no finished run, a split is not there, is validation
            or was trained on, or an extra is not to be had.
        DataError: The dataset is missing, or is not the one of the training.
    """
    options = options or EvaluateOptions()
    metadata, config = read_run(workdir)
    # All that may be refused comes before what takes long.
    history = read_history(workdir)
    views = choose_views(options, config)
    splits = name_splits(splits, config)
    strange = read_unknown(config, options.unknown)
    builder = datasets.open_dataset(config.data.dataset, data_dir)
    labels = builder.info.features["label"].names
    require_classes(labels, metadata, workdir, builder.info.full_name)
    tables = read_splits(builder, config, metadata, workdir, splits)
    audits = audit_others(builder, config, tables)
    subject = open_subject(load_model(workdir, metadata), builder, tables, config, cache)
    headline = splits[0] if splits else "test"
    predictions, familiar, seconds = predict_plainly(subject, headline)
    asked = set(views)
    if options.logit_adjustment:
        asked |= {adjusted_name(name) for name in ("", *VIEWS)}
    earlier = find_earlier(
        workdir,
        metadata["sha256"]["model.keras"],
        headline,
        asked=asked,
        corruptions=options.corruptions,
        unknown=options.unknown,
    )
    familiar.write(workdir / OOD_FILE)
    unknown = predict_unknown(subject.model, familiar, *strange, subject.class_names)
    unknown = pd.concat([unknown, earlier.unknown], ignore_index=True)
    write_text(workdir / "predictions" / UNKNOWN_TABLE, unknown.to_csv(index=False))
    written = write_predictions(workdir, predictions)
    assessed = assess(predictions, subject.class_names, config.evaluate)
    for split, content in assessed["splits"].items():
        content["fold"] = stored_in(split, config)
        content["sha256"] = written[split]
        if split in audits:
            content["audit"] = audits[split]

    def score(
        variant: Mapping[str, Any], tables: Mapping[str, pd.DataFrame]
    ) -> dict[str, Any]:
        """Writes the tables of a way to predict, and returns all that is said of it."""
        return {
            **variant,
            "sha256": write_predictions(workdir, tables, f"_{variant['name']}"),
            **score_variant(tables, predictions, headline, subject.class_names, config),
        }

    variants = [
        score(*_show(subject, headline, name, chosen, seconds))
        for name, chosen in views.items()
    ]
    if options.logit_adjustment:
        plain = {"name": "", "num_views": 1, "seconds_per_image": seconds, "cost": 1.0}
        # Views that are kept from before are there as they were written, so all are read.
        shown = [*earlier.variants, *variants]
        ways = [(plain, predictions)]
        for variant in shown:
            paths = table_paths(workdir, variant)
            ways.append((variant, {name: read_predictions(paths[name]) for name in paths}))
        variants += [
            score(*_adjust(*way, subject.class_names, metadata["class_counts"]))
            for way in ways
        ]
    report = {
        **describe_run(metadata, config),
        "model_sha256": metadata["sha256"]["model.keras"],
        "attribution": builder.builder_config.attribution,
        "seconds_per_image": seconds,
        "headline": headline,
        "models": [],
        "protocol": describe_protocol(metadata, config, assessed),
        **assessed,
        "variants": [*earlier.variants, *variants],
        "unknown": score_unknown(predictions, unknown, config),
        "corruptions": earlier.corruptions,
        "exports": earlier.exports,
        "dropped": earlier.dropped,
    }
    if options.corruptions:
        report["corruptions"] = spoil(
            subject, headline, predictions[headline], assessed, config
        )
    figures = draw_figures(report, predictions, history)
    figures |= draw_all_mistakes(subject, predictions, report)
    write_report(workdir, report, config, figures)
    remove_stale(workdir, report)
    return report


def choose_views(options: EvaluateOptions, config: Config) -> dict[str, list[View]]:
    """Returns how each picture is shown, for each kind of test-time augmentation.

    Raises:
        ConfigError: There is no such kind, or no view.
    """
    if options.num_views < 1:
        raise ConfigError(f"--num-views must be 1 or more. Received: {options.num_views}.")
    return {
        name: look_up(VIEWS, name, "--tta")(config, options.num_views)
        for name in options.tta
    }


def _show(
    subject: Subject, headline: str, name: str, views: Sequence[View], seconds: float
) -> Way:
    """Returns a kind of test-time augmentation and its predictions.

    Args:
        subject: The model and its pictures.
        headline: The split whose pictures are timed.
        name: Of the kind.
        views: How each picture is shown, from `choose_views`.
        seconds: What a picture takes that is predicted plainly.
    """
    found, longer = predict_each_view(subject, headline, views)
    cost = {"seconds_per_image": longer, "cost": longer / seconds}
    return {"name": name, "num_views": len(views), **cost}, found


def _adjust(
    variant: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame],
    class_names: Sequence[str],
    class_counts: Mapping[str, int],
) -> Way:
    """Returns the same with adjusted logits, at the same cost."""
    found, strength = adjust_tables(tables, class_names, class_counts)
    cost = {key: variant[key] for key in ("num_views", "seconds_per_image", "cost")}
    return {"name": adjusted_name(variant["name"]), "strength": strength, **cost}, found
