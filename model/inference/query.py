"""Questions to a trained model: checked, and written as the tokens that come before the answer.

Training shuffles the order of a measurement's fields, so every order is one the model knows. A prompt
is the earlier measurements, then the begun measurement with its known fields first and the unknown last.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, Literal

from stores.codec import Address, Measurement, encode_field, encode_window
from stores.errors import QueryError
from stores.vocabulary import (
    BYTE0,
    DST_IPV4,
    DST_IPV6,
    MEASUREMENT_START,
    RTT_START,
    SRC_IPV4,
    SRC_IPV6,
)

LAST_SECOND = 4_102_444_799  # the end of 2099, as for what comes in by `ingest`
SHORTEST_MEASUREMENT = 12  # tokens
RTT_TOKENS = 3  # RTT_START and two bytes
ADDRESS_BYTES = {4: 4, 6: 16}
MAX_BRANCHES = 256  # completions or draws of one device call

AddressLike = Address | str
AddressField = Literal["src", "dst"]


@dataclass(frozen=True)
class RttQuery:
    """What will a ping from `src` to `dst` give (at `time`), after what `context` saw?

    Addresses may be text; `time` is in Unix seconds (fractions are cut off). Raises `QueryError`.
    """

    src: Address
    dst: Address
    time: int | None
    context: tuple[Measurement, ...]

    def __init__(
        self,
        src: AddressLike,
        dst: AddressLike,
        time: float | None = None,
        context: Iterable[Measurement] = (),
    ):
        _set(self, src=parse_address("src", src), dst=parse_address("dst", dst))
        _set(self, time=parse_time("time", time), context=parse_context(context))
        _check_families("dst", self.src, self.dst)

    def prompt(self, window: int) -> list[int]:
        """Tokens up to RTT_START, at most `window` less the two that follow."""

        def begun(clock: int | None) -> list[int]:
            asked = Measurement(self.src, self.dst, None, self.time)
            fields = ("src", "dst") if self.time is None else ("src", "dst", "time")
            known = [token for field in fields for token in encode_field(asked, field, clock)]
            return [MEASUREMENT_START, *known, RTT_START]

        return _prompt(self.context, self.src, begun, window - RTT_TOKENS + 1)


@dataclass(frozen=True)
class CompletionQuery:
    """Which addresses begin with `prefix`, after what `context` saw? The `k` most probable.

    `prefix` is text: whole bytes of IPv4 ("192.0.2"), whole groups of IPv6 ("2001:db8:"), or a CIDR at
    a byte boundary of either ("2001:d00::/24"; "::/0" knows nothing but the family). `field` says
    whether destinations or sources are meant. Raises `QueryError`.
    """

    prefix: str
    family: int
    known: bytes
    k: int
    context: tuple[Measurement, ...]
    field: AddressField

    def __init__(
        self,
        prefix: str,
        k: int = 10,
        context: Iterable[Measurement] = (),
        field: AddressField = "dst",
    ):
        family, known = parse_prefix(prefix)
        if field not in ("src", "dst"):
            raise QueryError(f"field {field!r}: expected src or dst")
        _set(self, prefix=prefix, family=family, known=known, k=parse_count("k", k, MAX_BRANCHES))
        _set(self, context=parse_context(context), field=field)

    @property
    def unknown(self) -> int:
        """Bytes to complete."""
        return ADDRESS_BYTES[self.family] - len(self.known)

    def prompt(self, window: int) -> list[int]:
        """Tokens up to the last known byte."""
        role = address_role(self.field, self.family)
        begun = [MEASUREMENT_START, role, *(BYTE0 + byte for byte in self.known)]
        return _prompt(self.context, None, lambda clock: begun, window - self.unknown)


@dataclass(frozen=True)
class SampleQuery:
    """Which destinations are `target_rtt_ms` away from `src`, after what `context` saw? `n` draws.

    An RTT counts as the target within ± `tolerance` · target (0: the target's own code). The same
    `seed` gives the same draws. Raises `QueryError`.
    """

    target_rtt_ms: float
    src: Address
    n: int
    context: tuple[Measurement, ...]
    tolerance: float
    seed: int

    def __init__(
        self,
        target_rtt_ms: float,
        src: AddressLike,
        n: int = 10,
        context: Iterable[Measurement] = (),
        tolerance: float = 0.05,
        seed: int = 0,
    ):
        target = _number("target_rtt_ms", target_rtt_ms)
        if target <= 0:
            raise QueryError(f"target_rtt_ms {target_rtt_ms}: expected more than 0 ms")
        share = _number("tolerance", tolerance)
        if not 0 <= share < 1:
            raise QueryError(f"tolerance {tolerance}: expected 0 or more and below 1")
        if not 0 <= seed < 2**32:
            raise QueryError(f"seed {seed}: expected 0 to 2**32 - 1")
        _set(self, target_rtt_ms=target, src=parse_address("src", src), tolerance=share, seed=seed)
        _set(self, n=parse_count("n", n, MAX_BRANCHES), context=parse_context(context))

    def prompt(self, window: int) -> list[int]:
        """Tokens up to the destination's role: its bytes follow, then the RTT."""
        asked = Measurement(self.src, self.src, None, None)
        role = address_role("dst", self.src.version)
        begun = [MEASUREMENT_START, *encode_field(asked, "src", None), role]
        answer = ADDRESS_BYTES[self.src.version] + RTT_TOKENS
        return _prompt(self.context, self.src, lambda clock: begun, window - answer)


def address_role(field: AddressField, family: int) -> int:
    """Role token of an address field."""
    roles = (SRC_IPV4, SRC_IPV6) if field == "src" else (DST_IPV4, DST_IPV6)
    return roles[family == 6]


def context_used(query: RttQuery | CompletionQuery | SampleQuery, window: int) -> int:
    """How many measurements of a query's context fit into a window beside the question."""
    return query.prompt(window).count(MEASUREMENT_START) - 1


# --- Prompts ----------------------------------------------------------------------------------------


def _prompt(
    context: Sequence[Measurement],
    src: Address | None,
    begun: Callable[[int | None], list[int]],
    room: int,
) -> list[int]:
    """As many of the last measurements as fit into `room` tokens, then `begun(clock)`.

    What is left out is the oldest, and what comes first then has an absolute time: the tokens are
    those of a window that began there.
    """
    recent = context[-(room // SHORTEST_MEASUREMENT) :]

    def write(start: int) -> list[int]:
        kept = recent[start:]
        return encode_window(map(_timed, kept)) + begun(_clock(kept, src))

    start = bisect_left(range(len(recent)), True, key=lambda start: len(write(start)) <= room)
    return write(start)


def _timed(measurement: Measurement) -> tuple[Measurement, bool]:
    """As `encode_window` takes it: it draws the field order from a time even where none is written."""
    if measurement.time is None:
        return replace(measurement, time=0), False
    return measurement, True


def _clock(context: Sequence[Measurement], src: Address | None) -> int | None:
    """Second that the time of a further measurement from `src` counts from, as in `encode_window`."""
    clock, source = None, None
    for measurement in context:
        if measurement.src != source:
            source, clock = measurement.src, None
        if measurement.time is not None:
            clock = measurement.time
    return clock if source == src else None


# --- Checks -----------------------------------------------------------------------------------------


def parse_address(name: str, value: Any) -> Address:
    """Address of text, or the address itself. Raises `QueryError` beginning with `name`."""
    if isinstance(value, str):
        try:
            value = ip_address(value.strip())
        except ValueError:
            raise QueryError(f"{name} {value!r}: expected an IPv4 or IPv6 address") from None
    if not isinstance(value, IPv4Address | IPv6Address) or getattr(value, "scope_id", None):
        raise QueryError(f"{name} {value!r}: expected an IPv4 or IPv6 address")
    return value


def parse_time(name: str, value: Any) -> int | None:
    """Whole Unix second, or `None`. Raises `QueryError` outside 1970 to 2099."""
    if value is None:
        return None
    seconds = _number(name, value)
    if not 0 <= seconds <= LAST_SECOND:
        raise QueryError(f"{name} {value}: expected Unix seconds from 0 to the end of 2099")
    return int(seconds)


def parse_rtt(name: str, value: Any) -> float | None:
    """RTT in ms, or `None` for a failed ping. Raises `QueryError` for a negative one, or NaN."""
    if value is None:
        return None
    rtt_ms = _number(name, value)
    if rtt_ms < 0:
        raise QueryError(f"{name} {value}: expected 0 ms or more, or none where the ping failed")
    return rtt_ms


def parse_context(context: Iterable[Measurement]) -> tuple[Measurement, ...]:
    """The measurements, checked. Raises `QueryError` naming the position, from 0, and the field."""
    return tuple(
        make_measurement(f"context[{at}].", item.src, item.dst, item.rtt_ms, item.time)
        for at, item in enumerate(context)
    )


def make_measurement(where: str, src: Any, dst: Any, rtt_ms: Any, time: Any) -> Measurement:
    """A `Measurement` of loose values. Raises `QueryError` beginning with `where` and the field."""
    measurement = Measurement(
        parse_address(f"{where}src", src),
        parse_address(f"{where}dst", dst),
        parse_rtt(f"{where}rtt_ms", rtt_ms),
        parse_time(f"{where}time", time),
    )
    _check_families(f"{where}dst", measurement.src, measurement.dst)
    return measurement


def parse_count(name: str, value: Any, limit: int) -> int:
    """A whole number from 1 to `limit`. Raises `QueryError`."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= limit:
        raise QueryError(f"{name} {value!r}: expected a whole number from 1 to {limit}")
    return value


def parse_prefix(text: str) -> tuple[int, bytes]:
    """Family (4 or 6) and known bytes of a prefix as `CompletionQuery` takes it."""
    prefix = text.strip()
    try:
        if "%" in prefix:
            raise ValueError
        if "/" in prefix:
            network = ip_network(prefix)  # refuses bits beyond the length
            if network.prefixlen % 8:
                raise ValueError
            return network.version, network.network_address.packed[: network.prefixlen // 8]
        return (6, _known_groups(prefix)) if ":" in prefix else (4, _known_octets(prefix))
    except ValueError:
        raise QueryError(
            f"prefix {text!r}: expected whole bytes, as in 192.0.2, 2001:db8: or 2001:d00::/24"
        ) from None


def _known_octets(prefix: str) -> bytes:
    octets = prefix.removesuffix(".").split(".")
    return IPv4Address(".".join(octets + ["0"] * (4 - len(octets)))).packed[: len(octets)]


def _known_groups(prefix: str) -> bytes:
    """Groups so far; with "::" inside, where no prefix can have it, a whole address."""
    if "::" in prefix and not prefix.endswith(":"):
        return IPv6Address(prefix).packed
    groups = prefix.rstrip(":").split(":")
    if "" in groups:
        raise ValueError
    return IPv6Address(":".join(groups + ["0"] * (8 - len(groups)))).packed[: 2 * len(groups)]


def _check_families(name: str, src: Address, dst: Address) -> None:
    if src.version != dst.version:
        raise QueryError(
            f"{name} {dst}: expected IPv{src.version} as the source {src}, found IPv{dst.version}"
        )


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise QueryError(f"{name} {value!r}: expected a finite number")
    return number


def _set(query: Any, **fields: Any) -> None:
    """Set fields of a frozen dataclass, in its own `__init__`."""
    for name, value in fields.items():
        object.__setattr__(query, name, value)
