"""Evaluates trained runs, and averages several runs as an ensemble."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from skincnn.cli import common
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
    those of every --tta of the run are adjusted. Exports do not include the adjustment."""
    corruptions: bool = False
    """Evaluate on corrupted images (brightness, blur, noise, hair, ...) of the test split,
    or of the first --split, at five severities. Predicts every image 60 times."""
    ood_dir: Path | None = None
    """Directory of out-of-distribution (OOD) images. The report shows the fraction that is
    flagged as OOD, as for the built-in sets."""


def command() -> None:
    """Parses the arguments, evaluates the runs, and prints their scores."""
    arguments = tyro.cli(Arguments)
    if not arguments.workdirs:
        raise ConfigError("Give the directory of a run, such as runs/quickstart.")
    if arguments.ensemble is not None:
        _combine(arguments, arguments.ensemble)
        return
    common.load_tensorflow()
    from skincnn.evaluation.evaluate import EvaluateOptions, evaluate, write_evaluation

    options = EvaluateOptions(
        splits=arguments.split,
        tta=arguments.tta,
        num_views=arguments.num_views,
        logit_adjustment=arguments.logit_adjustment,
        corruptions=arguments.corruptions,
        ood_dir=arguments.ood_dir,
    )
    for workdir in arguments.workdirs:
        with locked(workdir):
            evaluation = evaluate(workdir, arguments.data_dir, arguments.cache, options)
            write_evaluation(workdir, evaluation)
            common.show_report(workdir, evaluation.headline)


def _combine(arguments: Arguments, workdir: Path) -> None:
    """Writes the results of an ensemble, and prints the scores of the ensemble."""
    names = ("split", "tta", "logit_adjustment", "corruptions", "ood_dir")
    if any(getattr(arguments, name) for name in names):
        raise ConfigError(
            "--ensemble averages existing predictions, so --split, --tta, "
            "--logit-adjustment, --corruptions and --ood-dir cannot be used with it. "
            "Evaluate the runs with these options first."
        )
    common.load_tensorflow()
    from skincnn.evaluation.aggregate import check_workdir, write_aggregate
    from skincnn.evaluation.ensemble import combine_runs

    with locked(workdir):
        check_workdir(workdir)
        write_aggregate(workdir, combine_runs(arguments.workdirs))
        common.show_report(workdir)
