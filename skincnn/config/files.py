"""Parses configuration files (YAML or JSON), and locates keys and errors in them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from skincnn.errors import ConfigError

YAML_SUFFIXES = (".yaml", ".yml")


def parse(path: Path, text: str) -> Any:
    """Returns the content of a file: YAML 1.2 if its suffix is .yaml or .yml, else JSON.

    In YAML 1.2, unlike in YAML 1.1, `on` is a string and `3e-4` is a number. Dates are
    returned as strings.

    Raises:
        ConfigError: The syntax is invalid, or a key is repeated. The message begins with
            the path and, if they are known, :line:column.
    """
    if path.suffix in YAML_SUFFIXES:
        return _parse_yaml(path, text)
    try:
        return json.loads(text, object_pairs_hook=require_unique)
    except json.JSONDecodeError as error:
        place = f"{path}:{error.lineno}:{error.colno}"
        raise ConfigError(f"{place}: Invalid JSON: {error.msg}.") from error
    # A repeated key, a number of 4301 digits, or thousands of nested lists.
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}") from error


def locate(text: str, keys: Sequence[int | str]) -> str:
    """Returns ":line:column" of the innermost of nested `keys` in a YAML or JSON text.

    A key that the text lacks, and the keys inside it, are ignored. Returns "" if the text
    lacks all keys, or is not valid YAML.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError
    from ruamel.yaml.nodes import MappingNode, SequenceNode

    try:
        node = YAML(typ="safe", pure=True).compose(text)
    except (YAMLError, RecursionError):  # some escapes of JSON are invalid in YAML
        return ""
    place = ""
    for key in keys:
        if isinstance(node, MappingNode):
            pairs = [pair for pair in node.value if pair[0].value == key]
        elif isinstance(node, SequenceNode) and isinstance(key, int):
            pairs = [(value, value) for value in node.value[key : key + 1]]
        else:
            break
        if not pairs:
            break
        name, node = pairs[0]
        place = _place(name.start_mark)
    return place


def _parse_yaml(path: Path, text: str) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        values = YAML(typ="safe", pure=True).load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = "" if mark is None else _place(mark)
        problem = error.problem or error.context
        raise ConfigError(f"{path}{place}: Invalid YAML: {problem}.") from error
    # Such as a control character, the date 2026-02-30, `!!bool x`, or nested lists.
    except (YAMLError, ValueError, KeyError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: Invalid YAML: {reason}.") from error
    try:
        return json.loads(json.dumps(values, default=str))  # a date becomes a string
    # Such as a list as a key, or an alias of its parent.
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: Invalid YAML: {error}.") from error


def _place(mark: Any) -> str:
    return f":{mark.line + 1}:{mark.column + 1}"


def require_unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Returns the pairs as a dictionary, as an `object_pairs_hook` of `json.loads`.

    Raises:
        ConfigError: A key occurs more than once.
    """
    names = [name for name, _ in pairs]
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise ConfigError(
            f"The key {repeated[0]!r} occurs more than once in a JSON object. Remove "
            "all but one."
        )
    return dict(pairs)
