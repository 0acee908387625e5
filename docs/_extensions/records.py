"""The directive `records`: the fields of JSON files, from the classes that define them.

    ```{records} skincnn.evaluation.results.SplitResult
    ```

The directive shows a table for the class, and one for each class of its fields, unless the
page already has it.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import types
import typing
from typing import Any

from docutils import nodes
from pydantic import BaseModel
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

from skincnn.records import Record

NAMES = {str: "text", int: "integer", float: "number", bool: "true/false"}


class Records(SphinxDirective):
    """See the module."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Returns a table of the fields of each class."""
        shown = self.env.temp_data.setdefault("records", set())
        module, _, name = self.arguments[0].rpartition(".")
        waiting, tables = [getattr(importlib.import_module(module), name)], []
        while waiting:
            cls = waiting.pop(0)
            if cls not in shown:
                shown.add(cls)
                tables.append(to_markdown(cls))
                waiting += classes_in(list(hints(cls).values()))
        return self.parse_text_to_nodes("\n\n".join(tables))


def hints(cls: type) -> dict[str, Any]:
    """Returns the type of each field of a record, part or dataclass, by name."""
    names = (
        cls.model_fields
        if issubclass(cls, BaseModel)
        else [field.name for field in dataclasses.fields(cls)]
    )
    types_by_name = typing.get_type_hints(cls)
    return {name: types_by_name[name] for name in names}


def classes_in(annotations: list[Any]) -> list[type]:
    """Returns the classes with fields in annotations, such as `X` for `tuple[X, ...]`."""
    found = []
    for annotation in annotations:
        if has_fields(annotation):
            found.append(annotation)
        else:
            found += classes_in(list(typing.get_args(annotation)))
    return found


def has_fields(annotation: Any) -> bool:
    """Returns whether an annotation is a class of this project that has fields.

    The sections of the configuration do not count.
    """
    return (
        isinstance(annotation, type)
        and annotation.__module__.startswith("skincnn.")
        and not annotation.__module__.startswith("skincnn.config")
        and (issubclass(annotation, BaseModel) or dataclasses.is_dataclass(annotation))
    )


def describe(annotation: Any) -> str:
    """Returns the JSON type for an annotation, with a link to the table of a class."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if has_fields(annotation):
        return f"[{annotation.__name__}](#{anchor(annotation)})"
    if origin in (typing.Union, types.UnionType):
        names = ["null" if t is type(None) else describe(t) for t in inner]
        return " or ".join(names)
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin is tuple:
        return f"list of {describe(inner[0])}"
    if origin is dict:
        return f"name: {describe(inner[1])}"
    return NAMES.get(annotation, "the configuration of the run")


def to_markdown(cls: type) -> str:
    """Returns the description of a class, and one row for each of its fields."""
    text, _, attributes = (inspect.getdoc(cls) or "").partition("\nAttributes:\n")
    documented = {
        name: " ".join(words.split())
        for name, words in re.findall(
            r"^ {4}(\w+): (.*?)(?=^ {4}\w|\Z)", attributes, re.M | re.S
        )
    }
    comments = ModuleAnalyzer.for_module(cls.__module__).find_attr_docs()
    rows = []
    if issubclass(cls, Record):
        rows.append(["`schema_version`", "integer", f"{cls.SCHEMA}, for these fields"])
    for name, annotation in hints(cls).items():
        comment = " ".join(comments.get((cls.__name__, name), []))
        meaning = to_prose(documented.get(name, comment.strip()))
        rows.append([f"`{name}`", describe(annotation), meaning.replace("|", r"\|")])
    header = ["field", "type", "meaning"]
    if not any(meaning for _, _, meaning in rows):
        header, rows = header[:2], [row[:2] for row in rows]
    table = [header, ["---"] * len(header), *rows]
    lines = [f"({anchor(cls)})=", f"**{cls.__name__}**", "", to_prose(text.strip()), ""]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in table)])


def to_prose(docstring: str) -> str:
    """Returns a docstring as Markdown about JSON: "<" is escaped, and None becomes null."""
    parts = docstring.split("`")  # every second part is code
    parts[::2] = [part.replace("<", "\\<") for part in parts[::2]]
    return re.sub(r"\bNone\b", "null", "`".join(parts))


def anchor(cls: type) -> str:
    """Returns the name of the link to the table of a class."""
    return f"record-{cls.__name__.lower()}"


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the directive."""
    app.add_directive("records", Records)
    return {"parallel_read_safe": True}
