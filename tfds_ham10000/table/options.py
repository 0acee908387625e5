"""The options with which a table is read."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class TableOptions(BaseModel):
    """How to read a table. The defaults recognize the usual names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: str | None = None  # file, relative to the manual directory; None: the only table
    columns: dict[str, str] = {}  # column by field; "" leaves the field out
    # Class name by label; None leaves the images out. Empty: labels are the class names.
    label_map: dict[str, str | None] = {}
    group_by: Literal["patient", "lesion"] | None = None  # None: patients, if known
