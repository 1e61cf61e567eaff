"""Dataclasses from the JSON that an earlier process has written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from stores.errors import CheckpointError

T = TypeVar("T")


def convert_saved(kind: type[T], values: object, where: Path) -> T:
    """A dataclass from its JSON-able form. Raises `CheckpointError`, naming the file `where`, for a
    field that is missing or has the wrong type or value; other fields are ignored."""
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise CheckpointError(f"{where}: does not hold a valid {kind.__name__}: {error}") from error


def refuse_unknown(kind: type[Any], values: object, where: Path) -> None:
    """Raise `CheckpointError` for a field that this version would have to ignore."""
    if isinstance(values, Mapping):
        unknown = values.keys() - {known.name for known in fields(kind)}
        if unknown:
            raise CheckpointError(
                f"{where}: unknown field {min(unknown)} of {kind.__name__}: it was written by another "
                "version of pinglm, use that one"
            )
