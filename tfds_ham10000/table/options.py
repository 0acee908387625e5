"""The options with which a table is read."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, field_validator

from tfds_ham10000.records import compose


class TableOptions(BaseModel):
    """How to read a table. By default, columns are recognized by their usual names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Path relative to the manual directory or else to the working directory; None: the
    # recognized or the only table.
    table: str | None = None
    columns: dict[str, str] = {}  # column by field; "" leaves the field out
    # Class name by label; None leaves the images out. Empty: see `map_labels`.
    label_map: dict[str, str | None] = {}
    # Which images form a group; None: see `tfds_ham10000.groups.find_group_by`.
    group_by: Literal["patient", "lesion"] | None = None

    @field_validator("columns", "label_map")
    @classmethod
    def _compose(cls, names: dict[str, str | None]) -> dict[str, str | None]:
        """Returns names in the Unicode form of the cells of a table."""
        return {compose(key): name and compose(name) for key, name in names.items()}
