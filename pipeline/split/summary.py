"""What the record of a split says: its shards, its ledger, and how train and test overlap."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.hashed_file import Blocks
from pipeline.records import LedgerFile, Overlap, OverlapCounts, Record, ShardFile, TimeRanges
from pipeline.split.shards import WrittenShard
from stores.layout import SPLITS

Shards = dict[str, tuple[ShardFile, ...]]

_DISTINCT_AT_ONCE = 20_000_000  # hashes in memory while counting overlap


class SpilledFile(Record, frozen=True):
    """Rows of one input file that `write_runs` read, and those that it rejected, by reason."""

    rows: int
    rejected: dict[str, int]


class SpilledRuns(Record, frozen=True):
    """What `pipeline.split.runs.write_runs` returns: names of runs, counts by index of input file, and
    the blocks that it read."""

    runs: list[str]
    files: dict[int, SpilledFile]
    blocks: Blocks


def shard_files(counts: dict[str, int], written: Sequence[WrittenShard]) -> Shards:
    """Shard files by split. `written` has `counts[split]` shards of each split, train first."""
    results = iter(written)
    return {
        split: tuple(
            ShardFile(f"splits/{split}/shard_{i:04d}.parquet", shard.size, shard.rows, shard.time)
            for i, shard in zip(range(counts[split]), results, strict=False)
        )
        for split in SPLITS
    }


def ledger_files(
    names: Sequence[str],
    spilled: Sequence[SpilledRuns],
    counts: dict[str, int],
    written: Sequence[WrittenShard],
) -> list[LedgerFile]:
    """Rows in = train + test + rejected, for every input file in the order of `names`."""
    rows: Counter[int] = Counter()
    rejected: list[Counter[str]] = [Counter() for _ in names]
    for result in spilled:
        for index, file in result.files.items():
            rows[index] += file.rows
            rejected[index].update(file.rejected)
    taken: dict[str, Counter[int]] = {split: Counter() for split in SPLITS}
    sides = [split for split in SPLITS for _ in range(counts[split])]
    for split, shard in zip(sides, written, strict=True):
        for index, part in shard.files.items():
            taken[split][index] += part.rows
            if part.duplicate:
                rejected[index]["duplicate"] += part.duplicate
    files = [
        LedgerFile(name, rows[i], taken["train"][i], taken["test"][i], dict(rejected[i]))
        for i, name in enumerate(names)
    ]
    for entry in files:
        assert entry.rows == entry.train + entry.test + sum(entry.rejected.values()), entry
    return files


def count_overlap(distinct: Path, shards: Shards) -> Overlap:
    """Distinct sources, destinations and pairs of each split and of both; and the time ranges.

    `distinct` is the folder of hashes that `write_shard` left. Holds at most `_DISTINCT_AT_ONCE` hashes
    per split, and reads the files again for every further so many rows.
    """
    files = {s: [distinct / f"{s}-{i:04d}.npz" for i in range(len(shards[s]))] for s in SPLITS}
    rows = sum(shard.rows for split in SPLITS for shard in shards[split])
    passes = max(1, math.ceil(rows / _DISTINCT_AT_ONCE))
    edges = [i * 2**64 // passes for i in range(passes + 1)]

    def count(kind: str) -> OverlapCounts:
        found: Counter[str] = Counter()
        for low, high in pairwise(edges):
            train, test = (_union(files[split], kind, low, high - 1) for split in SPLITS)
            both = len(np.intersect1d(train, test, assume_unique=True))
            found.update(train=len(train), test=len(test), both=both)
        return OverlapCounts(found["train"], found["test"], found["both"])

    return Overlap(
        sources=count("sources"),
        destinations=count("destinations"),
        pairs=count("pairs"),
        time=TimeRanges(_time_range(shards["train"]), _time_range(shards["test"])),
    )


def _union(files: list[Path], kind: str, low: int, high: int) -> NDArray[np.uint64]:
    """Distinct hashes from `low` to `high`, ascending, of files that hold them ascending."""
    inside = []
    for file in files:
        with np.load(file) as arrays:
            part: NDArray[np.uint64] = arrays[kind]
        start = np.searchsorted(part, np.uint64(low))
        inside.append(part[start : np.searchsorted(part, np.uint64(high), "right")].copy())
    hashes = np.sort(np.concatenate([*inside, np.empty(0, np.uint64)]))
    distinct: NDArray[np.uint64] = hashes[np.append(True, hashes[1:] != hashes[:-1])[: len(hashes)]]
    return distinct


def _time_range(shards: Sequence[ShardFile]) -> tuple[str, str] | None:
    ranges = [shard.time for shard in shards if shard.time]
    if not ranges:
        return None
    return _iso(min(first for first, _ in ranges)), _iso(max(last for _, last in ranges))


def _iso(microseconds: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)).isoformat()
