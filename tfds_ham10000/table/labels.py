"""The classes of a table: the names of the labels, and what `classes.json` declares."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from tfds_ham10000.records import (
    DeclaredClass,
    OptionError,
    SourceError,
    compose,
    join_first,
    suggest,
)
from tfds_ham10000.table.values import MISSING

CLASSES_FILE = "classes.json"
EXAMPLE = '{"mel": {"full_name": "melanoma", "malignant": true}}'
MALIGNANT_COLUMN = "malignant"
MALIGNANCY = {
    **dict.fromkeys(("1", "1.0", "true", "yes"), "malignant"),
    **dict.fromkeys(("0", "0.0", "false", "no"), "benign"),
}
"""The label by lower-case cell of a column with the name `MALIGNANT_COLUMN`."""


class _Declaration(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    full_name: str | None = None
    malignant: bool | None


def map_labels(
    cells: pd.Series, column: str, label_map: Mapping[str, str | None], path: object
) -> tuple[pd.Series, list[str]]:
    """Returns the class name of each row (NaN or None to leave it out), and notes.

    Without a map, labels are class names. Labels that differ only in case or in the number
    of spaces are one class, named by the most frequent spelling. If a column with the name
    `MALIGNANT_COLUMN` has only the labels 1 and 0 (or yes and no, true and false), they are
    "malignant" and "benign". The index of `cells` is the row in `path`.

    Raises:
        SourceError: There is no map, and a row has no label (`MISSING`).
        OptionError: `label_map` lacks a label of the table.
    """
    if label_map:
        missing = cells[~cells.isin(label_map)].value_counts()
        if len(missing):
            labels = [f"{label!r} ({count} images)" for label, count in missing.items()]
            others = join_first([repr(x) for x in label_map if x not in set(cells)])
            raise OptionError(
                f"--label-map lacks {len(missing)} label(s) of the column {column!r} of "
                f"{path}: {join_first(labels)}. Expected a class name, or null to leave "
                "the images out, for each label."
                f"{others and f' No image has the following labels of the map: {others}.'}"
            )
        return cells.map(label_map).astype(object), []
    empty = cells[cells.str.lower().isin(MISSING)]
    if len(empty):
        rows = [f"row {row}{cell and f' {cell!r}'}" for row, cell in empty.items()]
        raise SourceError(
            f"{path}, column {column!r}: {len(empty)} row(s) have no label: "
            f"{join_first(rows)}. Add the labels, delete the rows, or leave them out with "
            f"a --label-map that contains {json.dumps(dict.fromkeys(empty))} and the class "
            "of each other label."
        )
    if column.lower() == MALIGNANT_COLUMN and set(cells.str.lower()) <= MALIGNANCY.keys():
        return cells.str.lower().map(MALIGNANCY), []
    words = cells.str.split().str.join(" ")
    name_of = {word.casefold(): word for word in words.value_counts().index[::-1]}
    names = words.str.casefold().map(name_of)
    spellings = sorted(set(words) - set(names))
    if not spellings:
        return names, []
    return names, [
        "labels that differ from others only in case belong to the same class: "
        f"{join_first(spellings)}"
    ]


def read_label_map(path: Path) -> dict[str, str | None]:
    """Returns the class name of each label in a --label-map file; None for null.

    Spaces around a class name are removed, and repeated spaces become one.

    Raises:
        OptionError: The file does not exist or is invalid.
    """
    try:
        mapping = TypeAdapter(dict[str, str | None]).validate_json(_read_json(path))
    except (OSError, ValueError, RecursionError) as error:
        raise OptionError(
            f"--label-map {path} cannot be read: {_first_line(error)}. Expected a JSON "
            'object such as {"melanoma in situ": "mel", "scar": null}.'
        ) from error
    if not mapping:
        raise OptionError(f"--label-map {path} is empty. Expected a class for each label.")
    # TFDS stores one name per line, and reads names without surrounding spaces.
    classes = {
        label: name if name is None else " ".join(name.split())
        for label, name in mapping.items()
    }
    if empty := [repr(label) for label, name in classes.items() if name == ""]:
        raise OptionError(
            f"--label-map {path}: the class of {join_first(empty)} is empty. Expected the "
            "name of a class, or null to leave out the images."
        )
    return classes


def read_declared_classes(folder: Path, class_names: Sequence[str]) -> list[DeclaredClass]:
    """Returns the classes that `classes.json` in a directory declares, in label order.

    Each entry states whether the class is malignant (true, false, or null if it is not
    known), and optionally the full name. Without the file, the list is empty.

    Raises:
        SourceError: The file is invalid, or contains an unknown class.
    """
    path = folder / CLASSES_FILE
    if not path.is_file():
        return []
    try:
        declared = TypeAdapter(dict[str, _Declaration]).validate_json(_read_json(path))
    except (OSError, ValueError, RecursionError) as error:
        raise SourceError(
            f"{path} cannot be read: {_first_line(error)}. Expected a JSON object such as "
            f"{EXAMPLE}."
        ) from error
    for name in declared:
        if name not in class_names:
            raise SourceError(
                f"{path}: unknown class {name!r}. Expected only: {', '.join(class_names)}."
                f"{suggest(name, class_names)}"
            )
    return [
        DeclaredClass(
            name=name,
            full_name=declared[name].full_name or name,
            malignant=declared[name].malignant,
        )
        for name in class_names
        if name in declared
    ]


def _read_json(path: Path) -> str:
    """Returns the JSON in a file as text, in the Unicode form NFC.

    The file may be in UTF-16 or have a byte order mark, as editors on Windows write it.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is not JSON, or a key is repeated.
        RecursionError: Too many lists or objects are nested.
    """
    return json.dumps(json.loads(path.read_bytes(), object_pairs_hook=_require_unique))


def _require_unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    names = [compose(name) for name, _ in pairs]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ValueError(
            f"the key {repeated[0]!r} occurs more than once in a JSON object; remove "
            "all but one"
        )
    values = (compose(x) if isinstance(x, str) else x for _, x in pairs)
    return dict(zip(names, values, strict=True))


def _first_line(error: OSError | ValueError | RecursionError) -> str:
    if isinstance(error, OSError):
        return str(error.strerror)
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else first["msg"]
