"""The order of rows: by source, then time, then content, so that it never depends on where a row came from."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray


def order_rows(
    group: NDArray[np.uint32], time: NDArray[np.int64], groups: int
) -> NDArray[np.int64]:
    """Permutation (n,) that sorts by `group` (values below `groups`), then by `time`.

    A vectorised sort by time, then a stable counting sort by group: about 40 ns per row, where a lexsort
    takes 200.
    """
    ordered: NDArray[np.int64] = group_rows(group, np.argsort(time), groups)
    return ordered


@numba.njit(cache=True, nogil=True)
def group_rows(
    group: NDArray[np.uint32], order: NDArray[np.int64], groups: int
) -> NDArray[np.int64]:
    """`order` (n,) sorted by `group[order]`, whose values are below `groups`: a stable counting sort."""
    place = np.zeros(groups + 1, np.int64)
    for value in group:
        place[value + 1] += 1
    for i in range(groups):
        place[i + 1] += place[i]
    result = np.empty(len(order), np.int64)
    for row in order:
        value = group[row]
        result[place[value]] = row
        place[value] += 1
    return result


def distinct_codes(
    codes: NDArray[np.uint32], limit: int
) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Distinct values (k,), ascending, and the index of each code (n,) among them.

    The same as `np.unique(codes, return_inverse=True)`, but ten times as fast. All codes are below `limit`.
    """
    if limit <= 2 * len(codes):  # tick them off in a table
        used = np.zeros(limit, np.bool_)
        used[codes] = True
        return np.flatnonzero(used).astype(np.uint32), (
            np.cumsum(used, dtype=np.uint32) - np.uint32(1)
        )[codes]
    order = np.argsort(codes)
    ordered = codes[order]
    new = np.append(True, ordered[1:] != ordered[:-1])[: len(codes)]
    place = np.empty(len(codes), np.uint32)
    place[order] = np.cumsum(new, dtype=np.uint32) - np.uint32(1)
    return ordered[new], place


def sort_ties(
    order: NDArray[np.int64],
    group: NDArray[np.uint32],
    time: NDArray[np.int64],
    content: tuple[NDArray[np.int64], ...],
) -> None:
    """Within equal (group, time), sort `order` (from `order_rows`) by `content`, in place.

    `content` is columns of int64 (n,), the first compared first.
    """
    long_ties = _sort_short_ties(order, group, time, content)
    for start, stop in long_ties:
        rows = order[start:stop]
        order[start:stop] = rows[np.lexsort([column[rows] for column in reversed(content)])]


@numba.njit(cache=True, nogil=True)
def _sort_short_ties(
    order: NDArray[np.int64],
    group: NDArray[np.uint32],
    time: NDArray[np.int64],
    content: tuple[NDArray[np.int64], ...],
) -> list[tuple[int, int]]:
    """Insertion sort of ties of up to 32 rows; returns the bounds of the longer ones."""
    long_ties = []
    start = 0
    for stop in range(1, len(order) + 1):
        if stop < len(order):
            a, b = order[start], order[stop]
            if group[a] == group[b] and time[a] == time[b]:
                continue
        if stop - start > 32:
            long_ties.append((start, stop))
        else:
            for i in range(start + 1, stop):
                row = order[i]
                j = i
                while j > start and _before(content, row, order[j - 1]):
                    order[j] = order[j - 1]
                    j -= 1
                order[j] = row
        start = stop
    return long_ties


@numba.njit(cache=True, nogil=True)
def _before(content: tuple[NDArray[np.int64], ...], a: int, b: int) -> bool:
    for column in content:
        if column[a] != column[b]:
            return bool(column[a] < column[b])
    return False
