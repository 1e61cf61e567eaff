"""Windows of one source each, against the rows of the store that they were taken from."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from model.training.scatter import PairRows
from model.training.source_windows import SourceWindows
from stores.codec import Measurement
from stores.sampler import MixtureSampler
from tests.helpers import random_measurements
from tests.model.training.pairs import CONTEXT, Pair, decoded, store_of

SOURCES = 20


def windows_of(
    sampler: MixtureSampler, count: int, context: int = CONTEXT, seed: int = 0
) -> SourceWindows:
    rows = PairRows.find(sampler.store, sampler.split)
    return SourceWindows(sampler, rows, context, seed, count)


def read(tokens: np.ndarray) -> list[list[Measurement]]:
    """The measurements of windows that are followed by zeros."""
    live = tokens.shape[1] - (tokens[:, ::-1] != 0).argmax(axis=1)
    return decoded(tokens, np.where(tokens.any(axis=1), live, 0))


def test_each_window_has_different_pairs_of_one_source_and_no_times(
    sampler: MixtureSampler, asking: dict[Pair, set[Measurement]]
) -> None:
    windows = read(windows_of(sampler, 2 * SOURCES).batch(0))
    known = {(row.src, row.dst, row.rtt_ms) for rows in asking.values() for row in rows}
    for rows in windows:
        assert len({row.src for row in rows}) == 1
        assert len({row.dst for row in rows}) == len(rows) > 1
        assert all(row.time is None for row in rows)
        assert {(row.src, row.dst, row.rtt_ms) for row in rows} <= known


def test_all_sources_come_up_once_before_any_comes_again(
    sampler: MixtureSampler, asking: dict[Pair, set[Measurement]]
) -> None:
    windows = windows_of(sampler, 5)
    pairs = Counter(source for source, _ in asking)
    several = {source for source, count in pairs.items() if count > 1}
    drawn = [rows[0].src for step in range(12) for rows in read(windows.batch(step))]
    epochs = [drawn[at : at + len(several)] for at in range(0, 60, len(several))]
    assert all(set(epoch) == several for epoch in epochs if len(epoch) == len(several))
    assert epochs[0] != epochs[1]


def test_all_pairs_and_rows_of_a_source_come_up(
    sampler: MixtureSampler, asking: dict[Pair, set[Measurement]]
) -> None:
    windows = windows_of(sampler, SOURCES)
    rows = {
        (row.src, row.dst, row.rtt_ms)
        for step in range(40)
        for window in read(windows.batch(step))
        for row in window
    }
    assert {(source, target) for source, target, _ in rows} == asking.keys()
    often = {pair for pair, kept in asking.items() if len(kept) > 9}
    assert all(len({row for row in rows if row[:2] == pair}) > 9 for pair in often)


def test_the_windows_of_a_step_depend_on_seed_and_step_alone_and_hosts_share_them(
    sampler: MixtureSampler,
) -> None:
    whole = windows_of(sampler, 8)
    again = windows_of(sampler, 8)
    again.batch(7)
    np.testing.assert_array_equal(whole.batch(3), again.batch(3))
    assert not np.array_equal(whole.batch(3), whole.batch(4))
    assert not np.array_equal(whole.batch(3), windows_of(sampler, 8, seed=1).batch(3))
    parts = [windows_of(sampler.shard(host, 4), 8).batch(3) for host in range(4)]
    np.testing.assert_array_equal(np.concatenate(parts), whole.batch(3))


def test_windows_are_empty_where_no_source_has_two_pairs(tmp_path: Path) -> None:
    lonely = list({row.src: row for row in random_measurements(60)}.values())
    windows = windows_of(store_of(lonely, tmp_path / "store.zarr"), 3).batch(0)
    assert windows.shape == (3, CONTEXT)
    assert not windows.any()
