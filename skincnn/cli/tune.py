"""Searches a space around a preset for a better configuration."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from skincnn.cli import common
from skincnn.config import Config
from skincnn.presets import describe_presets
from tuning.config import SearchConfig
from tuning.spaces import describe_spaces

DEFAULT_SPACES = ("learning",)
DESCRIPTION = f"""Searches a space around a preset for the best score on validation.

A trial is what train.py trains with other values. Test folds are never read. The best
configuration is best.json in the folder of --workdir: train.py --config trains and
evaluates it. A search that was stopped, or killed, goes on with the same command.

spaces ({DEFAULT_SPACES[0]} where none is given); several are searched together:
{describe_spaces()}
  package.module:function  one of yours, from (hp, config) to a Config; see tuning/spaces.py

presets ({common.DEFAULT_PRESET} where none is given):
{describe_presets()}

examples:
  tune.py                    how the demo preset learns
  tune.py learning imbalance --preset cpu --max-trials 40
  tune.py --preset cpu --tuner hyperband --max-minutes 600
  tune.py imbalance --preset cpu --objective macro_f1 --executions 3
  tune.py my_spaces:width --preset cpu --train.epochs 6
  train.py --config runs/tune-cpu-learning/best.json --workdir runs/tuned"""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to search, how, and where to write."""

    spaces: tyro.conf.Positional[tuple[str, ...]] = DEFAULT_SPACES
    """The spaces to search together."""
    preset: str = ""
    """What the search begins from; gives every value that is not searched."""
    config_file: Annotated[Path | None, tyro.conf.arg(name="config")] = None
    """A config.json instead of a preset."""
    workdir: Path | None = None
    """The search's folder; runs/tune-PRESET-SPACES by default."""
    data_dir: Path | None = None
    """Where built datasets lie; TFDS's own folder by default."""
    cache: Literal["auto", "memory", "disk"] = "auto"
    """Keep decoded pictures in memory or in a file beside the datasets; auto: where they
    fit."""
    overwrite: bool = False
    """Replace the search that is in the folder."""
    search: Annotated[SearchConfig, tyro.conf.arg(name="")] = field(
        default_factory=SearchConfig
    )
    config: Annotated[tyro.conf.FlagConversionOff[Config], tyro.conf.arg(name="")]


def parse(argv: list[str]) -> tuple[str, Arguments]:
    """Returns the preset's name (the file's, with --config) and the arguments.

    Exits with 2 where they cannot be used.
    """
    preset = common.find_flag(argv, "--preset")
    return common.parse(Arguments, argv, preset, prog="tune.py", description=DESCRIPTION)


def command() -> None:
    """Parses, searches, and says what was found and where it is."""
    preset, arguments = parse(sys.argv[1:])
    names = "-".join(name.replace(":", ".") for name in arguments.spaces)
    workdir = arguments.workdir or Path("runs") / f"tune-{preset}-{names}"
    common.load_tensorflow()
    from tuning.leaderboard import summary
    from tuning.search import run_search

    outcome = run_search(
        arguments.config,
        arguments.spaces,
        arguments.search,
        workdir,
        arguments.data_dir,
        overwrite=arguments.overwrite,
        cache=arguments.cache,
    )
    if outcome is None:
        print("The search is over; its chief has the leader board.")
        return
    print(f"\n{outcome.objective} on validation\n{summary(outcome.board)}\n")
    if outcome.failures:
        trial, cause = next(iter(outcome.failures.items()))
        print(f"{len(outcome.failures)} failed; the first, trial {trial}: {cause}\n")
    print(f"leader board  {workdir / 'leaderboard.csv'}")
    print(f"picture       {workdir / 'search.png'}")
    print(f"best          {workdir / 'best.json'}")
    print(f"train it:     python scripts/train.py --config {workdir / 'best.json'}")
