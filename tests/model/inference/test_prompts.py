"""Prompts: which measurements of the context they keep, and that they decode to these and the query."""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import ip_address

import pytest

from model.inference.query import CompletionQuery, RttQuery, SampleQuery, context_used
from stores.codec import Measurement, decode_window, encode_window
from stores.vocabulary import BYTE0, RTT_START
from tests.helpers import random_measurements

A, B = ip_address("193.0.2.1"), ip_address("193.0.2.2")
RTT_BYTES = [BYTE0, BYTE0 + 77]  # a code of 0.077 ms


def pair_of(measurement: Measurement) -> tuple[str, str]:
    return str(measurement.src), str(measurement.dst)


def context_of(seed: int, count: int) -> list[Measurement]:
    """Measurements as a store gives them back (RTTs rounded), a third of them without time."""
    rng = random.Random(seed)
    rounded = decode_window(
        tokens := encode_window((m, True) for m in random_measurements(count, seed)), len(tokens)
    )
    return [replace(m, time=None) if rng.random() < 1 / 3 else m for m in rounded]


def of_one_source(context: list[Measurement]) -> list[Measurement]:
    """The same, all from the source of the first."""
    src = context[0].src
    return [
        replace(m, src=src, dst=m.dst if m.dst.version == src.version else type(src)(int(src) ^ at))
        for at, m in enumerate(context, 1)
    ]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("window", [64, 200, 1024])
def test_an_answered_prompt_decodes_to_the_latest_context_and_the_query(
    seed: int, window: int
) -> None:
    context = of_one_source(context_of(seed, 3 + 20 * (seed % 5)))
    last = context[-1]
    for time in (None, 1_700_100_000, 5):
        query = RttQuery(*pair_of(last), time=time, context=context, allow_private=True)
        tokens = query.prompt(window) + RTT_BYTES
        assert len(tokens) <= window
        *kept, asked = decode_window(tokens, len(tokens))
        assert asked == Measurement(last.src, last.dst, 0.077, time)
        assert kept == context[len(context) - len(kept) :]
        assert len(kept) == context_used(query, window)
        if len(kept) < len(context):  # one more would not have fitted
            longer = replace(query, context=context[-len(kept) - 1 :])
            assert len(longer.prompt(2048)) + 2 > window


@pytest.mark.parametrize("seed", range(6))
def test_the_last_rows_of_the_asked_pair_stay_in_the_prompt(seed: int) -> None:
    context = of_one_source(context_of(seed, 60))
    src, dst = context[0].src, context[0].dst
    for at in (3, 5, 8, 11, 20):  # long before the last ones
        context[at] = replace(context[at], src=src, dst=dst)
    query = RttQuery(str(src), str(dst), context=context, allow_private=True)
    tokens = query.prompt(300) + RTT_BYTES
    assert len(tokens) <= 300
    *kept, _ = decode_window(tokens, len(tokens))
    places = [context.index(measurement) for measurement in kept]
    assert places == sorted(places)
    assert [at for at in places if at < 40] == [5, 8, 11, 20]
    others = places[4:]
    assert others == list(range(60 - len(others), 60))


def test_measurements_of_the_source_come_before_those_of_others() -> None:
    """As in a file of results, which has those of many probes."""
    sources = [ip_address(f"193.0.2.{at}") for at in range(1, 6)]
    context = [
        Measurement(sources[at % 5], B, (at + 1) / 100, 1_700_000_000 + at) for at in range(40)
    ]
    dst = ip_address("198.51.101.99")
    few = RttQuery(str(A), str(dst), context=context)
    *kept, _ = decode_window(tokens := few.prompt(150) + RTT_BYTES, len(tokens))
    assert {m.src for m in kept} == {A}
    assert kept == [m for m in context if m.src == A][-len(kept) :]
    *most, _ = decode_window(tokens := few.prompt(600) + RTT_BYTES, len(tokens))
    assert [m for m in most if m.src == A] == [m for m in context if m.src == A]
    others = [m for m in context if m.src != A]
    assert [m for m in most if m.src != A] == others[len(others) - (len(most) - 8) :]


def test_every_question_leaves_room_for_its_answer() -> None:
    context = context_of(1, 90)
    for window in range(64, 300):
        for family, prefix in ((4, "11"), (6, "2001:db9:")):
            completion = CompletionQuery(prefix, context=context)
            assert len(completion.prompt(window)) + completion.unknown <= window
            src = "193.0.2.1" if family == 4 else "2001:db9::1"
            sample = SampleQuery(src, 20.0, context=context)
            size = 4 if family == 4 else 16
            tokens = [*sample.prompt(window), *[BYTE0] * size, RTT_START, *RTT_BYTES]
            assert len(tokens) <= window
            assert decode_window(tokens, len(tokens))[-1].src == ip_address(src)
