"""Parsing of arguments, and the text of --help.

A configuration has about a hundred flags. `--help` therefore lists only its groups, and
`--help GROUP` shows one group, with all names that the values of its flags can have.
"""

from __future__ import annotations

import inspect
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

import tyro

from skincnn.cli.help.choices import choices
from skincnn.cli.help.flags import BOOL, Flag, list_flags, list_groups
from skincnn.errors import ConfigError
from skincnn.lookup import suggest

T = TypeVar("T")

MIN_WIDTH, MAX_WIDTH = 60, 100
"""Smallest and largest number of characters in a line, for any width of the terminal."""
MAX_LINES = 70
"""Number of lines of the help of a group above which names are listed without phrases."""
INDENT = 30
"""Number of characters of the column with the flags and names."""


def parse_arguments(
    cls: type[T], argv: Sequence[str] | None = None, default: T | None = None
) -> T:
    """Returns the arguments of a command; if --help is given, prints the help and exits.

    Args:
        cls: The dataclass of the arguments, whose docstring describes the command. A field
            that is a dataclass is a group. The attribute `usage`, if any, names arguments
            that `argv` does not contain.
        argv: The arguments; by default those of the process.
        default: The default values; by default those of the fields.

    Raises:
        ConfigError: The argument after --help is neither a group nor a flag.
        SystemExit: --help was given, or a flag or a value is not valid; the help or an
            error message was printed.
    """
    argv = sys.argv[1:] if argv is None else argv
    for index, argument in enumerate(argv):
        if argument in ("-h", "--help"):
            topic = "".join(argv[index + 1 : index + 2])
            print(help_text(cls, topic, default))
            sys.exit()
    arguments = tyro.cli(cls, prog=sys.argv[0], args=argv, default=default)
    return cast(T, arguments)


def help_text(
    cls: type[Any], topic: str = "", default: Any = None, program: str = ""
) -> str:
    """Returns the help of a command, or of the group of flags or the flag `topic`.

    `program` is the command, such as "skincnn train", by default that of this process. For
    the other arguments and the errors, see `parse_arguments`.
    """
    flags = {flag.name: flag for flag in list_flags(cls, default)}
    groups = dict(list_groups(cls))
    program = program or sys.argv[0]
    if not topic:
        parts = _describe_command(cls, list(flags.values()), groups, program)
    elif topic in groups:
        shown = [flag for flag in flags.values() if flag.group == topic]
        title = f"{groups[topic]}\n\nFlags with their default values, which PRESET sets:"
        more = f"{program} --help FLAG shows the whole description and the names of a flag."
        parts = [_table(map(_short_row, shown), title), *_name_tables(shown), more]
        if sum(part.count("\n") + 2 for part in parts) > MAX_LINES:
            parts[1:-1] = _name_lists(shown)
    else:
        flag = _find_flag(flags, list(groups), topic.removeprefix("--"))
        parts = [_full_row(flag), *_name_tables([flag])]
    return "\n\n".join(parts)


def _describe_command(
    cls: type[Any], flags: Sequence[Flag], groups: Mapping[str, str], program: str
) -> list[str]:
    """Returns the usage, the description, the flags without a group, and the groups."""
    own = [flag for flag in flags if not flag.group]
    named = [getattr(cls, "usage", ""), *(flag.usage for flag in own if flag.positional)]
    words = ["usage:", program, *filter(None, named), "[--FLAG VALUE ...]"]
    text = inspect.getdoc(cls) or ""
    if text.startswith(f"{cls.__name__}("):  # a signature instead of an omitted docstring
        text = ""
    parts = [" ".join(words), *filter(None, [text])]
    to_row = _short_row if groups else _full_row
    for title, is_positional in (("arguments:", True), ("options:", False)):
        rows = [to_row(flag) for flag in own if flag.positional == is_positional]
        parts += [_table(rows, title)] if rows else []
    if groups:
        title = f"groups of flags, which {program} --help GROUP shows:"
        parts.append(_table((_row(*group) for group in groups.items()), title))
    return parts


def _table(rows: Iterable[str], title: str = "") -> str:
    return "\n".join([*filter(None, [title]), *rows])


def _name_tables(flags: Iterable[Flag]) -> Iterator[str]:
    """Yields a table with the names of each flag that has names."""
    for flag in flags:
        names = choices(flag.name.replace("-", "_"))
        if names:
            yield _table(_name_rows(names), f"names of --{flag.name}:")


def _name_lists(flags: Iterable[Flag]) -> Iterator[str]:
    """Yields the names of each flag that has names, without phrases."""
    for flag in flags:
        names = choices(flag.name.replace("-", "_"))
        if names:
            text = f"names of --{flag.name}: {', '.join(names)}"
            yield textwrap.fill(text, _width(), subsequent_indent="  ")


def _find_flag(flags: Mapping[str, Flag], groups: Sequence[str], topic: str) -> Flag:
    if topic in flags:
        return flags[topic]
    others = f" or by one of: {', '.join(groups)}" if groups else ""
    raise ConfigError(
        f"--help may be followed by a flag{others}. Received: {topic!r}."
        f"{suggest([*groups, *flags], topic)}"
    )


def _full_row(flag: Flag) -> str:
    name = f"{', '.join(flag.spellings)} {flag.metavar}"
    name = flag.name.upper() if flag.positional else name
    default = f" (default: {flag.default})" if flag.default else ""
    return _row(name.rstrip(), f"{flag.text}{default}")


def _short_row(flag: Flag) -> str:
    """Returns a row with the first sentence, unless the sentences describe the choices."""
    if flag.positional:
        return _full_row(flag)
    text = " ".join(flag.text.split())
    if not flag.metavar.startswith("{") or flag.metavar == BOOL:
        text = re.split(r"(?<=\.) ", text)[0]
    return _row(f"--{flag.name} {flag.default or flag.metavar}".rstrip(), text)


def _name_rows(names: Mapping[str, str]) -> Iterator[str]:
    """Yields one row for each phrase, with all names that have it."""
    by_phrase: dict[str, list[str]] = {}
    for name, phrase in names.items():
        by_phrase.setdefault(phrase, []).append(name)
    for phrase, same in by_phrase.items():
        *others, last = textwrap.wrap(", ".join(same), _width() - 2)
        yield "\n".join([*(f"  {line}" for line in others), _row(last, phrase)])


def _width() -> int:
    columns = shutil.get_terminal_size((MAX_WIDTH, 24)).columns
    return max(MIN_WIDTH, min(MAX_WIDTH, columns))


def _row(left: str, text: str) -> str:
    lines = textwrap.wrap(" ".join(text.split()), _width() - INDENT) or [""]
    if len(left) > INDENT - 4:
        lines.insert(0, "")
    first, *rest = lines
    return "\n".join(
        [f"  {left:{INDENT - 2}}{first}".rstrip(), *(" " * INDENT + x for x in rest)]
    )
