"""Searches for hyperparameters that are better than those of a preset."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from skincnn.cli import common
from skincnn.commands import command_line
from skincnn.lookup import describe_functions
from skincnn.parts import file_name
from tuning.config import SearchConfig
from tuning.spaces import SPACES

DEFAULT_SPACES = ("learning",)


@dataclass(frozen=True, kw_only=True)
class Arguments(common.ConfigArguments):
    """Arguments of the command; `__doc__` is set below."""

    spaces: tyro.conf.Positional[tuple[str, ...]] = DEFAULT_SPACES
    """Names of the spaces, which are searched together."""
    preset: str = ""
    """The preset whose fields the search and other flags change; by default quickstart,
    unless --config is given."""
    workdir: Path | None = None
    """The directory of the search; by default runs/tune-PRESET-SPACES, where PRESET is FILE
    for --config FILE.yaml."""
    search: Annotated[SearchConfig, tyro.conf.arg(name="")] = field(
        default_factory=SearchConfig
    )


Arguments.__doc__ = f"""Searches for hyperparameters that are better than those of a preset.

Each trial trains a model, as `skincnn train` does, with different hyperparameters. Test
images are never used. The best configuration is written to best.json in --workdir;
`skincnn train --config` trains and evaluates it. The same command resumes an interrupted
search. The command `skincnn presets` lists the presets.

spaces (default: {DEFAULT_SPACES[0]}); several spaces are searched together:
{describe_functions(SPACES)}
  package.module:function  a function (hp, config) -> Config; see tuning/spaces.py

examples:
  skincnn tune                    the space `learning`, for the preset quickstart
  skincnn tune learning imbalance --preset mobilenet_160 --max-trials 40
  skincnn tune --preset mobilenet_160 --tuner hyperband --max-minutes 600
  skincnn tune imbalance --preset mobilenet_160 --objective macro_f1
  skincnn tune my_spaces:width --preset mobilenet_160 --train.epochs 6
  skincnn train --config runs/tune-mobilenet_160-learning/best.json"""


def parse(argv: list[str]) -> tuple[str, Arguments]:
    """Returns the name of the preset, or of the --config file, and the parsed arguments.

    Raises:
        ConfigError, SystemExit: See `common.parse`; or --preset has no value.
    """
    preset = common.find_flag(argv, "--preset")
    return common.parse(Arguments, argv, preset)


def command() -> None:
    """Runs a search, and prints the leaderboard and the paths of the results."""
    preset, arguments = parse(sys.argv[1:])
    names = "-".join(map(file_name, arguments.spaces))
    workdir = arguments.workdir or Path("runs") / f"tune-{preset}-{names}"
    common.load_tensorflow()
    from tuning.leaderboard import format_leaderboard
    from tuning.search import run_search

    result = run_search(
        arguments.config,
        arguments.spaces,
        arguments.search,
        workdir,
        arguments.data_dir,
        overwrite=arguments.overwrite,
        cache=arguments.cache,
    )
    if result is None:
        print("The search has ended. The chief process writes the leaderboard.")
        return
    print(f"\n{result.objective} on validation\n{format_leaderboard(result.leaderboard)}\n")
    if result.failures:
        trial, cause = next(iter(result.failures.items()))
        print(f"failed trials: {len(result.failures)}; the first is {trial}: {cause}\n")
    print(f"leaderboard  {workdir / 'leaderboard.csv'}")
    print(f"figure       {workdir / 'search.png'}")
    print(f"best config  {workdir / 'best.json'}")
    print(f"to train it: {command_line('train', '--config', workdir / 'best.json')}")
