"""Windows in readable form: their tokens, and the measurements that these encode."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from stores.codec import decode_window
from stores.errors import ConfigError, TokenError
from stores.grammar import NO_TIME, ORDER_NAMES, parse_windows
from stores.reader import TokenStore
from stores.vocabulary import ROLE_NAMES, TIMESTAMP_ABS


@dataclass(frozen=True)
class DecodedMeasurement:
    """One measurement as a window has it."""

    order: str
    """Its fields in their order, "src dst result time"."""
    src: str
    dst: str
    rtt_ms: float | None
    """`None`: the ping failed."""
    time: int | None
    """Unix seconds; `None`: it has no time."""
    time_utc: str | None
    time_token: str | None
    """Name of the role token that the time is written with."""
    delta: int | None
    """Seconds since the time before it; `None` where the time is absolute or missing."""


@dataclass(frozen=True)
class DecodedWindow:
    """One window, as tokens and as measurements."""

    split: str
    mode: str
    index: int
    length: int
    tokens: list[int]
    """Without the tail."""
    measurements: list[DecodedMeasurement]

    def as_json(self) -> dict[str, Any]:
        """The same names and values as JSON-able dicts."""
        return asdict(self)


def decode_windows(
    store: TokenStore, split: str, mode: str, index: int, count: int = 1
) -> list[DecodedWindow]:
    """Windows `index` to `index + count - 1`, as far as the array goes.

    Raises `ConfigError` for an index outside the array, and `TokenError` naming the window, the
    position and what was expected there.
    """
    windows = store.windows(split, mode)
    if not 0 <= index < windows or count < 1:
        raise ConfigError(
            f"{store.path}: no window {index} in {split}/{mode}: expected an index from 0 to "
            f"{windows - 1} and a count of 1 or more"
        )
    rows = range(index, min(index + count, windows))
    return [_decode(store, split, mode, row) for row in rows]


def _decode(store: TokenStore, split: str, mode: str, index: int) -> DecodedWindow:
    tokens = store.gather(split, mode, [index])
    lengths = store.lengths(split, mode)[index : index + 1]
    length = int(lengths[0])
    try:
        measurements = decode_window(tokens[0], length)
    except TokenError as error:
        raise TokenError(f"{store.path}: window {index} of {split}/{mode}: {error}") from error
    parsed = parse_windows(tokens, lengths)
    described = []
    clock = 0
    for measurement, order, role in zip(
        measurements, parsed.order.tolist(), parsed.time_role.tolist(), strict=True
    ):
        time, delta = measurement.time, None
        if time is not None:
            delta = None if role == TIMESTAMP_ABS else time - clock
            clock = time
        described.append(
            DecodedMeasurement(
                order=ORDER_NAMES[order],
                src=str(measurement.src),
                dst=str(measurement.dst),
                rtt_ms=measurement.rtt_ms,
                time=time,
                time_utc=None if time is None else _utc(time),
                time_token=None if role == NO_TIME else ROLE_NAMES[role],
                delta=delta,
            )
        )
    return DecodedWindow(
        split=split,
        mode=mode,
        index=index,
        length=length,
        tokens=tokens[0, :length].tolist(),
        measurements=described,
    )


def _utc(seconds: int) -> str:
    """ISO 8601 time, or plain seconds beyond the year 9999."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return f"{seconds} s"
