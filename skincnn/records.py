"""Records: typed, immutable objects, stored as JSON files with a schema version."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from skincnn.errors import ConfigError, DataError
from skincnn.files import require_content, write_json


class Part(BaseModel):
    """An immutable part of a record, or a whole record. Unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __str__(self) -> str:
        return repr(self)


class Record(Part):
    """The content of one JSON file."""

    SCHEMA: ClassVar[int] = 1
    """Version of the fields.

    Increase it when a required field is added, or when a field is removed or changes its
    meaning.
    """


R = TypeVar("R", bound=Record)


def to_json(record: Record) -> dict[str, Any]:
    """Returns the schema version and the fields of a record as JSON values."""
    return {"schema_version": record.SCHEMA, **record.model_dump(mode="json")}


def write_record(path: Path, record: Record) -> None:
    """Writes a record to `path` atomically.

    Raises:
        OSError: See `skincnn.files.replacing`.
    """
    write_json(path, to_json(record))


def read_record(path: Path, cls: type[R], fix: str) -> R:
    """Returns the record in a file that `write_record` wrote.

    `fix` is a sentence for the error message that states how to recreate the file.

    Raises:
        ConfigError: The file cannot be read, is invalid, or has a different schema version.
        DataError: The file is a Git LFS pointer.
    """
    try:
        require_content(path)
        values = json.loads(path.read_bytes())  # an editor can have changed the encoding
    except DataError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read: {error}. {fix}") from error
    return parse_record(values, cls, str(path), fix)


def keep_named(records: Mapping[Path, R], name: Callable[[R], str]) -> dict[str, R]:
    """Returns records by name, without those in files that have another name.

    Such a file is a copy, such as "test_old.json" of "test.json", which can be outdated. It
    is left out with a note.

    Args:
        records: Records by the path of their file.
        name: Returns the name under which a record is written, without ".json".
    """
    for path, record in records.items():
        if path.stem != name(record):
            _note_copy(path, name(record))
    return {path.stem: r for path, r in records.items() if path.stem == name(r)}


@functools.cache  # one note per file, although a command reads the results several times
def _note_copy(path: Path, name: str) -> None:
    print(
        f"note: {path} is not used, because its content is that of a file with the name "
        f"{name}.json. Move it to another directory, or delete it.",
        file=sys.stderr,
    )


def parse_record(values: object, cls: type[R], where: str, fix: str) -> R:
    """Returns the record from values that `to_json` returned.

    `where` is the source of the values, for the error message; see `read_record` for `fix`.

    Raises:
        ConfigError: The values are invalid, or have a different schema version.
    """
    if not isinstance(values, dict):
        raise ConfigError(
            f"{where} must contain a JSON object. Received: {type(values).__name__}. {fix}"
        )
    fields = dict(values)
    version = fields.pop("schema_version", None)
    if version != cls.SCHEMA:
        raise ConfigError(
            f"{where} has the format of a different version of skincnn. Expected "
            f"schema_version {cls.SCHEMA}. Received: {version!r}. {fix}"
        )
    try:
        # Validate JSON, because strict sections of a Config reject Python dictionaries.
        return cls.model_validate_json(json.dumps(fields))
    except ValidationError as error:
        raise ConfigError(f"{where}: {describe_error(error)} {fix}") from error


def describe_error(error: ValidationError) -> str:
    """Returns one line on the first error: the field, the cause and the received value.

    A field that is missing has no value. Long values are cut off.
    """
    first = error.errors(include_url=False)[0]
    field = ".".join(map(str, first["loc"])) or "content"
    cause = " ".join(first["msg"].split()).rstrip(".")
    if first["type"] in ("missing", "json_invalid"):
        return f"`{field}`: {cause}."
    received = repr(first["input"])
    received = received if len(received) <= 80 else f"{received[:80]}..."
    return f"`{field}`: {cause}. Received: {received}."
