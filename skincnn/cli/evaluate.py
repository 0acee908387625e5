"""Evaluates runs again, without training; asks them more; makes ensembles of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from skincnn.cli import common
from skincnn.errors import ConfigError
from skincnn.files import locked


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Predicts a run's validation and test folds again and writes its report anew.

    What is asked for beside the plain result stands in the report beside it, and costs the
    time that is given there. It stays there when the same model is evaluated again with
    the same headline.

    For example:
      python scripts/evaluate.py runs/quickstart
      python scripts/evaluate.py runs/cpu --split test_official
      python scripts/evaluate.py runs/cpu --tta d4 --corruptions
      python scripts/evaluate.py runs/a runs/b runs/c --ensemble runs/abc
    """

    workdirs: tyro.conf.Positional[tuple[Path, ...]]
    """The folders of runs, as written by scripts/train.py; one after the other."""
    ensemble: Path | None = None
    """Ask no model: write the report of the runs' mean probabilities into this folder. It
    has the splits and the test-time augmentation that all of them were evaluated with."""
    split: tuple[str, ...] = ()
    """More splits of the dataset to evaluate beside val and test: fold_<n>, test_official,
    validation_official; the first is the headline. None that was trained on; how much of
    an official one is in the training by other ways is counted and said."""
    tta: tuple[Literal["d4", "augment"], ...] = ()
    """Test-time augmentation: show each picture --num-views times and take the mean answer.
    d4: turned and mirrored; augment: varied as in training."""
    num_views: int = 8
    """How often a picture is shown in --tta; at most 8 orientations."""
    logit_adjustment: bool = False
    """Also lower the logits of common classes, by as much as is best for the balanced
    accuracy of validation: it is exchanged for accuracy at no cost of time. So are those of
    the --tta of this command and of the report. Exports serve the model without it."""
    corruptions: bool = False
    """Also spoil the pictures of the test split (light, focus, noise, hairs, ...) in five
    strengths and see what is left of the score: 60 times the pictures."""
    ood_dir: Path | None = None
    """A folder of pictures that are no dermatoscopy, to see whether they are told from
    those that are; beside photographs and made ones, which are always tried."""
    data_dir: Path | None = None
    """Where built datasets lie; TFDS's own folder by default."""
    cache: Literal["auto", "memory", "disk"] = "auto"
    """Keep decoded pictures in memory or in a file beside the datasets; auto: where they
    fit."""


def command() -> None:
    """Parses, evaluates, and says where the reports are."""
    arguments = tyro.cli(Arguments)
    if not arguments.workdirs:
        raise ConfigError("Give the folder of a run, such as runs/quickstart.")
    common.load_tensorflow()
    from skincnn.evaluation.ensemble import combine_runs
    from skincnn.evaluation.evaluate import EvaluateOptions, evaluate
    from skincnn.reporting.report import summary

    if arguments.ensemble is not None:
        asked = (
            arguments.split,
            arguments.tta,
            arguments.logit_adjustment,
            arguments.corruptions,
            arguments.ood_dir,
        )
        if any(asked):
            raise ConfigError(
                "--ensemble asks no model. Evaluate the runs with --split, --tta, "
                "--logit-adjustment, --corruptions or --ood-dir first, then give "
                "--ensemble without them."
            )
        with locked(arguments.ensemble):
            report = combine_runs(arguments.ensemble, arguments.workdirs)
        print(f"\n{summary(report)}\n")
        print(f"report  {arguments.ensemble / 'report.html'}")
        return
    options = EvaluateOptions(
        tta=arguments.tta,
        num_views=arguments.num_views,
        logit_adjustment=arguments.logit_adjustment,
        corruptions=arguments.corruptions,
        unknown=arguments.ood_dir,
    )
    for workdir in arguments.workdirs:
        with locked(workdir):
            report = evaluate(
                workdir, arguments.data_dir, arguments.cache, arguments.split, options
            )
        print(f"\n{summary(report)}\n")
        print(f"report  {workdir / 'report.html'}")
