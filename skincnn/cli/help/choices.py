"""The valid names of settings, each with a phrase, read without importing TensorFlow.

The names are the keys of tables such as `STRATEGIES`. Importing the modules of the tables
takes seconds, so their source is parsed instead. The phrase of a name is its `description`,
the first line of the docstring of its function, or the last comment above the entry.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import skincnn

TABLES = {
    "augment.parts": "skincnn.model.augment:AUGMENTATIONS",
    "model.backbone": "skincnn.model.backbones:BACKBONES",
    "imbalance.strategy": "skincnn.training.imbalance:STRATEGIES",
    "optimizer.name": "skincnn.training.optimizers:OPTIMIZERS",
    "optimizer.schedule": "skincnn.training.schedules:SCHEDULES",
    "train.scenario": "skincnn.training.stages:SCENARIOS",
    "train.monitor": "skincnn.metrics.classification:METRICS",
    "objective": "skincnn.metrics.classification:METRICS",
    "sort": "skincnn.metrics.classification:METRICS",
}
"""The table of each setting, as `module:variable`."""


def choices(setting: str) -> dict[str, str]:
    """Returns a phrase for each valid name of a setting; {} if there is no list of them.

    Custom parts, and the names of the user's own datasets, are left out. The names in
    tables are left out without source files, in an installation with only .pyc files or in
    a ZIP archive.
    """
    if setting == "data.datasets":
        from tfds_ham10000.configs import CONFIGS

        return {config.name: config.description for config in CONFIGS}
    if setting not in TABLES:
        return {}
    module, _, variable = TABLES[setting].partition(":")
    try:
        return dict(_read_table(module, variable))
    except OSError:
        return {}


def _read_table(module: str, variable: str) -> Iterator[tuple[str, str]]:
    """Yields the names and phrases in a dictionary that a module defines or imports."""
    comment = ""
    table = _find(module, variable)
    if isinstance(table, str):
        yield from _read_table(table, variable)
        return
    assert isinstance(table, ast.Assign | ast.AnnAssign)
    assert isinstance(table.value, ast.Dict)
    for key, value in zip(table.value.keys, table.value.values, strict=True):
        if key is None:  # **OTHER_TABLE
            assert isinstance(value, ast.Name)
            yield from _read_table(module, value.id)
            continue
        above = _read(module)[0][key.lineno - 2].strip()
        comment = above.removeprefix("# ") if above.startswith("#") else comment
        yield ast.literal_eval(key), _phrase(module, value) or comment


def _phrase(module: str, value: ast.expr) -> str:
    """Returns the phrase of an entry of a table, or "" if the entry has none.

    `value` is the expression of the entry: a function, or a call such as
    `Metric(function, description="...")`. The phrase of a call is its description, or that
    of its first argument.
    """
    if isinstance(value, ast.Name):
        function = _find(module, value.id)
        if isinstance(function, str):
            return _phrase(function, value)
        assert isinstance(function, ast.FunctionDef)
        line = (ast.get_docstring(function) or "").partition("\n")[0]
        line = re.sub("^Returns (matrices that )?", "", line)
        return line[:1].upper() + line[1:]
    if isinstance(value, ast.Call):
        for keyword in value.keywords:
            if keyword.arg == "description":
                return str(ast.literal_eval(keyword.value))
        return _phrase(module, value.args[0])
    return ""


def _find(module: str, name: str) -> ast.stmt | str:
    """Returns the definition of a name, or the module from which it is imported."""
    for node in _read(module)[1].body:
        if isinstance(node, ast.ImportFrom):
            if any(alias.name == name for alias in node.names):
                return str(node.module)
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node]
        for target in targets:
            defined = getattr(target, "target", target)  # of an assignment with a type
            if name in (getattr(defined, "name", ""), getattr(defined, "id", "")):
                return node
    raise KeyError(f"{module} has no {name}.")


@functools.cache
def _read(module: str) -> tuple[list[str], ast.Module]:
    """Returns the lines and the syntax tree of a module, which is not imported."""
    path = Path(skincnn.__file__).parents[1].joinpath(*module.split("."))
    text = path.with_suffix(".py").read_text(encoding="utf-8")
    return text.splitlines(), ast.parse(text)
