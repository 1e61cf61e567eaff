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


def write_prompt(
    context: Sequence[Measurement],
    src: Address | None,
    begun: Callable[[int | None], list[int]],
    room: int,
) -> list[int]:
    """As many of the latest measurements as fit into `room` tokens, then `begun(clock)`.

    `begun` writes the unfinished measurement from `src`; `clock` is the second that its time counts
    from, or `None`. The oldest measurements are left out, and the first one kept has an absolute time:
    the tokens are those of a window that starts there.
    """
    recent = context[-(room // SHORTEST_MEASUREMENT) :]

    def write(start: int) -> list[int]:
        kept = recent[start:]
        return encode_window(map(_timed, kept)) + begun(_clock(kept, src))

    start = bisect_left(range(len(recent)), True, key=lambda start: len(write(start)) <= room)
    return write(start)


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
