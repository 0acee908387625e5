"""Trains a classifier, evaluates it, and exports it."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from skincnn.cli import common
from skincnn.config import Config
from skincnn.errors import ConfigError
from skincnn.files import locked
from skincnn.presets import describe_presets

DESCRIPTION = f"""Trains a classifier, evaluates it on held-out lesions, and exports it.

PRESET comes first and gives every value; each flag changes one.

presets ({common.DEFAULT_PRESET} where none is given):
{describe_presets()}

examples:
  train.py                 the synthetic demo pictures, a few minutes
  train.py mobilenet_160             HAM10000 on two cores
  train.py mobilenet_160 --optimizer.learning-rate 3e-4 --workdir runs/slower
  train.py mobilenet_160 --resume    on from where a run was stopped or killed
  train.py --config runs/cpu/config.json --workdir runs/again
  train.py mobilenet_160 --preview --augment.magnitude 1
  train.py mobilenet_160 --lr-range-test --optimizer.name sgd
  train.py mobilenet_160 --folds 5   five models, scored together; --resume goes on with them"""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to train, where to write, and what to do instead."""

    workdir: Path | None = None
    """The run's folder; runs/PRESET by default."""
    data_dir: Path | None = None
    """Where built datasets lie; TFDS's own folder by default."""
    cache: Literal["auto", "memory", "disk"] = "auto"
    """Keep decoded pictures in memory or in a file beside the datasets; auto: where they
    fit."""
    overwrite: bool = False
    """Replace the run that is in the folder."""
    resume: bool = False
    """Go on with the run that is in the folder, with the same preset and flags."""
    config_file: Annotated[Path | None, tyro.conf.arg(name="config")] = None
    """A config.json instead of a preset."""
    folds: int = 0
    """Cross-validation with this many models: each is trained in a folder of its own, and
    their out-of-fold predictions are scored together. 0: one model."""
    preview: bool = False
    """Train nothing: draw a page of augmented training pictures, preview.png, in the folder
    of --workdir, else in the current one."""
    lr_range_test: bool = False
    """Keep no training: try rising learning rates for a hundred steps, draw the loss in
    learning_rate_test.png in the run's folder, and suggest a rate."""
    config: Annotated[tyro.conf.FlagConversionOff[Config], tyro.conf.arg(name="")]


def parse(argv: list[str]) -> tuple[str, Arguments]:
    """Returns the preset's name (the file's, with --config) and the arguments.

    Exits with 2 where they cannot be used.
    """
    preset = ""
    if argv and not argv[0].startswith("-"):
        preset, *argv = argv
    return common.parse(
        Arguments, argv, preset, prog="train.py [PRESET]", description=DESCRIPTION
    )


def command() -> None:
    """Parses, trains, evaluates, exports, and says where the results are."""
    preset, arguments = parse(sys.argv[1:])
    if arguments.preview:
        preview(arguments)
        return
    workdir = arguments.workdir or Path("runs") / preset
    if arguments.lr_range_test:
        lr_range_test(arguments, workdir)
        return
    common.load_tensorflow()
    from skincnn.evaluation.evaluate import evaluate, write_evaluation
    from skincnn.serving.export import ExportSpec, export_saved_model, find_saved_model
    from skincnn.training.devices import join_processes, leave_processes, run_folder
    from skincnn.training.run import train

    if arguments.folds:
        cross_validate(arguments, workdir)
        return
    with run_folder(workdir) as folder:
        train(
            arguments.config,
            folder,
            arguments.data_dir,
            overwrite=arguments.overwrite,
            resume=arguments.resume,
            cache=arguments.cache,
        )
        leave_processes()
        if join_processes() > 0:  # the first one has the run
            return
        evaluation = evaluate(workdir, arguments.data_dir, arguments.cache)
        write_evaluation(workdir, evaluation)
        # A run that was done has been exported, unless it was stopped just before.
        saved_model = find_saved_model(workdir) or export_saved_model(
            ExportSpec(workdir=workdir), arguments.data_dir
        )
    common.show_report(workdir)
    print(f"model   {saved_model}")


def cross_validate(arguments: Arguments, workdir: Path) -> None:
    """Trains and evaluates a model for each test set, and scores them together."""
    from skincnn.evaluation import aggregate
    from skincnn.evaluation.cross_validation import cross_validation_configs, pool
    from skincnn.evaluation.evaluate import evaluate, write_evaluation
    from skincnn.training.devices import PROCESSES
    from skincnn.training.run import train
    from skincnn.training.workdir import check_workdir

    if any(os.environ.get(name) for name in PROCESSES):
        raise ConfigError(
            f"--folds trains on one machine. Received {', '.join(PROCESSES)} in the "
            "environment: unset them, or train each model by itself."
        )
    configs = cross_validation_configs(arguments.config, arguments.folds)
    runs = [workdir / f"model_{number}" for number in range(1, len(configs) + 1)]
    flags = {"overwrite": arguments.overwrite, "resume": arguments.resume}
    with locked(workdir):
        aggregate.check_workdir(workdir)
        # Of none of them is found out after hours that it cannot be written.
        for run, config in zip(runs, configs, strict=True):
            check_workdir(run, config, **flags)
        for run, config in zip(runs, configs, strict=True):
            print(f"\n{run}")
            train(config, run, arguments.data_dir, **flags, cache=arguments.cache)
            evaluation = evaluate(run, arguments.data_dir, arguments.cache)
            write_evaluation(run, evaluation)
            common.show_report(run)
        aggregate.write_aggregate(workdir, pool(runs))
        common.show_report(workdir)


def preview(arguments: Arguments) -> None:
    """Draws what the network would be shown, and says where the page is."""
    common.load_tensorflow()
    from skincnn.cli.preview import write_preview
    from skincnn.training.run import check

    check(arguments.config)
    path = (arguments.workdir or Path()) / "preview.png"
    write_preview(arguments.config, path, arguments.data_dir)
    print(f"preview {path}")


def lr_range_test(arguments: Arguments, workdir: Path) -> None:
    """Tests learning rates, and says which to give."""
    common.load_tensorflow()
    from skincnn.training import range_test

    found = range_test.lr_range_test(
        arguments.config, workdir, arguments.data_dir, arguments.cache
    )
    print(f"test       {found.plot} (and .csv)")
    print(f"suggested  {found.flag} {found.value:g}")
    print("Give it to the same command in place of --lr-range-test.")
