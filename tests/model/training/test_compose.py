"""Composed windows, against the windows that their rows were taken from."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import numpy as np
import pytest

from model.training.batches import Batches
from model.training.compose import POOL, Composer, Pool, choose_rows, compose, read_pools
from stores.codec import Measurement, decode_window, encode_window
from stores.hashing import keyed
from stores.reader import TokenStore
from stores.sampler import MixtureSampler
from tests.helpers import random_measurements

CONTEXT = 256
Row = tuple[object, object, float | None]


def identity(measurement: Measurement) -> Row:
    return measurement.src, measurement.dst, measurement.rtt_ms


def asks(tokens: list[int]) -> bool:
    """Whether the result of a measurement's tokens comes last of its three fields, written plainly."""
    order = [token for token in tokens if token in (1, 2, 3, 4, 8, 10)]
    return order[-1] in (8, 10)


@pytest.fixture(scope="module")
def sampler(store: Path) -> MixtureSampler:
    return MixtureSampler(TokenStore.open(store), "train", 8, 0)


@pytest.fixture(scope="module")
def composed(sampler: MixtureSampler) -> list[tuple[list[Measurement], list[Measurement]]]:
    """For some windows, the measurements of the composed one and of its pool."""
    pairs = []
    for step in range(6):
        tokens, lengths = sampler.following(step, np.arange(8), POOL)
        pool = read_pools(tokens, lengths)
        chosen, timed = choose_rows(pool, keyed(0, step, np.arange(8)), CONTEXT)
        out, out_lengths = compose(pool, chosen, timed, CONTEXT)
        assert out.shape == (8, CONTEXT)
        assert out.dtype == out_lengths.dtype == np.uint16
        for row in range(8):
            around = [
                measurement
                for window, length in zip(tokens[row], lengths[row], strict=True)
                if length
                for measurement in decode_window(window, int(length))
            ]
            assert not out[row, out_lengths[row] :].any()
            pairs.append((decode_window(out[row], int(out_lengths[row])), around))
    return pairs


def test_a_composed_window_holds_rows_of_one_source_in_the_order_of_its_pool(
    composed: list[tuple[list[Measurement], list[Measurement]]],
) -> None:
    for rows, pool in composed:
        assert len({row.src for row in rows}) == 1
        places = iter(pool)
        for row in rows:  # `in` walks on in the iterator: a subsequence
            assert any(identity(row) == identity(other) for other in places)


def test_times_are_exact_where_they_are_kept(
    composed: list[tuple[list[Measurement], list[Measurement]]],
) -> None:
    timed = 0
    for rows, pool in composed:
        known = {(*identity(row), row.time) for row in pool}
        for row in rows:
            if row.time is not None:
                assert (*identity(row), row.time) in known
                timed += 1
    assert timed > 20


def busy_source(pools: int) -> Pool:
    """Pools of one source's rows to 120 destinations, in windows of some 60 rows."""
    random = np.random.default_rng(0)
    tokens, lengths = np.zeros((pools, POOL, 1024), np.uint16), np.zeros((pools, POOL), np.uint16)
    source, *destinations = [ip_address(int(a)) for a in random.integers(2**24, 2**31, 121)]
    for pool in range(pools):
        for window in range(POOL):
            rows = [
                Measurement(source, destinations[at], float(at + 1), 1_700_000_000 + place)
                for place, at in enumerate(random.integers(0, 120, 60).tolist())
            ]
            line = encode_window([(row, False) for row in rows])
            tokens[pool, window, : len(line)] = line
            lengths[pool, window] = len(line)
    return read_pools(tokens, lengths)


def test_windows_have_more_rows_that_ask_and_pairs_that_return() -> None:
    pool = busy_source(40)
    chosen, timed = choose_rows(pool, keyed(0, np.arange(40)), CONTEXT)
    assert 0.3 < pool.asks.mean() < 0.37
    assert pool.asks[chosen].mean() > 0.6
    _, lengths = compose(pool, chosen, timed, CONTEXT)
    assert lengths.min() > 0.9 * CONTEXT
    returning, plain = 0, 0
    for row in range(40):
        pairs = pool.pair[chosen & (pool.pool == row)]
        returning += len(pairs) - len(np.unique(pairs))
        beginning = pool.pair[pool.pool == row][: len(pairs)]
        plain += len(beginning) - len(np.unique(beginning))
    assert returning > 1.8 * plain > 0


def test_hand_made_pools_are_read_as_the_tokenizer_wrote_them() -> None:
    windows = [random_measurements(9, seed) for seed in range(4)]
    lines = [encode_window([(m, at % 3 > 0) for at, m in enumerate(items)]) for items in windows]
    tokens = np.zeros((2, 2, 1024), np.uint16)
    lengths = np.array(
        [[len(line) for line in lines[:2]], [len(line) for line in lines[2:]]], np.uint16
    )
    for at, line in enumerate(lines):
        tokens[at // 2, at % 2, : len(line)] = line
    pool = read_pools(tokens, lengths)
    flat = [(at, m) for at, items in enumerate(windows) for m in items]
    assert len(pool.start) == len(flat) == 36
    assert pool.pool.tolist() == [at // 2 for at, _ in flat]
    assert pool.window.tolist() == [at % 2 for at, _ in flat]
    for at, (_, measurement) in enumerate(flat):
        line = pool.tokens[pool.start[at] : pool.end[at]].tolist()
        assert pool.asks[at] == asks(line)
        assert (pool.time_at[at] >= 0) == (at % 9 % 3 > 0)
        if pool.time_at[at] >= 0:
            assert pool.seconds[at] == measurement.time
    sources = {m.src: set() for _, m in flat}
    for at, (_, m) in enumerate(flat):
        sources[m.src].add(int(pool.source[at]))
    assert all(len(hashes) == 1 for hashes in sources.values())
    assert len(set.union(*sources.values())) == len(sources)


def test_rows_out_of_order_in_time_are_left_out_so_that_no_window_overflows() -> None:
    src, dst = random_measurements(1, 0)[0].src, random_measurements(1, 0)[0].dst
    times = [1_700_000_000 + (-1) ** at * 10_000 * at for at in range(20)]
    line = encode_window([(Measurement(src, dst, 5.0, time), True) for time in times])
    tokens = np.zeros((1, 1, 1024), np.uint16)
    tokens[0, 0, : len(line)] = line
    pool = read_pools(tokens, np.array([[len(line)]], np.uint16))
    for seed in range(20):
        chosen, timed = choose_rows(pool, keyed(seed, np.arange(1)), 128)
        out, length = compose(pool, chosen, timed, 128)
        rows = decode_window(out[0], int(length[0]))
        kept = [row.time for row in rows if row.time is not None]
        assert kept == sorted(kept)


def test_a_share_of_each_batch_is_composed_as_a_function_of_seed_and_step(
    sampler: MixtureSampler,
) -> None:
    plain = Batches(sampler, CONTEXT, 0)
    composing = Batches(sampler, CONTEXT, 0, Composer(sampler, CONTEXT, 0, 0.5))
    other_seed = Batches(sampler, CONTEXT, 0, Composer(sampler, CONTEXT, 1, 0.5))
    changed = 0
    for step in range(20):
        tokens, lengths = composing.batch(step)
        again, _ = composing.batch(step)
        np.testing.assert_array_equal(tokens, again)
        for row in range(8):
            decode_window(tokens[row], int(lengths[row]))
        changed += np.any(tokens != plain.batch(step)[0], axis=1).sum()
        assert (lengths > 0.5 * CONTEXT).sum() >= (plain.batch(step)[1] > 0.5 * CONTEXT).sum()
    assert 20 < changed < 110
    assert not np.array_equal(composing.batch(0)[0], other_seed.batch(0)[0])


def test_hosts_compose_their_part_of_the_same_batch(sampler: MixtureSampler) -> None:
    whole = Batches(sampler, CONTEXT, 0, Composer(sampler, CONTEXT, 0, 0.5)).batch(3)[0]
    parts = []
    for host in range(4):
        shard = sampler.shard(host, 4)
        parts.append(Composer(shard, CONTEXT, 0, 0.5))
    rows = []
    for part in parts:
        tokens, lengths = whole[:2].copy(), np.zeros(2, np.uint16)
        tokens[:] = 0
        part.replace(3, tokens, lengths)
        rows.append((tokens, lengths))
    for host, (tokens, lengths) in enumerate(rows):
        for row in np.flatnonzero(lengths):
            np.testing.assert_array_equal(tokens[row], whole[host * 2 + row])
    assert sum(int((lengths > 0).sum()) for _, lengths in rows) > 0
