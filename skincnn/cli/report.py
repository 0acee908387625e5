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

    With --checklist, the checklists of reporting standards are also written, with the
    answers that the results of the run contain. Existing ones are always written again.

    The run directory must contain run.json, config.json (if it is a single run), results/
    and predictions/. Without history.csv, the report has no learning curves. Neither the
    model nor a dataset is required, and no score changes.

    For example:
      skincnn report runs/mobilenet_160
      skincnn report runs/mobilenet_160 --headline test_official
      skincnn report runs/mobilenet_160 --checklist tripod-ai claim
    """

    workdirs: tyro.conf.Positional[tuple[Path, ...]]
    """Directories of runs, ensembles or cross-validations."""
    headline: str = ""
    """The evaluated split that the report and the checklists describe first, such as
    test_official. The default is test, or out_of_fold for a cross-validation."""
    checklist: tuple[str, ...] = ()
    """Reporting standards whose checklists are written to checklists/: tripod-ai, claim,
    stard-ai, clear-derm. Answers that only the authors know are read from authors.toml in
    the run directory (docs/guides/evaluation.md)."""


def command() -> None:
    """Parses the arguments, renders the reports, and prints the scores."""
    arguments = parse_arguments(Arguments)
    if not arguments.workdirs:
        raise ConfigError(
            "Expected the directory of a run, such as runs/quickstart. Received: none."
        )
    common.load_tensorflow(arguments.workdirs)
    for workdir in arguments.workdirs:
        common.show_report(workdir, arguments.headline, arguments.checklist)
