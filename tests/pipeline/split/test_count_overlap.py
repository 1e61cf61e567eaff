"""What splits share, counted in bounded memory: the counts of sets, in no more passes than the hashes need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.records import ShardFile
from pipeline.split import summary

KINDS = ("sources", "destinations", "pairs")


def test_many_rows_of_few_addresses_take_few_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    known = rng.integers(0, 2**64, 12, dtype=np.uint64)
    held: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    for split, files in held.items():
        for number in range(4 if split == "train" else 1):
            arrays = {kind: np.unique(rng.choice(known, 6)) for kind in KINDS}
            np.savez(tmp_path / f"{split}-{number:04d}.npz", **arrays)
            files.append(arrays)
    shards = {
        split: tuple(ShardFile("", 1, 1000, None) for _ in files) for split, files in held.items()
    }
    reads: list[Path] = []
    read = summary._hashes
    monkeypatch.setattr(
        summary, "_hashes", lambda file, kind: (reads.append(file), read(file, kind))[1]
    )
    monkeypatch.setattr(summary, "_DISTINCT_AT_ONCE", 10)

    found = summary.count_overlap(tmp_path, shards)
    for kind in KINDS:
        train, test = (
            {int(value) for arrays in held[split] for value in arrays[kind]} for split in held
        )
        counts = getattr(found, kind)
        assert (counts.train, counts.test, counts.both) == (
            len(train),
            len(test),
            len(train & test),
        )
    assert len(reads) <= 3 * 5 * (1 + 3)  # 5,000 rows would be 500 passes over five files
