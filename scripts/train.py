"""Trains a classifier, evaluates it, and exports it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from skincnn import cli
from skincnn.config import Config
from skincnn.lookup import look_up
from skincnn.presets import PRESETS

DEFAULT_PRESET = "quickstart"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Trains a classifier, evaluates it on held-out lesions, and exports it.

    PRESET comes first and gives every value; each flag changes one.

    Examples:
      python scripts/train.py                  the made-up demo pictures, a few minutes
      python scripts/train.py cpu              HAM10000 on two cores
      python scripts/train.py cpu --optimizer.learning-rate 3e-4 --workdir runs/slower
      python scripts/train.py cpu --preview --augment.magnitude 1
    """

    workdir: Path | None = None
    """The run's folder; runs/PRESET by default."""
    data_dir: Path | None = None
    """Where built datasets lie; TFDS's own folder by default."""
    cache: Literal["auto", "memory", "disk"] = "auto"
    """Keep decoded pictures in memory or in a file beside the datasets; auto: where they
    fit."""
    overwrite: bool = False
    """Replace the run that is in the folder."""
    preview: bool = False
    """Train nothing: draw a page of augmented training pictures, preview.png, in the folder
    of --workdir, else in the current one."""
    config: Annotated[tyro.conf.FlagConversionOff[Config], tyro.conf.arg(name="")]


def parse(argv: list[str]) -> tuple[str, Arguments]:
    """Returns the preset's name and the arguments, or exits with 2."""
    preset = DEFAULT_PRESET
    if argv and not argv[0].startswith("-"):
        preset, *argv = argv
    config = look_up(PRESETS, preset, "PRESET")()
    arguments = tyro.cli(
        Arguments,
        prog=f"train.py [{'|'.join(PRESETS)}]",
        args=argv,
        default=Arguments(config=config),
    )
    return preset, arguments


def command() -> None:
    """Parses, trains, evaluates, exports, and says where the results are."""
    preset, arguments = parse(sys.argv[1:])
    if arguments.preview:
        preview(arguments)
        return
    workdir = arguments.workdir or Path("runs") / preset
    cli.load_tensorflow()
    from skincnn.evaluation.report import evaluate, summary
    from skincnn.serving.export import export_saved_model
    from skincnn.training.run import train

    train(
        arguments.config,
        workdir,
        arguments.data_dir,
        overwrite=arguments.overwrite,
        cache=arguments.cache,
    )
    report = evaluate(workdir, arguments.data_dir, arguments.cache)
    saved_model = export_saved_model(workdir, arguments.data_dir)
    print(f"\n{summary(report)}\n")
    print(f"report  {workdir / 'report.html'}")
    print(f"model   {saved_model}")


def preview(arguments: Arguments) -> None:
    """Draws what the network would be shown, and says where the page is."""
    cli.load_tensorflow()
    from skincnn.evaluation.preview import write_preview
    from skincnn.training.run import check

    check(arguments.config)
    path = (arguments.workdir or Path()) / "preview.png"
    write_preview(arguments.config, path, arguments.data_dir)
    print(f"preview {path}")


if __name__ == "__main__":
    cli.main(command)
