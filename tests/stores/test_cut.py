"""Cuts of windows for models with a shorter context."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from stores.codec import decode_window, encode_windows
from stores.cut import cut_windows
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


@pytest.mark.parametrize("mode", ["full", "none"])
def test_parts_of_a_batch_are_cut_as_the_whole_is(mode: str) -> None:
    """So that a run sees the same rows however many processes read them."""
    tokens, lengths = (array[:24] for array in rows_of(mode))
    whole = cut_windows(tokens, lengths, 128, (3, 5))
    for parts in (2, 3, 24):
        size = 24 // parts
        cut = [
            cut_windows(tokens[at : at + size], lengths[at : at + size], 128, (3, 5), at)
            for at in range(0, 24, size)
        ]
        for array, pieces in zip(whole, zip(*cut, strict=True), strict=True):
            np.testing.assert_array_equal(array, np.concatenate(pieces))
