"""Tables of a model without the rows that training never touched, which are still 0.

A hashed table has room to spare, so that few prefixes share a row; an export does not need that room.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.network.named_weights import Shapes
from stores.errors import CheckpointError

Arrays = dict[str, NDArray[Any]]

TABLES = (
    "lookups.prefix",
    "lookups.carried",
    "lookups.factors",
    "placement.of_source",
    "placement.of_destination",
    "placement.kinds.queries",
    "placement.kinds.table",
)
ROWS = ".rows"
"""Ends the name of the array that holds the row numbers of a trimmed table, (n,) int32 ascending."""
MOST_EXPANSION = 64
"""A trimmed table has at least a 64th of its rows, so that a small file cannot ask for a large table."""


def trim_tables(arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    """The arrays, each table as its rows that are not 0, (n, C), and an array of their numbers, (n,)."""
    trimmed = dict(arrays)
    for name in TABLES:
        if name in arrays:
            table = arrays[name]
            kept = (table != 0).any(axis=1)
            kept[: -(-len(table) // MOST_EXPANSION)] = True
            numbers = np.flatnonzero(kept).astype(np.int32)
            trimmed[name], trimmed[name + ROWS] = table[numbers], numbers
    return trimmed


def whole_shapes(shapes: Shapes, rows: int, where: Path) -> Shapes:
    """The shapes that arrays will have after `restore_tables`, from those that they have in a file.

    Raises `CheckpointError` naming `where` for a trimmed table without as many numbers as rows, or of far
    fewer than `rows`. Takes no time, whatever `rows` claims.
    """
    whole = {name: shape for name, shape in shapes.items() if not name.endswith(ROWS)}
    for name in TABLES:
        numbers = shapes.get(name + ROWS)
        if numbers is None:
            continue
        table = shapes.get(name, ())
        if len(table) != 2 or numbers != table[:1] or table[0] * MOST_EXPANSION < rows:
            raise CheckpointError(
                f"{where}: {name} of shape {table} with {name + ROWS} of shape {numbers} cannot be a table "
                f"of {rows} rows: the files are damaged or do not belong together"
            )
        whole[name] = (rows, table[1])
    return whole


def restore_tables(arrays: Arrays, rows: int, where: Path) -> Arrays:
    """The arrays, whose shapes passed `whole_shapes`, with whole tables of `rows` rows again.

    Raises `CheckpointError` naming `where` and a table whose row numbers do not ascend below `rows`.
    """
    restored = {name: array for name, array in arrays.items() if not name.endswith(ROWS)}
    for name in TABLES:
        numbers = arrays.get(name + ROWS)
        if numbers is None:
            continue
        if not (np.diff(numbers) > 0).all() or numbers[0] < 0 or numbers[-1] >= rows:
            raise CheckpointError(
                f"{where}: {name + ROWS} does not ascend from 0 to below {rows}: the file is damaged"
            )
        table = np.zeros((rows, arrays[name].shape[1]), arrays[name].dtype)
        table[numbers] = arrays[name]
        restored[name] = table
    return restored
