"""Renders the reports of runs again from their results."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from skincnn.cli import common
from skincnn.cli.help.text import parse_arguments
from skincnn.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Renders report.html, figures/ and the model card README.md of evaluated runs again.

    With --checklist, it also writes the checklists of reporting standards, with the answers
    that the results of the run contain.

    The run directory must contain its results/ and predictions/. No model or dataset is
    required, and no score changes.

    For example:
      python scripts/report.py runs/mobilenet_160
      python scripts/report.py runs/mobilenet_160 --headline test_official
      python scripts/report.py runs/mobilenet_160 --checklist tripod-ai claim
    """

    workdirs: tyro.conf.Positional[tuple[Path, ...]]
    """Directories of runs, ensembles or cross-validations."""
    headline: str = ""
    """The evaluated split that the report shows first, such as test_official. The default
    is test, or out_of_fold for a cross-validation."""
    checklist: tuple[str, ...] = ()
    """Reporting standards whose checklists are written to checklists/: tripod-ai, claim,
    stard-ai, clear-derm. Answers that only the authors know are read from authors.toml in
    the run directory (docs/guides/evaluation.md)."""


def command() -> None:
    """Parses the arguments, renders the reports, and prints the scores."""
    arguments = parse_arguments(Arguments)
    if not arguments.workdirs:
        raise ConfigError("Give the directory of a run, such as runs/quickstart.")
    common.load_tensorflow()
    for workdir in arguments.workdirs:
        common.show_report(workdir, arguments.headline, arguments.checklist)
