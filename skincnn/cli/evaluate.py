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

    Each option adds results; existing results do not change. The report shows all results
    in a run directory.

    For example:
      python scripts/evaluate.py runs/quickstart
      python scripts/evaluate.py runs/mobilenet_160 --split test_official
      python scripts/evaluate.py runs/mobilenet_160 --tta d4 --corruptions
      python scripts/evaluate.py runs/a runs/b runs/c --ensemble runs/abc
    """

    workdirs: tyro.conf.Positional[tuple[Path, ...]]
    """One or more run directories of scripts/train.py."""
    ensemble: Path | None = None
    """Average the predictions of the runs, and write the results to this directory, where
    they replace those of an earlier ensemble. The ensemble has the splits and variants with
    which all runs were evaluated."""
    split: tuple[str, ...] = ()
    """More splits of the dataset to evaluate: fold_<n>, test_official or
    validation_official. The report starts with the first of them. Splits that were used for
    training are rejected; overlap of an official split with the training data is
    reported."""
    tta: tuple[Literal["d4", "augment"], ...] = ()
    """Test-time augmentation: predict --num-views views of each image and average the
    probabilities. d4: the eight rotations and reflections; augment: the augmentation that
    the run was trained with."""
    num_views: int = 8
    """Number of views for --tta; at most 8 for d4. A new number replaces the results of
    this --tta. It also removes those with logit adjustment, unless --logit-adjustment is
    given as well."""
    logit_adjustment: bool = False
    """Adjust the logits to the class frequencies of the training images, with the strength
    that has the best balanced accuracy on validation. This trades accuracy for balanced
    accuracy, at no computational cost. It applies to the model as is and to every --tta of
    the run. Exports do not include it."""
    corruptions: bool = False
    """Evaluate on corrupted images (brightness, blur, noise, hair, ...) of the test split,
    or of the first --split, at five severities. Predicts every image 60 times."""
    ood_dir: Path | None = None
    """Directory of out-of-distribution images. The rejected share of them is measured, in
    addition to that of the built-in sets."""


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
    """Writes the results of an ensemble, and prints its scores."""
    names = ("split", "tta", "logit_adjustment", "corruptions", "ood_dir")
    if any(getattr(arguments, name) for name in names):
        raise ConfigError(
            "--ensemble averages existing predictions, so --split, --tta, "
            "--logit-adjustment, --corruptions and --ood-dir cannot be given with it. "
            "Evaluate the runs with these options first."
        )
    common.load_tensorflow()
    from skincnn.evaluation.aggregate import check_workdir, write_aggregate
    from skincnn.evaluation.ensemble import combine_runs

    with locked(workdir):
        check_workdir(workdir)
        write_aggregate(workdir, combine_runs(arguments.workdirs))
        common.show_report(workdir)
