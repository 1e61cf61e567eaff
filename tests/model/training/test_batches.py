from __future__ import annotations

import threading
from itertools import pairwise
from pathlib import Path

import jax
import numpy as np
import pytest

from model.devices import visible_devices
from model.training.batches import AHEAD, Batches, DeviceBatches
from stores.codec import decode_window, encode_windows
from stores.cut import cut_windows
from stores.reader import TokenStore
from stores.sampler import MixtureSampler
from stores.vocabulary import MEASUREMENT_START
from tests.helpers import random_measurements, windows_of_mode

KEY = (0, 0)


def rows_of(mode: str = "none", count: int = 600) -> tuple[np.ndarray, np.ndarray]:
    return windows_of_mode(random_measurements(count, 1), mode)


def measurements_in(window: np.ndarray, length: int) -> list[tuple[int, ...]]:
    starts = [*np.flatnonzero(window[:length] == MEASUREMENT_START), length]
    return [tuple(window[a:b]) for a, b in pairwise(starts)]


@pytest.mark.parametrize("context", [64, 128, 256, 1000])
def test_a_cut_holds_consecutive_whole_measurements_of_its_window(context: int) -> None:
    tokens, lengths = rows_of()
    cut, cut_lengths = cut_windows(tokens, lengths, context, KEY)
    assert cut.shape == (len(tokens), context)
    assert cut.dtype == cut_lengths.dtype == np.uint16
    for row, length in enumerate(cut_lengths):
        assert cut[row, 0] == MEASUREMENT_START
        assert not cut[row, length:].any()
        inside = measurements_in(cut[row], length)
        whole = measurements_in(tokens[row], lengths[row])
        assert inside
        at = next(i for i in range(len(whole)) if whole[i : i + len(inside)] == inside)
        room = context - length
        if at + len(inside) < len(whole):  # another one would not have fitted
            assert len(whole[at + len(inside)]) > room


@pytest.mark.parametrize("mode", ["full", "mixed"])
def test_a_cut_decodes_to_what_its_window_says_absolute_times_included(mode: str) -> None:
    tokens, lengths = rows_of(mode)
    made_absolute = 0
    for context in (64, 200, 700):
        cut, cut_lengths = cut_windows(tokens, lengths, context, (context, 0))
        for row, length in enumerate(cut_lengths):
            inside = decode_window(cut[row], int(length))  # raises if a first time is relative
            whole = decode_window(tokens[row], int(lengths[row]))
            at = next(i for i in range(len(whole)) if whole[i : i + len(inside)] == inside)
            made_absolute += at > 0 and any(m.time is not None for m in inside)
            assert 0 < length <= context
    assert made_absolute > 10


def test_cuts_cover_the_window_from_its_first_to_its_last_measurement() -> None:
    tokens, lengths = (a[:1] for a in rows_of())
    seen: set[tuple[int, ...]] = set()
    for step in range(400):
        cut, length = cut_windows(tokens, lengths, 128, (0, step))
        seen |= set(measurements_in(cut[0], length[0]))
    assert seen == set(measurements_in(tokens[0], lengths[0]))


def test_short_windows_and_full_context_stay_whole() -> None:
    window = encode_windows((m, False) for m in random_measurements(3, 5))[0]
    tokens = np.zeros((1, 1024), np.uint16)
    tokens[0, : len(window)] = window
    lengths = np.array([len(window)], np.uint16)
    cut, length = cut_windows(tokens, lengths, 160, KEY)
    assert length[0] == len(window)
    np.testing.assert_array_equal(cut[0, : len(window)], window)
    assert cut_windows(tokens, lengths, 1024, KEY)[0] is tokens


def test_a_batch_is_a_function_of_seed_and_step(store: Path) -> None:
    opened = TokenStore.open(store)

    def batch(seed: int, step: int) -> np.ndarray:
        sampler = MixtureSampler(opened, "train", 8, seed)
        return Batches(sampler, 128, seed).batch(step)[0]

    np.testing.assert_array_equal(batch(1, 3), batch(1, 3))
    assert not np.array_equal(batch(1, 3), batch(1, 4))
    assert not np.array_equal(batch(1, 3), batch(2, 3))


def test_device_batches_come_in_order_as_uint16(store: Path) -> None:
    batches = Batches(MixtureSampler(TokenStore.open(store), "train", 8, 0), 128, 0)
    with DeviceBatches(batches, visible_devices(), 5, 15) as feed:
        for step in range(5, 15):
            tokens, lengths = next(feed)
            expected = batches.batch(step)
            assert tokens.dtype == lengths.dtype == np.uint16
            np.testing.assert_array_equal(jax.device_get(tokens), expected[0])
            np.testing.assert_array_equal(jax.device_get(lengths), expected[1])


class Failing:
    """A sampler whose fourth batch cannot be read."""

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        if step == 3:
            raise OSError("the disk is gone")
        return np.zeros((8, 1024), np.uint16), np.ones(8, np.uint16)


def test_a_failure_of_the_thread_reaches_the_loop() -> None:
    with DeviceBatches(Batches(Failing(), 128, 0), visible_devices(), 0, 10) as feed:
        for _ in range(3):
            next(feed)
        with pytest.raises(OSError, match="the disk is gone"):
            next(feed)


def test_the_thread_ends_with_the_loop_and_keeps_few_batches(store: Path) -> None:
    before = threading.active_count()
    batches = Batches(MixtureSampler(TokenStore.open(store), "train", 8, 0), 128, 0)
    with DeviceBatches(batches, visible_devices(), 0, 10**9) as feed:
        next(feed)
        assert feed._ready.maxsize == AHEAD
    assert threading.active_count() == before
