"""Windows as something to read: their tokens, and the measurements those mean."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from stores.codec import decode_window
from stores.errors import ConfigError, TokenError
from stores.grammar import NO_TIME, ORDER_NAMES, parse_windows
from stores.reader import TokenStore
from stores.vocabulary import ROLE_NAMES, TIMESTAMP_ABS


def decode_windows(
    store: TokenStore, split: str, mode: str, index: int, count: int = 1
) -> list[dict[str, Any]]:
    """Windows `index` … `index + count - 1`, as many as there are, as JSON-able dicts.

    Each holds `split`, `mode`, `index`, `length`, `tokens` (without the tail) and `measurements`: `order`,
    `src`, `dst`, `rtt_ms` (null: failed), `time` (Unix seconds, null: none), `time_utc`, `time_token`,
    `delta` (seconds, null where the time is absolute or none). Raises `ConfigError` for an index that is
    not in the array and `TokenError` naming the window, position and what was expected there.
    """
    windows = store.windows(split, mode)
    if not 0 <= index < windows or count < 1:
        raise ConfigError(
            f"{store.path}: no window {index} in {split}/{mode}: expected an index from 0 to "
            f"{windows - 1} and a count of 1 or more"
        )
    rows = range(index, min(index + count, windows))
    return [_decode(store, split, mode, row) for row in rows]


def _decode(store: TokenStore, split: str, mode: str, index: int) -> dict[str, Any]:
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
            {
                "order": ORDER_NAMES[order],
                "src": str(measurement.src),
                "dst": str(measurement.dst),
                "rtt_ms": measurement.rtt_ms,
                "time": time,
                "time_utc": None if time is None else _utc(time),
                "time_token": None if role == NO_TIME else ROLE_NAMES[role],
                "delta": delta,
            }
        )
    return {
        "split": split,
        "mode": mode,
        "index": index,
        "length": length,
        "tokens": tokens[0, :length].tolist(),
        "measurements": described,
    }


def _utc(seconds: int) -> str:
    """ISO 8601 time, or the plain seconds where they are past the year 9999."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return f"{seconds} s"
