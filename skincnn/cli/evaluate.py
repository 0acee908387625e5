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

    Earlier results with other options are kept in the run directory, except those that
    --num-views outdates. With --ensemble, existing predictions are averaged instead; with
    --external, another dataset is predicted.

    For example:
      skincnn evaluate runs/quickstart
      skincnn evaluate runs/mobilenet_160 --split test_official
      skincnn evaluate runs/mobilenet_160 --tta d4 --corruptions
      skincnn evaluate runs/a runs/b runs/c --ensemble runs/abc
      skincnn evaluate runs/a --external isic2019 --prevalence melanoma=0.02
    """

    workdirs: tyro.conf.Positional[tuple[Path, ...]]
    """One or more run directories of `skincnn train`."""
    ensemble: Path | None = None
    """Directory for the results of an ensemble, which averages the predictions of the runs.
    Results of an earlier ensemble or cross-validation in this directory are replaced. The
    ensemble is evaluated for the splits and variants that have been evaluated for all
    runs."""
    split: tuple[str, ...] = ()
    """Additional splits of the dataset to evaluate: fold_<n>, test_official or
    validation_official. The report starts with the first of these splits. Splits that were
    used for training or validation are rejected; with --data.split-by image, these are all
    folds. fold_0 is rejected unless it is the test fold. If the run has several test folds,
    they are evaluated together, and a single one is rejected, except with --data.leave-out.
    The overlap of the splits with the training and validation images is reported."""
    tta: tuple[Literal["d4", "augment"], ...] = ()
    """Test-time augmentation: predict --num-views views of each image and average the
    probabilities. d4: the eight rotations and reflections; augment: the augmentation that
    the run was trained with."""
    num_views: int = 8
    """Number of views for --tta; at most 8 for d4. Earlier results of the same --tta with a
    different number of views are removed, also those for other splits and the
    logit-adjusted ones; use --logit-adjustment to compute the latter again."""
    logit_adjustment: bool = False
    """Also evaluate with logits that are adjusted for the class frequencies of the training
    images, with the strength that has the best balanced accuracy on validation. This trades
    accuracy for balanced accuracy, at no computational cost. The predictions without
    test-time augmentation are adjusted, and those of every --tta, also an earlier one."""
    corruptions: bool = False
    """Evaluate on corrupted images (brightness, blur, noise, hair, ...) of the test split,
    or of the first --split, at five severities. Predicts each image 61 times."""
    ood_dir: Path | None = None
    """Directory of out-of-distribution (OOD) images. The report shows the fraction that is
    flagged as OOD, as for the built-in sets."""
    external: str = ""
    """Name of another built dataset to evaluate on, with the preprocessing, calibration,
    thresholds and OOD limit of the run. Images that are also in the training or validation
    data, show a lesion or a patient of these data, or are near-duplicates of their images,
    are left out and counted, as far as the overlap audit finds them."""
    label_map: Path | None = None
    """JSON file for --external with the class of the model for each label of the dataset,
    or null if the model has no such class. Labels with the name or a synonym of a class,
    and labels of published datasets if all classes are published ones, have defaults."""
    prevalence: tuple[str, ...] = ()
    """For --external: the prevalence of each target at which to give PPV and NPV, such as
    melanoma=0.02 malignant=0.1."""
    skip_overlap_audit: bool = False
    """For --external: score all images whose label is a class of the model, without a
    comparison with the training images. The report then states that the overlap was not
    checked. For runs whose dataset is not in --data-dir."""


EXTERNAL_FLAGS = ("label_map", "prevalence", "skip_overlap_audit")
RUN_FLAGS = ("split", "tta", "logit_adjustment", "ood_dir")
OTHER_FLAGS = (*RUN_FLAGS, "corruptions")


def command() -> None:
    """Parses the arguments, evaluates the runs, and prints their scores."""
    arguments = parse_arguments(Arguments)
    if not arguments.workdirs:
        raise ConfigError(
            "Expected the directory of a run, such as runs/quickstart. Received: none."
        )
    if arguments.ensemble is not None:
        _combine(arguments, arguments.ensemble)
        return
    if arguments.external:
        _validate(arguments)
        return
    _reject(arguments, EXTERNAL_FLAGS, "cannot be used without --external.")
    common.load_tensorflow(arguments.workdirs)
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
    common.load_tensorflow(arguments.workdirs)
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
        ("corruptions", "external", *EXTERNAL_FLAGS),
        "cannot be used with --ensemble: ensembles have no results for corrupted images "
        "and external datasets. Omit these flags.",
    )
    _reject(
        arguments,
        RUN_FLAGS,
        "cannot be used with --ensemble, which averages existing predictions. Evaluate the "
        "runs with these options first.",
    )
    common.load_tensorflow(arguments.workdirs)
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
        if target in prevalences:
            raise ConfigError(
                "--prevalence: expected one share for each target. Received: "
                f"{' '.join(texts)}."
            )
        try:
            prevalences[target] = float(share)
        except ValueError as error:
            raise ConfigError(
                "--prevalence must be TARGET=SHARE, such as melanoma=0.02. Received: "
                f"{text}."
            ) from error
    return prevalences
