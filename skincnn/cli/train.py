"""Trains a classifier, evaluates it and exports it."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from skincnn.cli import common
from skincnn.errors import ConfigError, DivergedError
from skincnn.files import locked, replacing, require_writable_folder, write_text
from skincnn.lookup import describe_functions, look_up
from skincnn.presets import ENSEMBLES, PRESETS, vary_seed

if TYPE_CHECKING:
    from skincnn.config import Config
    from skincnn.evaluation.aggregate import Aggregate


@dataclass(frozen=True, kw_only=True)
class Arguments(common.ConfigArguments):
    """Arguments of the command; `__doc__` is set below."""

    usage: ClassVar[str] = "[PRESET]"

    workdir: Path | None = None
    """The run directory; runs/PRESET by default. With --config FILE.yaml, runs/FILE."""
    resume: bool = False
    """Resume the run in --workdir. The preset and the flags that change it must be the
    same as before. A finished run is not trained again; if there is no run, a new one
    starts."""
    folds: int = 0
    """Number of models of a cross-validation. Each has its own run directory. The
    out-of-fold predictions of all models are scored together. 2 to 9, or 0 for a single
    model."""
    ensemble: int = 0
    """Number of models of an ensemble. Each has its own run directory. The models differ in
    their seeds; the averaged predictions are scored and exported as one SavedModel. 2 or
    more, or 0 for a single model."""
    final_test: bool = False
    """Test on fold 0, which is kept for final tests. The model is trained also on the usual
    test folds. Use this flag once, for the final score of a recipe that will not change
    anymore."""
    preview: bool = False
    """Only draw augmented training images. They are written to preview.png in --workdir (by
    default, the current directory)."""
    lr_range_test: bool = False
    """Only test increasing learning rates, and suggest one. The test takes at most 100
    steps, and writes the losses to lr_range_test.png and lr_range_test.csv in --workdir."""


Arguments.__doc__ = f"""Trains a classifier, evaluates it on held-out images and exports it.

PRESET is the first argument and sets all values; flags change individual values.

presets (default: {common.DEFAULT_PRESET}) and ensembles of several models:
{describe_functions({**PRESETS, **ENSEMBLES})}
  package.module:function     a function () -> Config of yours; see docs/guides/extending.md

examples:
  skincnn train                   the synthetic demo images, a few minutes
  skincnn train mobilenet_160 --optimizer.learning-rate 3e-4 --workdir runs/slower
  skincnn train mobilenet_160 --resume          continue an interrupted run
  skincnn train --config my_config.yaml --workdir runs/mine
  skincnn train mobilenet_160 --folds 5         cross-validation, five models
  skincnn train mobilenet_160 --data.datasets isic2018 clinic_a   two datasets
  skincnn train mobilenet_160 --final-test --workdir runs/final"""


def parse(argv: list[str]) -> tuple[str, Arguments]:
    """Returns the name of the preset, or of the --config file, and the parsed arguments.

    Raises:
        ConfigError: No preset or ensemble has the name in the first argument; see also
            `common.parse`.
        SystemExit: See `common.parse`.
    """
    preset = ""
    if argv and not argv[0].startswith("-"):
        preset, *argv = argv
    if preset and ":" not in preset:
        look_up({**PRESETS, **ENSEMBLES}, preset, "PRESET")
    first = f"{preset}_member" if preset in ENSEMBLES else preset
    name, arguments = common.parse(Arguments, argv, first)
    return (preset if preset in ENSEMBLES else name), arguments


def command() -> None:
    """Trains and evaluates models, draws a preview, or runs a learning-rate range test.

    A model or an ensemble is also exported; the models of a cross-validation are not.
    """
    preset, arguments = parse(sys.argv[1:])
    if arguments.folds and (arguments.final_test or arguments.config.data.final_test):
        raise ConfigError("Use either --folds or a final test. Received: both.")
    vary = ENSEMBLES.get(preset)
    if sum(map(bool, (arguments.folds, arguments.ensemble, vary))) > 1:
        raise ConfigError(
            "Use one of --folds, --ensemble and an ensemble such as ensemble5. Received "
            "more than one."
        )
    if arguments.final_test:
        config = arguments.config
        config = dataclasses.replace(config, data=config.data.for_final_test())
        arguments = dataclasses.replace(arguments, config=config)
    if arguments.preview:
        preview(arguments)
        return
    workdir = arguments.workdir or Path("runs") / preset
    common.load_tensorflow()
    if arguments.lr_range_test:
        lr_range_test(arguments, workdir)
        return
    if arguments.folds:
        cross_validate(arguments, workdir)
        return
    if vary or arguments.ensemble:
        config = arguments.config
        members = vary(config) if vary else vary_seed(config, arguments.ensemble)
        train_ensemble(arguments, workdir, members)
        return
    from skincnn.api.training import train
    from skincnn.serving.export_spec import find_current_export

    run = train(
        arguments.config,
        workdir,
        arguments.data_dir,
        overwrite=arguments.overwrite,
        resume=arguments.resume,
        cache=arguments.cache,
    )
    run.evaluate()
    # A finished run has an export, unless it was interrupted before or its rule changed.
    finish(workdir, lambda: find_current_export(workdir) or run.export()["saved_model"])


def finish(workdir: Path, export: Callable[[], Path]) -> None:
    """Exports a model and shows its report, also if the export fails.

    Raises:
        ConfigError, DataError: See `common.show_report` and `export`.
        OSError: See `export`.
    """
    try:
        saved_model = export()
    except Exception:  # training and evaluation have succeeded
        common.show_report(workdir)
        raise
    common.show_report(workdir)
    print(f"model   {saved_model}")


def cross_validate(arguments: Arguments, workdir: Path) -> None:
    """Trains and evaluates one model per test set, and scores the pooled predictions.

    Raises:
        ConfigError: See `cross_validation_configs`, `train_models` and `pool`.
        DataError: See `train_models` and `pool`.
        DivergedError, OSError, Terminated, KeyboardInterrupt: See `train_models`.
    """
    from skincnn.evaluation.aggregate import cross_validation_configs, pool

    configs = cross_validation_configs(arguments.config, arguments.folds)
    train_models(arguments, workdir, configs, pool)
    common.show_report(workdir)


def train_ensemble(arguments: Arguments, workdir: Path, configs: Sequence[Config]) -> None:
    """Trains and evaluates models, scores their average, and exports it as one model.

    Raises:
        ConfigError: There are fewer than two models; see also `train_models`,
            `combine_runs` and `export`.
        DataError: See `train_models`, `combine_runs` and `export`.
        OSError: See `train_models`; or the export cannot be written.
        DivergedError, Terminated, KeyboardInterrupt: See `train_models`.
    """
    from skincnn.evaluation.ensemble import combine_runs
    from skincnn.serving.export import export_one
    from skincnn.serving.export_info import SAVED_MODEL
    from skincnn.serving.export_spec import ExportSpec

    if len(configs) < 2:
        raise ConfigError(f"--ensemble must be 2 or more. Received: {arguments.ensemble}.")
    runs = train_models(arguments, workdir, configs, combine_runs, logit_adjustment=True)
    spec = ExportSpec(workdir=workdir, runs=tuple(runs))
    finish(workdir, lambda: export_one(spec, SAVED_MODEL, arguments.data_dir))


def train_models(
    arguments: Arguments,
    workdir: Path,
    configs: Sequence[Config],
    combine: Callable[[Sequence[Path]], Aggregate],
    *,
    logit_adjustment: bool = False,
) -> list[Path]:
    """Trains and evaluates several models, and writes their combined results.

    `logit_adjustment` is that of `EvaluateOptions`. With --resume, finished models are not
    trained again, and the interrupted model is resumed. Returns the run directories, which
    are inside `workdir`.

    Raises:
        ConfigError: Training on several machines is configured, a directory cannot be used,
            or a file cannot be written; see also `skincnn.train`, `Run.evaluate` and the
            function `combine`.
        DataError: See `skincnn.train`, `Run.evaluate` and the function `combine`.
        DivergedError, Terminated, KeyboardInterrupt: See `skincnn.train`.
        OSError: See `skincnn.train` and `Run.evaluate`.
    """
    from skincnn.api.training import train
    from skincnn.evaluation import aggregate
    from skincnn.training.devices import PROCESSES
    from skincnn.training.run import check_workdir

    if any(os.environ.get(name) for name in PROCESSES):
        raise ConfigError(
            "Several models can be trained only on one machine. Unset the environment "
            f"variables {', '.join(PROCESSES)}, or train each model separately."
        )
    runs = [workdir / f"model_{number}" for number in range(1, len(configs) + 1)]
    overwrite, resume = arguments.overwrite, arguments.resume
    with locked(workdir):
        aggregate.check_workdir(workdir)
        # Check all directories before training the first model.
        for run, config in zip(runs, configs, strict=True):
            check_workdir(run, config, overwrite=overwrite, resume=resume)
        for run, config in zip(runs, configs, strict=True):
            print(f"\n{run}")
            train(
                config,
                run,
                arguments.data_dir,
                overwrite=overwrite,
                resume=resume,
                cache=arguments.cache,
            ).evaluate(logit_adjustment=logit_adjustment)
            common.show_report(run)
        aggregate.write_aggregate(workdir, combine(runs))
    return runs


def preview(arguments: Arguments) -> None:
    """Draws augmented training images, and prints the path of the figure.

    Raises:
        ConfigError: --workdir is not writable; see also `check` and `show_batch`.
        DataError: See `show_batch`.
        OSError: The figure cannot be written; see also `show_batch`.
    """
    common.load_tensorflow()
    from skincnn.api.data import show_batch
    from skincnn.training.setup import check

    check(arguments.config)
    path = (arguments.workdir or Path()) / "preview.png"
    require_writable_folder(path.parent, "--workdir")
    image = show_batch(arguments.config, arguments.data_dir)
    with replacing(path) as temporary:
        image.save(temporary, "PNG")
    print(f"preview {path}")


def lr_range_test(arguments: Arguments, workdir: Path) -> None:
    """Tests learning rates, writes a table and a plot, and prints the suggested rate.

    Raises:
        ConfigError: `workdir` is not writable; see also `check`, `prepare` and
            `range_test.lr_range_test`.
        DataError: See `prepare` and `range_test.lr_range_test`.
        DivergedError: The loss did not decrease at any learning rate.
        OSError: The table or the plot cannot be written; see also `prepare`.
    """
    from skincnn.reporting.plots import plot_learning_rates, to_png
    from skincnn.training import range_test
    from skincnn.training.setup import check, prepare

    check(arguments.config)
    require_writable_folder(workdir, "--workdir")
    # One device is enough: dividing a batch among devices hardly changes the loss.
    train = dataclasses.replace(arguments.config.train, devices=1)
    config = dataclasses.replace(arguments.config, train=train)
    setup, dataset, _ = prepare(config, arguments.data_dir, arguments.cache)
    test = range_test.lr_range_test(setup)
    title = f"{config.model.backbone} on {dataset.full_name}, {config.optimizer.name}"
    plot = workdir / "lr_range_test.png"
    with replacing(plot) as temporary:
        figure = plot_learning_rates(test.table, test.learning_rate, title)
        temporary.write_bytes(to_png(figure))
    write_text(plot.with_suffix(".csv"), test.table.to_csv(index=False))
    if test.value is None:
        raise DivergedError(
            f"The loss did not decrease at any learning rate >= {range_test.LOWEST:g}. "
            f"Expected a decrease, then an increase; see {plot}. Check the images with "
            "--preview, and try another --optimizer.name or --model.backbone."
        )
    print(f"test       {plot} (and .csv)")
    print(f"suggested  {test.flag} {test.value:g}")
    print("To train, replace --lr-range-test with this flag in the same command.")
