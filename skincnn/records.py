"""Records: typed, immutable objects, stored as JSON files with a schema version."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from skincnn.errors import ConfigError
from skincnn.files import write_json


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
    """Writes a record to `path` atomically."""
    write_json(path, to_json(record))


def read_record(path: Path, cls: type[R], fix: str) -> R:
    """Returns the record in a file that `write_record` wrote.

    `fix` is a sentence for the error message that states how to recreate the file.

    Raises:
        ConfigError: The file cannot be read, is invalid, or has a different schema version.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}. {fix}") from error
    return parse_record(values, cls, str(path), fix)


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
    """Returns one line on the first error: the field, the cause and the received value."""
    first = error.errors(include_url=False)[0]
    field = ".".join(map(str, first["loc"])) or "content"
    cause = " ".join(first["msg"].split()).rstrip(".")
    if first["type"] == "missing":
        return f"`{field}`: {cause}."
    received = repr(first["input"])
    received = received if len(received) <= 80 else f"{received[:80]}..."
    return f"`{field}`: {cause}. Received: {received}."
