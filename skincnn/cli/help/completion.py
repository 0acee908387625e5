"""Writes the completion script of bash and zsh.

The completion script of `tyro` cannot be used: it offers the words of descriptions with
several lines as completions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from skincnn.cli import main
from skincnn.cli.help.choices import choices
from skincnn.cli.help.flags import list_flags
from skincnn.cli.help.text import parse_arguments
from skincnn.presets import ENSEMBLES, PRESETS

SCRIPT = """\
_skincnn() {{
  local command="${{COMP_WORDS[1]}}" previous="${{COMP_WORDS[COMP_CWORD-1]}}" words=""
  local current="${{COMP_WORDS[COMP_CWORD]}}"
  if ((COMP_CWORD == 1)); then
    words="{commands}"
  elif [[ $current == -* ]]; then
    case "$command" in
{flags}
    esac
  else
    case "$command $previous" in
{values}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _skincnn skincnn
"""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Prints a script that completes commands, flags and names with the Tab key.

    Where no name fits, file names are completed. The script is for bash and zsh:

      skincnn completion > ~/.skincnn-completion
      echo 'source ~/.skincnn-completion' >> ~/.bashrc

    In zsh, the lines in ~/.zshrc are:

      autoload -U compinit bashcompinit && compinit && bashcompinit
      source ~/.skincnn-completion
    """


def command() -> None:
    """Prints the script."""
    parse_arguments(Arguments)
    print(render(), end="")


def render() -> str:
    """Returns the script."""
    flags: dict[str, list[str]] = defaultdict(list)
    values: dict[str, list[str]] = defaultdict(list)
    for name in main.COMMANDS:
        arguments = list_flags(main.arguments_of(name))
        listed = [flag for flag in arguments if not flag.positional]
        spellings = [spelling for flag in listed for spelling in flag.spellings]
        flags[" ".join(["--help", *spellings])].append(name)
        for flag in listed:
            names: Iterable[str] = choices(flag.name.replace("-", "_"))
            if flag.metavar.startswith("{"):
                names = flag.metavar.strip("{}.").replace("}", "").split(",")
            if names:
                values[" ".join(names).strip()].append(f"{name} --{flag.name}")
    presets = " ".join([*PRESETS, *ENSEMBLES])
    values[presets] += ["train train", "presets presets", "tune --preset"]
    return SCRIPT.format(
        commands=" ".join(main.COMMANDS), flags=_cases(flags), values=_cases(values)
    )


def _cases(patterns: dict[str, list[str]]) -> str:
    """Returns the branches of a case statement; `patterns` are keyed by the completions."""
    return "\n".join(
        f'      {"|".join(f"{pattern!r}" for pattern in keys)}) words="{words}";;'
        for words, keys in patterns.items()
    )
