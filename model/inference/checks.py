"""Checks of what a query to a model consists of. Each takes a loose value and returns a clean one.

All raise `QueryError` that names the field.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from numbers import Integral
from typing import Any

from stores.codec import Address, Measurement
from stores.errors import QueryError
from stores.measurements.given import cut as cut
from stores.public import is_public

LAST_SECOND = 4_102_444_799  # the end of 2099, the same limit as for `ingest`
NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)
"""A number as text. The page reads the same ones; `float` alone also takes 1_0 and digits of other scripts."""
ISO_TIME = re.compile(
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d([.,]\d+)?)?\s*(Z|[+-]\d\d:?\d\d)?", re.ASCII
)
"""A time in ISO 8601. The page reads the same ones."""
NOT_PUBLIC = (
    "private or special, so no model of the Internet knows it: allow it with --allow-private (in Python and JSON: "
    "allow_private)"
)


def parse_address(name: str, value: Any) -> Address:
    """An address from text, or the address itself. Raises `QueryError` for the field `name`."""
    if isinstance(value, str):
        try:
            value = ip_address(value.strip())
        except ValueError:
            raise QueryError(name, f"{shown(value)}: expected an IPv4 or IPv6 address") from None
    if not isinstance(value, IPv4Address | IPv6Address) or getattr(value, "scope_id", None):
        raise QueryError(name, f"{shown(value)}: expected an IPv4 or IPv6 address")
    return value


def check_public(name: str, address: Address, allowed: bool) -> None:
    """Raises `QueryError` for the field `name` for a private or special address that is not `allowed`."""
    if not (allowed or is_public(address)):
        raise QueryError(name, f"{address}: {NOT_PUBLIC}")


def check_public_prefix(family: int, known: bytes, allowed: bool) -> None:
    """Raises `QueryError` for a prefix (`parse_prefix`) of private or special addresses alone, unless `allowed`.

    Its first and its last address tell: no range of public addresses lies inside a byte between two others.
    """
    size = {4: 4, 6: 16}[family]
    make = IPv4Address if family == 4 else IPv6Address
    ends = (make(known.ljust(size, fill)) for fill in (b"\x00", b"\xff"))
    if known and not allowed and not any(map(is_public, ends)):
        raise QueryError(
            "prefix", f"{ip_network((known.ljust(size, bytes(1)), 8 * len(known)))}: {NOT_PUBLIC}"
        )


def parse_time(name: str, value: Any) -> int | None:
    """Whole Unix second, or `None`. A text holds Unix seconds, or a time in ISO 8601, which is in UTC where it
    names no zone. Raises `QueryError` outside 1970 to 2099."""
    if value is None:
        return None
    seconds = parse_number(name, _unix_seconds(name, value))
    if not 0 <= seconds <= LAST_SECOND:
        raise QueryError(
            name, f"{cut(str(value))}: expected Unix seconds from 0 to the end of 2099"
        )
    return int(seconds)


def _unix_seconds(name: str, value: Any) -> Any:
    """Unix seconds of a text in ISO 8601; anything else as it is.
    Raises `QueryError` for a text that is no time."""
    if not isinstance(value, str) or NUMBER.fullmatch(value.strip()):
        return value
    expected = "expected Unix seconds, or ISO 8601 as in 2025-06-27T04:53:20Z"
    if not ISO_TIME.fullmatch(value.strip()):
        raise QueryError(name, f"{shown(value)}: {expected}")
    try:
        moment = datetime.fromisoformat(value.strip().replace(",", "."))
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError) as error:
        raise QueryError(name, f"{shown(value)}: {expected} ({error})") from None


def parse_rtt(name: str, value: Any) -> float | None:
    """RTT in ms, or `None` for a failed ping. Raises `QueryError` for a negative one, or NaN."""
    if value is None:
        return None
    rtt_ms = parse_number(name, value)
    if rtt_ms < 0:
        problem = "expected 0 ms or more, or none where the ping failed"
        raise QueryError(name, f"{cut(str(value))}: {problem}")
    return rtt_ms


def parse_context(context: Iterable[Measurement]) -> tuple[Measurement, ...]:
    """The measurements, checked. Raises `QueryError` with the row, counted from 0, and the field."""
    checked = []
    for row, item in enumerate(context):
        try:
            checked.append(make_measurement(item.src, item.dst, item.rtt_ms, item.time))
        except QueryError as error:
            raise QueryError(error.field, error.problem, row) from None
    return tuple(checked)


def make_measurement(src: Any, dst: Any, rtt_ms: Any, time: Any) -> Measurement:
    """A `Measurement` from unchecked values. Raises `QueryError`."""
    measurement = Measurement(
        parse_address("src", src),
        parse_address("dst", dst),
        parse_rtt("rtt_ms", rtt_ms),
        parse_time("time", time),
    )
    check_families(measurement.src, measurement.dst)
    return measurement


def parse_whole(name: str, value: Any, least: int, most: int) -> int:
    """A whole number from `least` to `most`. Raises `QueryError`, also for a bool."""
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or not least <= int(value) <= most:
        raise QueryError(name, f"{shown(value)}: expected a whole number from {least} to {most}")
    return int(value)


def parse_prefix(text: str) -> tuple[int, bytes]:
    """Family (4 or 6) and known bytes of a prefix, as `CompletionQuery` accepts it. Raises `QueryError`."""
    try:
        prefix = text.strip()
        if "%" in prefix:
            raise ValueError
        if "/" in prefix:
            network = ip_network(prefix)  # refuses bits beyond the length
            if network.prefixlen % 8:
                raise ValueError
            return network.version, network.network_address.packed[: network.prefixlen // 8]
        return (6, _known_groups(prefix)) if ":" in prefix else (4, _known_octets(prefix))
    except (AttributeError, ValueError):  # not a text at all, or not a prefix
        raise QueryError(
            "prefix",
            f"{shown(text)}: expected whole bytes, as in 193.0.2, 2001:db9: or 2001:d00::/24",
        ) from None


def _known_octets(prefix: str) -> bytes:
    octets = prefix.removesuffix(".").split(".")
    return IPv4Address(".".join(octets + ["0"] * (4 - len(octets)))).packed[: len(octets)]


def _known_groups(prefix: str) -> bytes:
    """The groups given; a "::" before the end can only be part of a whole address."""
    if "::" in prefix and not prefix.endswith(":"):
        return IPv6Address(prefix).packed
    groups = prefix.rstrip(":").split(":")
    if "" in groups:
        raise ValueError
    return IPv6Address(":".join(groups + ["0"] * (8 - len(groups)))).packed[: 2 * len(groups)]


def check_families(src: Address, dst: Address) -> None:
    """Raises `QueryError` for `dst` unless both addresses are IPv4 or both are IPv6."""
    if src.version != dst.version:
        raise QueryError(
            "dst",
            f"{dst}: expected IPv{src.version} like the source {src}, found IPv{dst.version}",
        )


def parse_number(name: str, value: Any) -> float:
    """A finite number, also from text. Raises `QueryError`, also for a bool."""
    wrong = isinstance(value, bool)
    if isinstance(value, str):
        wrong = not NUMBER.fullmatch(value.strip())
    try:
        number = math.nan if wrong else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise QueryError(name, f"{shown(value)}: expected a finite number")
    return number


def shown(value: Any) -> str:
    """A value from outside as messages show it: its `repr`, cut short."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of 5,000 digits; lists in lists in lists
        text = f"<{type(value).__name__}>"
    return cut(text)
