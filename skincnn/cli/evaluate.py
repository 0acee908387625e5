"""Evaluates trained runs, and averages several runs as an ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from skincnn.cli import common
from skincnn.cli.help.text import parse_arguments
from skincnn.errors import ConfigError
from skincnn.files import locked


@dataclass(frozen=True, kw_only=True)
class Arguments(common.DataArguments):
    """Predicts the validation and test splits of runs, and writes the results.

    Earlier results with other options are kept in the run directory.

    For example:
      python scripts/evaluate.py runs/quickstart
      python scripts/evaluate.py runs/mobilenet_160 --split test_official
      python scripts/evaluate.py runs/mobilenet_160 --tta d4 --corruptions
      python scripts/evaluate.py runs/a runs/b runs/c --ensemble runs/abc
      python scripts/evaluate.py runs/a --external isic2019 --prevalence melanoma=0.02
    """

    workdirs: tyro.conf.Positional[tuple[Path, ...]]
    """One or more run directories of scripts/train.py."""
    ensemble: Path | None = None
    """Directory for the results of an ensemble, which averages the predictions of the runs.
    Results of an earlier ensemble in this directory are replaced. The ensemble is evaluated
    for the splits and variants that have been evaluated for all runs."""
    split: tuple[str, ...] = ()
    """Additional splits of the dataset to evaluate: fold_<n>, test_official or
    validation_official. The report starts with the first of these splits. Splits that were
    used for training or validation are rejected. For an official split, the overlap with
    the training and validation images is reported."""
    tta: tuple[Literal["d4", "augment"], ...] = ()
    """Test-time augmentation: predict --num-views views of each image and average the
    probabilities. d4: the eight rotations and reflections; augment: the augmentation that
    the run was trained with."""
    num_views: int = 8
    """Number of views for --tta; at most 8 for d4. Results of the same --tta with a
    different number of views are replaced. Their logit-adjusted versions are removed; use
    --logit-adjustment to compute new ones."""
    logit_adjustment: bool = False
    """Adjust the logits for the class frequencies of the training images, with the strength
    that has the best balanced accuracy on validation. This trades accuracy for balanced
    accuracy, at no computational cost. The predictions without test-time augmentation and
    those of every --tta of the run are adjusted."""
    corruptions: bool = False
    """Evaluate on corrupted images (brightness, blur, noise, hair, ...) of the test split,
    or of the first --split, at five severities. Predicts each image 61 times."""
    ood_dir: Path | None = None
    """Directory of out-of-distribution (OOD) images. The report shows the fraction that is
    flagged as OOD, as for the built-in sets."""
    external: str = ""
    """Name of another built dataset to evaluate on, with the preprocessing, calibration,
    thresholds and OOD limit of the run. Images that are also in the training or validation
    data, or show a lesion of these data, are left out and counted."""
    label_map: Path | None = None
    """JSON file for --external with the class of the model for each label of the dataset,
    or null if the model has no such class. Labels of published datasets have defaults."""
    prevalence: tuple[str, ...] = ()
    """For --external: prevalences at which to give PPV and NPV, such as melanoma=0.02 or
    malignant=0.1."""
    skip_overlap_audit: bool = False
    """For --external: score all images, without a comparison with the training images. The
    report then states that the overlap was not checked. For runs whose dataset is not in
    --data-dir."""


EXTERNAL_FLAGS = ("label_map", "prevalence", "skip_overlap_audit")
OTHER_FLAGS = ("split", "tta", "logit_adjustment", "corruptions", "ood_dir")


def command() -> None:
    """Parses the arguments, evaluates the runs, and prints their scores."""
    arguments = parse_arguments(Arguments)
    if not arguments.workdirs:
        raise ConfigError("Give the directory of a run, such as runs/quickstart.")
    if arguments.ensemble is not None:
        _combine(arguments, arguments.ensemble)
        return
    if arguments.external:
        _validate(arguments)
        return
    _reject(arguments, EXTERNAL_FLAGS, "cannot be used without --external.")
    common.load_tensorflow()
    from skincnn.api.run import Run

    for workdir in arguments.workdirs:
        result = Run(workdir, arguments.data_dir, arguments.cache).evaluate(
            splits=arguments.split,
            tta=arguments.tta,
            num_views=arguments.num_views,
            logit_adjustment=arguments.logit_adjustment,
            corruptions=arguments.corruptions,
            ood_dir=arguments.ood_dir,
        )
        common.show_report(workdir, result.split)


def _validate(arguments: Arguments) -> None:
    """Evaluates runs on another dataset, and prints their scores."""
    _reject(
        arguments,
        OTHER_FLAGS,
        "cannot be used with --external, which evaluates the model as is.",
    )
    prevalences = _parse_prevalences(arguments.prevalence)
    common.load_tensorflow()
    from skincnn.api.run import Run

    for workdir in arguments.workdirs:
        Run(workdir, arguments.data_dir, arguments.cache).evaluate_external(
            arguments.external,
            label_map=arguments.label_map,
            prevalences=prevalences,
            skip_overlap_audit=arguments.skip_overlap_audit,
        )
        common.show_report(workdir)


def _combine(arguments: Arguments, workdir: Path) -> None:
    """Writes the results of an ensemble, and prints the scores of the ensemble."""
    _reject(
        arguments,
        (*OTHER_FLAGS, "external", *EXTERNAL_FLAGS),
        "cannot be used with --ensemble, which averages existing predictions. Evaluate the "
        "runs with these options first.",
    )
    common.load_tensorflow()
    from skincnn.evaluation.aggregate import check_workdir, write_aggregate
    from skincnn.evaluation.ensemble import combine_runs

    with locked(workdir):
        check_workdir(workdir)
        write_aggregate(workdir, combine_runs(arguments.workdirs))
    common.show_report(workdir)


def _reject(arguments: Arguments, names: Sequence[str], reason: str) -> None:
    given = [name for name in names if getattr(arguments, name)]
    if given:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ConfigError(f"{flags} {reason}")


def _parse_prevalences(texts: Sequence[str]) -> dict[str, float]:
    """Returns the prevalence by target from texts such as "melanoma=0.02"."""
    prevalences = {}
    for text in texts:
        target, _, share = text.partition("=")
        try:
            prevalences[target] = float(share)
        except ValueError as error:
            raise ConfigError(
                "--prevalence must be TARGET=SHARE, such as melanoma=0.02. Received: "
                f"{text}."
            ) from error
    return prevalences
