"""Several small stores, and one that holds the same windows: what the first are as one can be compared with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stores.codec import Measurement
from stores.layout import MODES, SPLITS
from tests.helpers import random_measurements, windows_of_mode, write_store

DAY = 86_400  # seconds


class Several(NamedTuple):
    """Paths of stores."""

    parts: list[Path]
    whole: Path
    """With the windows of all `parts`, one after the other."""


def build_several(
    folder: Path, rows: dict[str, tuple[int, int]], per_chunk: dict[str, int] | None = None
) -> Several:
    """Stores by name, of that many (train, test) rows; `per_chunk` forces small chunk files.

    All have the same sources and pairs, each a day after the one before it: what is known of them is in all.
    """
    parts, arrays = [], []
    for day, (name, counts) in enumerate(rows.items()):
        by_split = dict(zip(SPLITS, counts, strict=True))
        arrays.append(
            {
                (split, mode): windows_of_mode(_later(count, DAY * day + DAY // 2 * at), mode)
                for at, (split, count) in enumerate(by_split.items())
                for mode in MODES
            }
        )
        chunk = per_chunk[name] if per_chunk else None
        parts.append(write_store(folder / name, arrays[-1], by_split, chunk))
    joined = {
        key: tuple(np.concatenate([part[key][column] for part in arrays]) for column in range(2))
        for key in arrays[0]
    }
    totals = {split: sum(counts[at] for counts in rows.values()) for at, split in enumerate(SPLITS)}
    return Several(parts, write_store(folder / "whole", joined, totals))  # type: ignore[arg-type]


def _later(count: int, seconds: int) -> list[Measurement]:
    """That many random measurements, always the same except for their time."""
    rows = random_measurements(count)
    return [replace(row, time=row.time + seconds) for row in rows if row.time is not None]
