"""Scattered windows, against the rows of the store that they were taken from."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model.training import scatter
from model.training.batches import Batches
from model.training.scatter import MODE, PairRows, Scatterer
from stores.codec import Measurement
from stores.hashing import keyed
from stores.maps import ROW_BYTES, WindowMaps
from stores.permutation import permute
from stores.sampler import MixtureSampler
from tests.helpers import random_measurements
from tests.model.training.pairs import CONTEXT, Pair, decoded, store_of


def scatterer_of(sampler: MixtureSampler, context: int, seed: int, share: float) -> Scatterer:
    """On all rows of the sampler's split."""
    return Scatterer(sampler, PairRows.find(sampler.store, sampler.split), context, seed, share)


def test_rows_are_those_that_ask_and_end_within_the_context(
    sampler: MixtureSampler, asking: dict[Pair, set[Measurement]]
) -> None:
    windows, lengths = scatterer_of(sampler, CONTEXT, 0, 0.5).windows(np.arange(40))
    assert windows.shape == (40, CONTEXT)
    for row, rows in enumerate(decoded(windows, lengths)):
        assert not windows[row, lengths[row] :].any()
        for m in rows:
            assert m in asking[m.src, m.dst] or m in {
                replace(known, time=None) for known in asking[m.src, m.dst]
            }
    assert lengths.mean() > 0.8 * CONTEXT


def test_a_share_of_the_windows_tells_all_times_and_in_their_order(
    sampler: MixtureSampler,
) -> None:
    windows = decoded(*scatterer_of(sampler, CONTEXT, 0, 0.5).windows(np.arange(300)))
    timed = [[m.time for m in rows if m.time is not None] for rows in windows]
    assert all(len(times) in (0, len(rows)) for times, rows in zip(timed, windows, strict=True))
    assert all(times == sorted(times) for times in timed)
    assert 0.25 < sum(map(bool, timed)) / len(windows) < 0.45


def test_times_that_no_delta_holds_are_left_out(tmp_path: Path) -> None:
    rows = [replace(row, time=n * 2**33) for n, row in enumerate(random_measurements(40))]
    scatterer = scatterer_of(store_of(rows, tmp_path / "store.zarr"), CONTEXT, 0, 0.5)
    for window in decoded(*scatterer.windows(np.arange(20))):
        assert len(window) == 1 or all(row.time is None for row in window)


def test_all_pairs_come_up_about_equally_often_however_many_rows_they_have(
    sampler: MixtureSampler, asking: dict[Pair, set[Measurement]]
) -> None:
    scatterer = scatterer_of(sampler, CONTEXT, 0, 0.5)
    assert scatterer.rows.pairs == len(asking)
    epochs = 10
    count = epochs * len(asking) // scatterer.drawn
    rows = [row for window in decoded(*scatterer.windows(np.arange(count))) for row in window]
    times = Counter((row.src, row.dst) for row in rows)
    drawn = np.array([times[pair] for pair in asking])
    assert drawn.max() <= epochs + 1  # once an epoch, but for the last draws of a window
    assert drawn.mean() > 0.7 * epochs
    assert drawn.min() > 0
    several = [pair for pair, kept in asking.items() if len(kept) > 9]
    assert several
    assert all(len({row for row in rows if (row.src, row.dst) == pair}) > 1 for pair in several)


def test_an_exact_share_of_the_windows_is_scattered_as_a_function_of_seed_and_step(
    sampler: MixtureSampler,
) -> None:
    plain = Batches(sampler, CONTEXT, 0)
    scattering = Batches(sampler, CONTEXT, 0, scatterer_of(sampler, CONTEXT, 0, 0.3))
    other_seed = Batches(sampler, CONTEXT, 0, scatterer_of(sampler, CONTEXT, 1, 0.3))
    changed = 0
    for step in range(20):
        tokens, _ = scattering.batch(step)
        np.testing.assert_array_equal(tokens, scattering.batch(step)[0])
        changed += int(np.any(tokens != plain.batch(step)[0], axis=1).sum())
    assert changed == int(20 * 8 * 0.3)
    assert not np.array_equal(scattering.batch(1)[0], other_seed.batch(1)[0])


def test_hosts_scatter_their_part_of_the_same_batch(sampler: MixtureSampler) -> None:
    whole = Batches(sampler, CONTEXT, 0, scatterer_of(sampler, CONTEXT, 0, 0.6)).batch(3)
    parts = [
        Batches(shard, CONTEXT, 0, scatterer_of(shard, CONTEXT, 0, 0.6)).batch(3)
        for shard in (sampler.shard(host, 4) for host in range(4))
    ]
    # How the other windows are cut to the context is not this module's concern.
    changed = np.any(whole[0] != Batches(sampler, CONTEXT, 0).batch(3)[0], axis=1)
    assert changed.sum() == 5
    np.testing.assert_array_equal(np.concatenate([p[0] for p in parts])[changed], whole[0][changed])
    np.testing.assert_array_equal(np.concatenate([p[1] for p in parts])[changed], whole[1][changed])


def test_only_some_windows_of_a_large_split_are_searched(
    sampler: MixtureSampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = PairRows.find(sampler.store, "train")
    monkeypatch.setattr(scatter, "MOST_WINDOWS", 20)
    some = PairRows.find(sampler.store, "train")
    assert len(np.unique(some.places.start // 1024)) <= 20
    assert set(some.places.start.tolist()) < set(everything.places.start.tolist())


def test_windows_that_lie_far_apart_are_read_ahead(
    sampler: MixtureSampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(WindowMaps, "read_ahead", lambda _, chunks, offsets: asked.extend(offsets))
    PairRows.find(sampler.store, "train")
    assert not asked
    monkeypatch.setattr(scatter, "MOST_WINDOWS", 20)
    monkeypatch.setattr(scatter, "FAR_APART", 1)
    PairRows.find(sampler.store, "train")
    windows = permute(np.arange(20), sampler.store.windows("train", MODE), keyed(scatter.WINDOW))
    assert sorted(asked) == (np.sort(windows) * ROW_BYTES).tolist()


def test_a_window_stays_as_it_is_where_no_row_asks_or_fits(
    sampler: MixtureSampler, tmp_path: Path
) -> None:
    asks = [
        row
        for row in random_measurements(40)
        if len(PairRows.find(store_of([row], tmp_path / f"{row.dst}").store, "train").size) == 0
    ]
    none = scatterer_of(store_of(asks, tmp_path / "none"), CONTEXT, 0, 1.0)
    assert none.rows.pairs == 0
    for scatterer in (none, scatterer_of(sampler, 8, 0, 1.0)):
        tokens, lengths = np.full((8, scatterer.context), 7, np.uint16), np.full(8, 5, np.uint16)
        scatterer.replace(0, tokens, lengths)
        assert (tokens == 7).all()
        assert (lengths == 5).all()
