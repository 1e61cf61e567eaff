"""Prompts: the tokens that come before a model's answer.

Training shuffles the order of a measurement's fields, so the model knows every order. A prompt holds
the earlier measurements, then an unfinished one with its known fields first and the unknown one last.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace

from stores.codec import Address, Measurement, encode_window

SHORTEST_MEASUREMENT = 12  # tokens
PAIR_ROWS = 4
"""Measurements of the asked pair that go into a prompt before any other: the last few say all that is
left to say of it."""


def write_prompt(
    context: Sequence[Measurement],
    src: Address | None,
    begun: Callable[[int | None], list[int]],
    room: int,
    dst: Address | None = None,
) -> list[int]:
    """As many measurements of the context as fit into `room` tokens, in its order, then `begun(clock)`.

    `begun` writes the unfinished measurement from `src`, to `dst` if that is known; `clock` is the second
    that its time counts from, or `None`. Those of other sources are left out before those from `src`, and
    the oldest first, but the last few of the pair itself stay. The first one kept has an absolute time: the
    tokens are those of a valid window.
    """
    order = _most_useful_first(context, src, dst)[: room // SHORTEST_MEASUREMENT]

    def write(count: int) -> list[int]:
        kept = [context[at] for at in sorted(order[:count])]
        return encode_window(map(_timed, kept)) + begun(_clock(kept, src))

    too_many = bisect_left(range(len(order) + 1), True, key=lambda count: len(write(count)) > room)
    return write(max(too_many - 1, 0))


def _most_useful_first(
    context: Sequence[Measurement], src: Address | None, dst: Address | None
) -> list[int]:
    """Places in the context: the last few of the pair, then those of the source from the latest on, then those of
    others: a file of results has many sources, and the question is about one."""
    latest = range(len(context) - 1, -1, -1)
    if src is None:
        return list(latest)
    own = [at for at in latest if context[at].src == src]
    of_pair = [at for at in own if context[at].dst == dst][:PAIR_ROWS]
    return list(dict.fromkeys([*of_pair, *own, *latest]))


def _timed(measurement: Measurement) -> tuple[Measurement, bool]:
    """As `encode_window` takes it: it needs a time for the field order even if none is written."""
    if measurement.time is None:
        return replace(measurement, time=0), False
    return measurement, True


def _clock(context: Sequence[Measurement], src: Address | None) -> int | None:
    """The second that the time of a next measurement from `src` counts from, as in `encode_window`."""
    clock, source = None, None
    for measurement in context:
        if measurement.src != source:
            source, clock = measurement.src, None
        if measurement.time is not None:
            clock = measurement.time
    return clock if source == src else None
