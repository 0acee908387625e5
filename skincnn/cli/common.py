"""Functions of several commands: flags, the startup of TensorFlow, and reports."""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
)

from skincnn import presets, startup
from skincnn.cli.help.text import parse_arguments
from skincnn.config import Config, read_config
from skincnn.errors import ConfigError
from skincnn.parts import file_name
from skincnn.paths import to_path

if TYPE_CHECKING:
    from skincnn.serving.predictor import Predictor

DEFAULT_PRESET = "quickstart"


@dataclass(frozen=True, kw_only=True)
class DataArguments:
    """The location of the dataset, and the cache of the decoded images."""

    data_dir: Path | None = None
    """Directory of the built datasets; by default, that of TFDS."""
    cache: Literal["auto", "memory", "disk"] = "auto"
    """Where decoded images are kept. memory: in memory; disk: in a file beside the
    datasets; auto: in memory, unless the file exists or the images would require more than
    half of the available memory."""


@dataclass(frozen=True, kw_only=True)
class ConfigArguments(DataArguments):
    """Arguments of commands that have a flag for each field of a configuration."""

    config_file: Annotated[Path | None, tyro.conf.arg(name="config")] = None
    """A YAML or JSON file to use instead of a preset. The config.json of a run is such a
    file. Only files with the suffix .yaml or .yml are read as YAML."""
    overwrite: bool = False
    """Replace an existing run or search in --workdir."""
    config: Annotated[tyro.conf.FlagConversionOff[Config], tyro.conf.arg(name="")]


Parsed = TypeVar("Parsed", bound=ConfigArguments)


def path_flags() -> ConstructorRegistry:
    """Returns a context in which each flag of the type `Path` is read by `to_path`."""
    registry = ConstructorRegistry()

    @registry.primitive_rule
    def rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Path] | None:
        if info.type is not Path:
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar="PATH",
            instance_from_str=lambda arguments: to_path(arguments[0]),
            is_instance=lambda value: isinstance(value, Path),
            str_from_instance=lambda path: [str(path)],
        )

    return registry


def load_tensorflow(paths: Iterable[Path] = ()) -> None:
    """Imports TensorFlow and Keras, and applies `startup.KERAS_SETTINGS`.

    The import takes seconds, so the `paths` of runs or exports are checked first.

    Raises:
        ConfigError: A path does not exist, or TensorFlow cannot be imported; see
            `skincnn.startup.load_tensorflow`.
    """
    for path in paths:
        if not path.exists():
            raise ConfigError(
                f"{path} does not exist. Expected a run directory or an export."
            )
    is_imported = "tensorflow" in sys.modules
    startup.load_tensorflow()
    startup.set_keras(startup.KERAS_SETTINGS)
    if not is_imported:
        gc.freeze()  # the garbage collector would often search all objects of TensorFlow


def warn_of_synthetic_images(predictor: Predictor) -> None:
    """Prints a warning if all training images of a model are synthetic."""
    if predictor.synthetic:
        print(
            "warning: the model was trained on SYNTHETIC images only: its predictions are "
            "meaningless for real lesions",
            file=sys.stderr,
        )


def parse(cls: type[Parsed], argv: Sequence[str], preset: str) -> tuple[str, Parsed]:
    """Returns the name of the preset, or of the --config file, and the parsed arguments.

    The name of a file is returned without its suffix. Each name is a valid name of a
    directory. `cls` is a dataclass in which all fields except `config` have defaults.
    `argv` does not contain a positional PRESET. `preset` is "" if --config is given or the
    default preset is used.

    Raises:
        ConfigError: The preset does not exist or cannot be used, the file is not a valid
            configuration, or both were given; see also `parse_arguments`.
        SystemExit: See `parse_arguments`; or --config has no value.
    """
    # The preset or the file provides the defaults of all flags and is therefore read first.
    path = find_flag(argv, "--config")
    if not path:
        preset = preset or DEFAULT_PRESET
        preset, config = file_name(preset), presets.preset(preset)
    elif preset:
        raise ConfigError(
            "PRESET and --config cannot be used together. "
            f"Received: {preset} and --config {path}."
        )
    else:
        preset, config = Path(path).stem, read_config(to_path(path))
    default = cls(config=config)
    return preset, parse_arguments(cls, argv, default)


def find_flag(argv: Sequence[str], name: str) -> str:
    """Returns the value of one flag in `argv`, or "" if the flag is missing.

    The argument after --help is a topic, not a flag with a value.

    Raises:
        SystemExit: The flag has no value; an error message was printed.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(name, default="", dest="value")
    pairs = zip(["", *argv], argv, strict=False)
    flags = [argument for before, argument in pairs if before not in ("-h", "--help")]
    return str(parser.parse_known_args(flags)[0].value)


def show_report(workdir: Path, headline: str = "", checklists: Sequence[str] = ()) -> None:
    """Renders the report of a run, and prints the scores and the paths of the files.

    `headline` is the split to report first; see `skincnn.reporting.load.load_results`.
    `checklists` are names of reporting standards, whose checklists are also written.
    Existing checklists are always written again.

    Raises:
        ConfigError, DataError: See `Run.report` and `Run.checklists`.
    """
    from skincnn.api.run import Run

    run = Run(workdir)
    path = run.report(headline)
    paths = run.checklists(checklists, headline)
    print(f"\n{run.summary(headline)}\n\nreport  {path}")
    for path in paths:
        print(f"checklist {path}")
