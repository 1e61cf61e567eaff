"""A store with few sources and pairs, some of which have most of the rows, for tests of windows made of pairs."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np

from model.training.scatter import MODE
from stores.codec import Measurement, decode_window
from stores.layout import MODES, SPLITS
from stores.reader import TokenStore
from stores.sampler import MixtureSampler
from stores.vocabulary import BYTE0, FAILED, RTT_START, TIMESTAMP_ABS, TIMESTAMP_DELTA4
from tests.helpers import random_measurements, windows_of_mode, write_store

CONTEXT = 256
Pair = tuple[object, object]


def sampler_of_pairs(path: Path) -> MixtureSampler:
    """Of a store with 200 pairs of 20 sources, a few of which have most of the rows."""
    random = np.random.default_rng(0)
    some = random_measurements(2000)
    by_family = {v: [m for m in some if m.src.version == v] for v in (4, 6)}
    rows = []
    for source in {m.src: m for m in some}.values():
        if len({m.src for m in rows}) == 20:
            break
        for other in random.choice(len(by_family[source.src.version]), 10, replace=False):
            target = by_family[source.src.version][other].dst
            often = 30 if other % 10 == 0 else 1 + other % 3
            rows += [
                Measurement(source.src, target, float(rtt_ms), 1_600_000_000 + int(later))
                for rtt_ms, later in random.uniform(1, [300, 500_000], (often, 2))
            ]
    rows.sort(key=lambda row: row.time or 0)
    return store_of(rows, path, batch=8)


def store_of(rows: list[Measurement], path: Path, batch: int = 1) -> MixtureSampler:
    """The windows of a store of these rows."""
    counts = {split: len(rows) for split in SPLITS}
    arrays = {(split, mode): windows_of_mode(rows, mode) for split in SPLITS for mode in MODES}
    return MixtureSampler(TokenStore.open(write_store(path, arrays, counts)), "train", batch, 0)


def asking_rows(sampler: MixtureSampler) -> dict[Pair, set[Measurement]]:
    """By pair, the rows of the store whose result comes after both addresses, found with the plain decoder."""
    lengths = sampler.store.lengths("train", MODE)
    windows = sampler.store.gather("train", MODE, np.arange(len(lengths)))
    found: dict[Pair, set[Measurement]] = {}
    for window, length in zip(windows, lengths, strict=True):
        live = window[:length]
        starts = np.append(np.flatnonzero(live == live[0]), length)
        for row, (start, end) in zip(
            decode_window(window, int(length)),
            pairwise(starts),
            strict=True,
        ):
            roles = live[start:end][live[start:end] < BYTE0]
            untimed = roles[(roles < TIMESTAMP_ABS) | (roles > TIMESTAMP_DELTA4)]
            if untimed[-1] in (RTT_START, FAILED):
                found.setdefault((row.src, row.dst), set()).add(row)
    return found


def decoded(windows: np.ndarray, lengths: np.ndarray) -> list[list[Measurement]]:
    return [decode_window(w, int(n)) for w, n in zip(windows, lengths, strict=True)]
