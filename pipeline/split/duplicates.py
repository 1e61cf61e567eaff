"""Exact duplicates among sorted rows; those of `ingest`, by identity, are in `pipeline.ingest.duplicates`."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray


@numba.njit(cache=True, nogil=True)
def mark_duplicates(
    order: NDArray[np.int64],
    group: NDArray[np.uint32],
    time: NDArray[np.int64],
    content: tuple[NDArray[np.int64], ...],
    keys: int,
) -> NDArray[np.bool_]:
    """bool (n,): whether the row at each place of `order` is equal to the one before it.

    Equal means the same group, time, and first `keys` columns of `content`.
    """
    duplicate = np.zeros(len(order), np.bool_)
    for i in range(1, len(order)):
        a, b = order[i - 1], order[i]
        if group[a] == group[b] and time[a] == time[b]:
            same = True
            for k in range(keys):
                if content[k][a] != content[k][b]:
                    same = False
                    break
            duplicate[i] = same
    return duplicate
