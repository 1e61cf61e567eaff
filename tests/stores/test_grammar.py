"""The flat parser accepts exactly what the plain decoder accepts, and reads the same out of it."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stores.codec import decode_window, encode_rtt
from stores.errors import TokenError
from stores.grammar import NO_TIME, ORDER_NAMES, parse_windows
from stores.layout import MODES
from stores.vocabulary import (
    BYTE0,
    CONTEXT,
    MEASUREMENT_START,
    PAYLOAD_BYTES,
    ROLE_NAMES,
    TIMESTAMP_ABS,
)
from tests.helpers import random_measurements, windows_of_mode

WINDOWS = {mode: windows_of_mode(random_measurements(700, 4), mode) for mode in MODES}


@pytest.mark.parametrize("mode", MODES)
def test_parser_reads_what_the_plain_decoder_reads(mode: str) -> None:
    tokens, lengths = WINDOWS[mode]
    parsed = parse_windows(tokens, lengths)
    assert parsed.bad.size == 0
    plain = [
        (row, measurement)
        for row, length in enumerate(lengths)
        for measurement in decode_window(tokens[row], int(length))
    ]
    assert parsed.window.tolist() == [row for row, _ in plain]
    assert parsed.ipv4.tolist() == [m.src.version == 4 for _, m in plain]
    assert parsed.failed.tolist() == [m.rtt_ms is None for _, m in plain]
    assert (parsed.time_role == NO_TIME).tolist() == [m.time is None for _, m in plain]
    codes = [encode_rtt(m.rtt_ms) for _, m in plain if m.rtt_ms is not None]
    assert parsed.rtt_code.tolist() == codes
    sources = {m.src: source for (_, m), source in zip(plain, parsed.source, strict=True)}
    assert [sources[m.src] for _, m in plain] == parsed.source.tolist()
    assert len(set(sources.values())) == len(sources)
    body = np.concatenate([tokens[row, :length] for row, length in enumerate(lengths)])
    assert parsed.role_counts.tolist() == np.bincount(body, minlength=267)[:BYTE0].tolist()


def test_parser_names_field_orders_by_where_their_roles_stand() -> None:
    tokens, lengths = WINDOWS["mixed"]
    parsed = parse_windows(tokens, lengths)
    expected = []
    for row, length in enumerate(lengths):
        for token in tokens[row, :length]:
            if token == MEASUREMENT_START:
                expected.append([])
            elif token < BYTE0:
                name = ROLE_NAMES[token].lower().split("_")[0]
                field = {"timestamp": "time", "rtt": "result", "failed": "result"}.get(name, name)
                expected[-1].append(field)
    assert [ORDER_NAMES[order].split() for order in parsed.order] == expected


def mutate(window: list[int], rng: random.Random) -> list[int]:
    """A window with one thing changed, which may or may not break the grammar."""
    at = rng.randrange(len(window))
    roles = [place for place, token in enumerate(window) if token < BYTE0]
    role = rng.choice(roles)
    field = window[role : role + 1 + PAYLOAD_BYTES[window[role]]]
    match rng.randrange(7):
        case 0:  # any token anywhere, unknown ones too
            return [*window[:at], rng.randrange(270), *window[at + 1 :]]
        case 1:  # another role
            return [*window[:role], rng.randrange(BYTE0), *window[role + 1 :]]
        case 2:  # a field lost
            return window[:role] + window[role + len(field) :]
        case 3:  # a field twice
            return window[: role + len(field)] + window[role:]
        case 4:  # cut short
            return window[:at]
        case 5:  # not begun
            return window[rng.randrange(5) :]
        case _:  # a token lost
            return window[:at] + window[at + 1 :]


@settings(max_examples=150)
@given(seed=st.integers(0, 2**32), changes=st.integers(0, 2))
def test_parser_finds_bad_exactly_what_the_plain_decoder_refuses(seed: int, changes: int) -> None:
    rng = random.Random(seed)
    tokens = np.zeros((12, CONTEXT), np.uint16)
    lengths = np.zeros(12, np.uint16)
    refused = []
    for row in range(12):
        all_tokens, all_lengths = WINDOWS[rng.choice(MODES)]
        source = rng.randrange(len(all_lengths))
        window = all_tokens[source, : all_lengths[source]].tolist()
        for _ in range(changes):
            window = mutate(window, rng)[:CONTEXT] or [0]
        tokens[row, : len(window)] = window
        lengths[row] = rng.choice([len(window)] * 20 + [0, 1, CONTEXT, CONTEXT + 1])
        try:
            decode_window(tokens[row], int(lengths[row]))
        except TokenError:
            refused.append(row)
    parsed = parse_windows(tokens, lengths)
    assert parsed.bad.tolist() == refused
    assert set(parsed.window.tolist()) == set(range(12)) - set(refused)


def test_delta_before_any_absolute_time_is_bad() -> None:
    tokens, lengths = WINDOWS["full"]
    window = tokens[0].copy()
    first = np.flatnonzero(window == TIMESTAMP_ABS)[0]
    cut = np.concatenate([window[:first], [6], window[first + 8 :], np.zeros(7)]).astype(np.uint16)
    assert parse_windows(cut[None], lengths[:1] - np.uint16(7)).bad.tolist() == [0]


def test_nothing_parses_to_nothing() -> None:
    parsed = parse_windows(np.zeros((0, CONTEXT), np.uint16), np.zeros(0, np.uint16))
    assert parsed.order.size == parsed.bad.size == parsed.rtt_code.size == 0
    parsed = parse_windows(np.zeros((2, CONTEXT), np.uint16), np.zeros(2, np.uint16))
    assert parsed.bad.tolist() == [0, 1]
