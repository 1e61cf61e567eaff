"""Tables of a model without the rows that training never touched, which are still 0.

A hashed table has room to spare, so that few prefixes share a row; an export does not need that room.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]

TABLES = ("lookups.prefix", "lookups.carried", "lookups.factors")
ROWS = ".rows"
"""Ends the name of the array that holds the row numbers of a trimmed table, (n,) int32 ascending."""


def trim_tables(arrays: Arrays) -> Arrays:
    """The arrays, each table as its rows that are not 0, (n, C), and an array of their numbers, (n,)."""
    trimmed = dict(arrays)
    for name in TABLES:
        if name in arrays:
            used = np.flatnonzero((arrays[name] != 0).any(axis=1)).astype(np.int32)
            trimmed[name], trimmed[name + ROWS] = arrays[name][used], used
    return trimmed


def restore_tables(arrays: Arrays, rows: int) -> Arrays:
    """The arrays with whole tables of `rows` rows again; untrimmed ones stay as they are.

    Raises `ValueError` naming a table whose row numbers are not ascending, below `rows`, and one for each
    row that it has.
    """
    restored = {name: array for name, array in arrays.items() if not name.endswith(ROWS)}
    for name in TABLES:
        used = arrays.get(name + ROWS)
        if used is None:
            continue
        values = arrays.get(name)
        ascending = used.ndim == 1 and used.dtype == np.int32 and bool((np.diff(used) > 0).all())
        inside = ascending and (not len(used) or (used[0] >= 0 and int(used[-1]) < rows))
        if values is None or values.ndim != 2 or len(values) != len(used) or not inside:
            raise ValueError(f"{name + ROWS} does not number the rows of {name} below {rows}")
        restored[name] = np.zeros((rows, values.shape[1]), values.dtype)
        restored[name][used] = values
    return restored
