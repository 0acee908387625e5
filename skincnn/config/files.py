"""Configuration files: YAML or JSON, with the position of each error."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from skincnn.errors import ConfigError

YAML_SUFFIXES = (".yaml", ".yml")


def parse(path: Path, text: str) -> Any:
    """Returns the content of a YAML 1.2 file, or of a JSON file if it has another suffix.

    In YAML 1.2, unlike in YAML 1.1, `on` is a string and `3e-4` is a number.

    Raises:
        ConfigError: The syntax is invalid, or a key occurs twice. The message begins with
            the path and, if they are known, :line:column.
    """
    if path.suffix in YAML_SUFFIXES:
        return _parse_yaml(path, text)
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        place = f"{path}:{error.lineno}:{error.colno}"
        raise ConfigError(f"{place}: Invalid JSON: {error.msg}.") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def locate(text: str, keys: Sequence[int | str]) -> str:
    """Returns ":line:column" of the innermost of nested `keys` in a YAML or JSON text.

    Inner keys that the text lacks are ignored. The result is "" if it lacks all keys.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError
    from ruamel.yaml.nodes import MappingNode, SequenceNode

    try:
        node = YAML(typ="safe", pure=True).compose(text)
    except YAMLError:  # some escapes of JSON are invalid in YAML
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
    except YAMLError as error:  # such as a control character
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: Invalid YAML: {reason}.") from error
    try:
        return json.loads(json.dumps(values, default=str))  # a date becomes a string
    except (TypeError, ValueError) as error:  # a list as a key, or an alias of its parent
        raise ConfigError(f"{path}: Invalid YAML: {error}.") from error


def _place(mark: Any) -> str:
    return f":{mark.line + 1}:{mark.column + 1}"


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ConfigError(f"Invalid JSON: the key {twice[0]!r} occurs twice.")
    return dict(pairs)
