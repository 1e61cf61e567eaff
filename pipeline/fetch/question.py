"""What to ask the API for: measurements, a range of time, and perhaps probes; and the slices of it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import urlsplit

from stores.errors import ConfigError
from stores.urls import without_secrets

FIRST = 1262304000  # 2010, before there was RIPE Atlas: 20240101 is no time in seconds
SECONDS = {"hour": 3600, "day": 86400}
_STAMP = "%Y%m%dT%H%M%SZ"
_FILE = re.compile(r"(\d+)-(\d{8}T\d{6}Z)-(\d{8}T\d{6}Z)\.ndjson")


@dataclass(frozen=True, order=True)
class Slice:
    """The results of one measurement from second `start` to before second `stop` (Unix)."""

    measurement: int
    start: int
    stop: int

    @property
    def file(self) -> str:
        """The name of its file, which says all of it."""
        ends = (
            datetime.fromtimestamp(end, UTC).strftime(_STAMP) for end in (self.start, self.stop)
        )
        return "-".join([str(self.measurement), *ends]) + ".ndjson"

    @classmethod
    def of_file(cls, name: str) -> Slice | None:
        """The slice that a file of this name holds; `None` for any other name."""
        found = _FILE.fullmatch(name)
        if not found:
            return None
        try:
            ends = [
                int(datetime.strptime(end, _STAMP).replace(tzinfo=UTC).timestamp())
                for end in found.groups()[1:]
            ]
        except ValueError:
            return None
        return cls(int(found[1]), *ends)


@dataclass(frozen=True)
class Question:
    """What to fetch, and from where."""

    url: str
    """Of the API's server, without a slash at its end."""
    measurements: tuple[int, ...]
    start: int
    stop: int
    """Unix seconds, from `start` to before `stop`."""
    probes: tuple[str, ...]
    """Numbers and ranges (`10-20`) of probes; all of them if empty."""
    slice_seconds: int

    def missing(self, here: Iterable[Slice]) -> list[Slice]:
        """The slices to ask for, in order, when those that are `here` are not asked for again."""
        covered = sorted(here)
        return [
            Slice(number, *ends)
            for number in self.measurements
            for gap in _gaps(
                self.start,
                self.stop,
                [(s.start, s.stop) for s in covered if s.measurement == number],
            )
            for ends in _cut(*gap, self.slice_seconds)
        ]


def make_question(
    url: str,
    measurements: str,
    start: str,
    stop: str,
    probes: str | None,
    every: Literal["hour", "day"],
) -> Question:
    """The question in a user's words. Raises `ConfigError` naming the option that is wrong."""
    numbers = _list("--msm", measurements, r"[1-9]\d{0,17}", "1001,1004")
    asked = (
        [] if probes is None else _list("--probes", probes, r"[1-9]\d*(-[1-9]\d*)?", "1,2,10-20")
    )
    first, last = _time("--start", start), _time("--stop", stop)
    if first >= last:
        raise ConfigError(f"--stop {stop}: expected a time after --start {start}")
    if last > time.time():
        raise ConfigError(
            f"--stop {stop}: lies in the future, so the last file would pass for a complete one: "
            "expected a time that has passed"
        )
    return Question(
        _server(url),
        tuple(sorted(map(int, numbers))),
        first,
        last,
        tuple(sorted(asked, key=lambda each: [int(part) for part in each.split("-")])),
        SECONDS[every],
    )


def _list(option: str, text: str, pattern: str, example: str) -> list[str]:
    """The different items of a list with commas."""
    items = [item.strip() for item in text.split(",")]
    for item in items:
        if not re.fullmatch(pattern, item, re.ASCII):
            raise ConfigError(f"{option} {text}: {item!r} is none: expected numbers like {example}")
    return list(dict.fromkeys(items))


def _time(option: str, text: str) -> int:
    """Unix seconds of a time that is written as such, or in ISO 8601 (UTC unless it says otherwise)."""
    try:
        moment = (
            datetime.fromtimestamp(float(text), UTC)
            if re.fullmatch(r"\d+(\.\d*)?", text, re.ASCII)
            else datetime.fromisoformat(text)
        )
        found = int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
        if found >= FIRST:
            return found
    except (ValueError, OverflowError, OSError):
        pass
    raise ConfigError(
        f"{option} {text}: expected a time since 2010 in ISO 8601, like 2024-01-01 or 2024-01-01T06:00Z, "
        "or in Unix seconds"
    )


def _server(url: str) -> str:
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        sound = False
    if not sound or "@" in parts.netloc or parts.query or parts.fragment:
        shown = without_secrets(url) if "://" in url else url
        raise ConfigError(
            f"--url {shown}: expected one like https://atlas.ripe.net, without a query or password"
        )
    return url.rstrip("/")


def _gaps(start: int, stop: int, covered: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """What of a range the sorted ranges `covered` leave open."""
    for first, last in covered:
        if start < min(first, stop):
            yield start, min(first, stop)
        start = max(start, last)
    if start < stop:
        yield start, stop


def _cut(start: int, stop: int, length: int) -> Iterator[tuple[int, int]]:
    """A range, cut at the multiples of `length`."""
    while start < stop:
        end = min(stop, start - start % length + length)
        yield start, end
        start = end
