"""Evaluates a run's folder again, without training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from skincnn import cli
from skincnn.files import locked


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Predicts a run's validation and test folds again and writes its report anew.

    Examples:
      python scripts/evaluate.py runs/quickstart
      python scripts/evaluate.py runs/cpu --split test_official
    """

    workdir: tyro.conf.Positional[Path]
    """The run's folder, as written by scripts/train.py."""
    split: tuple[str, ...] = ()
    """More splits of the dataset to evaluate beside val and test: fold_<n>, test_official,
    validation_official. None that was trained on."""
    data_dir: Path | None = None
    """Where built datasets lie; TFDS's own folder by default."""
    cache: Literal["auto", "memory", "disk"] = "auto"
    """Keep decoded pictures in memory or in a file beside the datasets; auto: where they
    fit."""


def command() -> None:
    """Parses, evaluates, and says where the report is."""
    arguments = tyro.cli(Arguments)
    cli.load_tensorflow()
    from skincnn.evaluation.report import evaluate, summary

    with locked(arguments.workdir):
        report = evaluate(
            arguments.workdir, arguments.data_dir, arguments.cache, arguments.split
        )
    print(f"\n{summary(report)}\n")
    print(f"report  {arguments.workdir / 'report.html'}")


if __name__ == "__main__":
    cli.main(command)
