"""What the record of a split says: its shards, its ledger, and how train and the other splits overlap."""

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
from pipeline.records import LedgerFile, Overlap, Record, ShardFile, TimeRanges
from pipeline.split.shards import WrittenShard
from stores.layout import VALIDATION
from stores.overlap import OverlapCounts

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
    """Shard files by split. `written` has `counts[split]` shards of each split, in the order of `counts`."""
    results = iter(written)
    return {
        split: tuple(
            ShardFile(f"splits/{split}/shard_{i:04d}.parquet", shard.size, shard.rows, shard.time)
            for i, shard in zip(range(counts[split]), results, strict=False)
        )
        for split in counts
    }


def ledger_files(
    names: Sequence[str],
    spilled: Sequence[SpilledRuns],
    counts: dict[str, int],
    written: Sequence[WrittenShard],
) -> list[LedgerFile]:
    """Rows in = train + validation + test + rejected, for every input file in the order of `names`."""
    rows: Counter[int] = Counter()
    rejected: list[Counter[str]] = [Counter() for _ in names]
    for result in spilled:
        for index, file in result.files.items():
            rows[index] += file.rows
            rejected[index].update(file.rejected)
    taken: dict[str, Counter[int]] = {split: Counter() for split in counts}
    sides = [split for split in counts for _ in range(counts[split])]
    for split, shard in zip(sides, written, strict=True):
        for index, part in shard.files.items():
            taken[split][index] += part.rows
            if part.duplicate:
                rejected[index]["duplicate"] += part.duplicate
    files = [
        LedgerFile(
            file=name,
            rows=rows[i],
            rejected=dict(rejected[i]),
            **{split: by_file[i] for split, by_file in taken.items()},
        )
        for i, name in enumerate(names)
    ]
    for entry in files:
        divided = entry.train + entry.validation + entry.test
        assert entry.rows == divided + sum(entry.rejected.values()), entry
    return files


def count_overlap(distinct: Path, shards: Shards) -> Overlap:
    """Distinct sources, destinations and pairs of each split, and how many are in train, too; and the time
    ranges.

    `distinct` is the folder of hashes that `write_shard` left. Holds at most `_DISTINCT_AT_ONCE` hashes
    per split, and reads the files again for every further so many of them.
    """
    files = {s: [distinct / f"{s}-{i:04d}.npz" for i in range(len(shards[s]))] for s in shards}
    rows = sum(shard.rows for split in shards for shard in shards[split])

    def count(kind: str) -> OverlapCounts:
        found: Counter[str] = Counter()
        hashes = rows  # no more than that
        if rows > _DISTINCT_AT_ONCE:
            hashes = sum(len(_hashes(file, kind)) for split in files for file in files[split])
        passes = max(1, math.ceil(hashes / _DISTINCT_AT_ONCE))
        for low, high in pairwise(i * 2**64 // passes for i in range(passes + 1)):
            keys = {split: _union(files[split], kind, low, high - 1) for split in shards}
            for split, some in keys.items():
                found[split] += len(some)
            found["both"] += _in_both(keys["train"], keys["test"])
            if VALIDATION in keys:
                found["validation_both"] += _in_both(keys["train"], keys[VALIDATION])
        return OverlapCounts(**{name: found[name] for name in OverlapCounts.__struct_fields__})

    return Overlap(
        sources=count("sources"),
        destinations=count("destinations"),
        pairs=count("pairs"),
        time=TimeRanges(**{split: _time_range(files) for split, files in shards.items()}),
    )


def _in_both(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> int:
    """How many of distinct hashes are in both."""
    return len(np.intersect1d(a, b, assume_unique=True))


def _union(files: list[Path], kind: str, low: int, high: int) -> NDArray[np.uint64]:
    """Distinct hashes from `low` to `high`, ascending, of files that hold them ascending."""
    inside = []
    for file in files:
        part = _hashes(file, kind)
        start = np.searchsorted(part, np.uint64(low))
        inside.append(part[start : np.searchsorted(part, np.uint64(high), "right")].copy())
    hashes = np.sort(np.concatenate([*inside, np.empty(0, np.uint64)]))
    distinct: NDArray[np.uint64] = hashes[np.append(True, hashes[1:] != hashes[:-1])[: len(hashes)]]
    return distinct


def _hashes(file: Path, kind: str) -> NDArray[np.uint64]:
    with np.load(file) as arrays:
        hashes: NDArray[np.uint64] = arrays[kind]
    return hashes


def _time_range(shards: Sequence[ShardFile]) -> tuple[str, str] | None:
    ranges = [shard.time for shard in shards if shard.time]
    if not ranges:
        return None
    return _iso(min(first for first, _ in ranges)), _iso(max(last for _, last in ranges))


def _iso(microseconds: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)).isoformat()
