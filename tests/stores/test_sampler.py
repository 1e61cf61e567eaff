"""MixtureSampler: a pure function of (seed, step), exact in its mixture, complete in its epochs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stores import MixtureSampler, TokenStore
from stores.errors import ConfigError
from stores.layout import MODES
from tests.helpers import build_store, windows_of_mode, write_store


@pytest.fixture(scope="module")
def store(store_path: Path) -> TokenStore:
    return TokenStore.open(store_path)


def sequence(sampler: MixtureSampler, steps: int, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Modes and rows of consecutive steps, end to end."""
    batches = [sampler.windows(first + step) for step in range(steps)]
    modes, rows = zip(*batches, strict=True)
    return np.concatenate(modes), np.concatenate(rows)


@given(step=st.integers(0, 10**9), seed=st.integers(-(2**63), 2**64), size=st.integers(1, 80))
def test_batch_is_the_windows_it_names(store: TokenStore, step: int, seed: int, size: int) -> None:
    sampler = MixtureSampler(store, "train", size, seed)
    tokens, lengths = sampler.batch(step)
    modes, rows = sampler.windows(step)
    assert tokens.shape == (size, 1024)
    assert lengths.shape == modes.shape == rows.shape == (size,)
    assert tokens.dtype == lengths.dtype == np.uint16
    for at in range(size):
        mode, row = MODES[modes[at]], rows[at]
        np.testing.assert_array_equal(tokens[at], store.gather("train", mode, [row])[0])
        assert lengths[at] == store.lengths("train", mode)[row]


@settings(max_examples=30)
@given(steps=st.lists(st.integers(0, 5000), min_size=1, max_size=5), seed=st.integers(0, 9))
def test_resuming_anywhere_gives_the_same_batches(
    store: TokenStore, steps: list[int], seed: int
) -> None:
    used = MixtureSampler(store, "train", 12, seed)
    for step in steps:
        fresh = MixtureSampler(store, "train", 12, seed)
        for ours, theirs in zip(used.batch(step), fresh.batch(step), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("size", [1, 7, 10, 32, 64])
def test_batch_size_only_cuts_the_one_sequence(store: TokenStore, size: int) -> None:
    whole = sequence(MixtureSampler(store, "train", 40, 3), 16)
    cut = sequence(MixtureSampler(store, "train", size, 3), 640 // size)
    for ours, theirs in zip(cut, whole, strict=True):
        np.testing.assert_array_equal(ours, theirs[: len(ours)])


@given(first=st.integers(0, 10**8), seed=st.integers(0, 2**32))
def test_mixture_is_exact_over_any_ten_windows(store: TokenStore, first: int, seed: int) -> None:
    modes, _ = sequence(MixtureSampler(store, "train", 7, seed), 8, first)
    for at in range(len(modes) - 9):
        assert np.bincount(modes[at : at + 10], minlength=3).tolist() == [4, 3, 3]


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_window_comes_once_an_epoch(store: TokenStore, split: str) -> None:
    modes, rows = sequence(MixtureSampler(store, split, 20, 5), 300)
    for index, mode in enumerate(MODES):
        windows = store.windows(split, mode)
        of_mode = rows[modes == index]
        epochs = of_mode[: len(of_mode) // windows * windows].reshape(-1, windows)
        assert len(epochs) > 10
        for epoch in epochs:
            np.testing.assert_array_equal(np.sort(epoch), np.arange(windows))
        assert len(np.unique(epochs, axis=0)) == len(epochs)  # each in another order


def test_seeds_and_modes_have_orders_of_their_own(store: TokenStore) -> None:
    orders = set()
    for seed in range(20):
        modes, rows = sequence(MixtureSampler(store, "train", 20, seed), 10)
        orders |= {(seed, tuple(rows[modes == index][:20])) for index in range(3)}
    assert len({order for _, order in orders}) == 60


@settings(max_examples=40)
@given(step=st.integers(0, 10**6), count=st.sampled_from([1, 2, 3, 4, 6, 12]))
def test_shards_end_to_end_are_the_whole_batch(store: TokenStore, step: int, count: int) -> None:
    whole = MixtureSampler(store, "train", 24, 1)
    parts = [whole.shard(index, count).batch(step) for index in range(count)]
    assert all(len(tokens) == 24 // count for tokens, _ in parts)
    for at, expected in enumerate(whole.batch(step)):
        np.testing.assert_array_equal(np.concatenate([part[at] for part in parts]), expected)


def test_batches_are_copies_that_may_be_written(store: TokenStore) -> None:
    sampler = MixtureSampler(store, "train", 8, 0)
    tokens, lengths = sampler.batch(3)
    before = tokens.copy(), lengths.copy()
    tokens[:], lengths[:] = 1, 1
    for again, expected in zip(sampler.batch(3), before, strict=True):
        np.testing.assert_array_equal(again, expected)


def test_threads_get_the_batches_they_ask_for(store: TokenStore) -> None:
    sampler = MixtureSampler(store, "train", 8, 0)
    steps = np.random.default_rng(0).integers(0, 100_000, 80).tolist()
    expected = [MixtureSampler(store, "train", 8, 0).batch(step) for step in steps]
    with ThreadPoolExecutor(4) as threads:
        for (tokens, lengths), (want, want_lengths) in zip(
            threads.map(sampler.batch, steps), expected, strict=True
        ):
            np.testing.assert_array_equal(tokens, want)
            np.testing.assert_array_equal(lengths, want_lengths)


def test_mode_without_windows_is_named(tmp_path: Path) -> None:
    nothing = np.zeros((0, 1024), np.uint16), np.zeros(0, np.uint16)
    some = windows_of_mode([], "full")
    assert len(some[0]) == 0
    path = build_store(tmp_path / "full" / "store.zarr", train=50, test=50)
    full = TokenStore.open(path)
    arrays = {
        (split, mode): nothing
        if (split, mode) == ("test", "mixed")
        else (full.gather(split, mode, [0]), full.lengths(split, mode)[:1])
        for split in ("train", "test")
        for mode in MODES
    }
    store = TokenStore.open(write_store(tmp_path / "store.zarr", arrays, {"train": 1, "test": 1}))
    assert store.gather("test", "mixed", []).shape == (0, 1024)
    assert list(store.blocks("test", "mixed")) == []
    with pytest.raises(ConfigError, match="test/mixed has no windows"):
        MixtureSampler(store, "test", 1, 0)
    MixtureSampler(store, "train", 1, 0).batch(7)


def test_impossible_requests_are_refused(store: TokenStore) -> None:
    with pytest.raises(
        ConfigError, match="batch of 237 windows: expected 1 to the 236 that train holds"
    ):
        MixtureSampler(store, "train", 237, 0)
    MixtureSampler(store, "train", 236, 0).batch(0)
    with pytest.raises(ConfigError, match="batch of 0 windows"):
        MixtureSampler(store, "train", 0, 0)
    with pytest.raises(ConfigError, match="shard 0 of 5"):
        MixtureSampler(store, "train", 12, 0).shard(0, 5)
    with pytest.raises(ConfigError, match="shard 3 of 3"):
        MixtureSampler(store, "train", 12, 0).shard(3, 3)
    with pytest.raises(ConfigError, match="step -1"):
        MixtureSampler(store, "train", 12, 0).batch(-1)
    with pytest.raises(ConfigError, match="valid/full"):
        MixtureSampler(store, "valid", 12, 0)
