"""A row of a file of measurements, as any of its readers gives it."""

from __future__ import annotations

from typing import Any, NamedTuple

FIELDS = ("src", "dst", "rtt_ms", "failed", "time")
"""What a row may have: addresses, RTT in ms, whether the ping failed, Unix seconds."""
TABLE_NAMES = {"src_addr": "src", "dst_addr": "dst", "rtt": "rtt_ms", "event_time": "time"}
"""The same in the names of the measurement table, whose `rtt` is negative where the ping failed."""
LONGEST_TEXT = 60  # characters of a value in a message


class Given(NamedTuple):
    """The values are not checked; `problem` says why a row has none, or must not be used."""

    row: int
    """From 1: the line of text, the row of a table, the line or record of JSON."""
    values: dict[str, Any]
    """By the names of `FIELDS`."""
    problem: str | None = None


def cut(text: str) -> str:
    """The text if it is short, else its beginning."""
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}…"
