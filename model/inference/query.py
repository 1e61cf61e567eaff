"""Queries to a trained model: checked on creation, and written as prompts for the model to continue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from model.inference.checks import (
    check_families,
    check_public,
    check_public_prefix,
    cut,
    parse_address,
    parse_context,
    parse_number,
    parse_prefix,
    parse_time,
    parse_whole,
    shown,
)
from model.inference.old_order import source_first
from model.inference.prompts import write_prompt
from stores.codec import Address, Measurement, encode_field
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

RTT_TOKENS = 3  # RTT_START and two bytes
ADDRESS_BYTES = {4: 4, 6: 16}
MAX_BRANCHES = 256  # completions or draws of one device call
MAX_SEED = 2**32 - 1
MOST_TARGET_MS = 60_000

AddressLike = Address | str
AddressField = Literal["src", "dst"]


@dataclass(frozen=True)
class RttQuery:
    """What will a ping from `src` to `dst` return (at `time`), given the measurements in `context`?

    Addresses may also be passed as text and the context as any iterable; `time` is in Unix seconds,
    and fractions are cut off. Private and special addresses are refused unless `allow_private`: no ping
    of the Internet comes from there. Raises `QueryError`.
    """

    src: Address
    dst: Address
    time: int | None = None
    context: Sequence[Measurement] = ()
    allow_private: bool = False

    def __post_init__(self) -> None:
        _normalise(
            self,
            src=parse_address("src", self.src),
            dst=parse_address("dst", self.dst),
            time=parse_time("time", self.time),
            context=parse_context(self.context),
        )
        check_families(self.src, self.dst)
        check_public("src", self.src, self.allow_private)
        check_public("dst", self.dst, self.allow_private)

    def prompt(self, window: int) -> list[int]:
        """Tokens up to and including RTT_START, leaving room in `window` for the two RTT bytes."""

        def begun(clock: int | None) -> list[int]:
            asked = Measurement(self.src, self.dst, None, self.time)
            fields = ("src", "dst") if self.time is None else ("src", "dst", "time")
            known = [token for field in fields for token in encode_field(asked, field, clock)]
            return [MEASUREMENT_START, *known, RTT_START]

        return write_prompt(self.context, self.src, begun, window - RTT_TOKENS + 1, self.dst)


@dataclass(frozen=True)
class CompletionQuery:
    """Which addresses begin with `prefix`, given `context`? Asks for the `k` most probable.

    `prefix` is text: whole bytes of IPv4 ("193.0.2"), whole groups of IPv6 ("2001:db9:"), or a CIDR of
    either at a byte boundary ("2001:d00::/24"; "::/0" fixes only the family). `field` selects
    destinations or sources. The context may be any iterable. A prefix of private and special addresses alone
    is refused unless `allow_private`. Raises `QueryError`.
    """

    prefix: str
    k: int = 10
    context: Sequence[Measurement] = ()
    field: AddressField = "dst"
    allow_private: bool = False

    def __post_init__(self) -> None:
        parse_prefix(self.prefix)
        if self.field not in ("src", "dst"):
            raise QueryError("field", f"{shown(self.field)}: expected src or dst")
        _normalise(
            self,
            k=parse_whole("k", self.k, 1, MAX_BRANCHES),
            context=parse_context(self.context),
        )
        check_public_prefix(self.family, self.known, self.allow_private)

    @cached_property
    def _parsed(self) -> tuple[int, bytes]:
        return parse_prefix(self.prefix)

    @property
    def family(self) -> int:
        """4 or 6."""
        return self._parsed[0]

    @property
    def known(self) -> bytes:
        """The bytes that `prefix` fixes."""
        return self._parsed[1]

    @property
    def unknown(self) -> int:
        """Number of bytes to complete."""
        return ADDRESS_BYTES[self.family] - len(self.known)

    def prompt(self, window: int) -> list[int]:
        """Tokens up to the last known byte, leaving room in `window` for the unknown ones."""
        role = address_role(self.field, self.family)
        begun = [MEASUREMENT_START, role, *(BYTE0 + byte for byte in self.known)]
        return write_prompt(self.context, None, lambda clock: begun, window - self.unknown)


@dataclass(frozen=True)
class SampleQuery:
    """Which destinations are `target_rtt_ms` away from `src`, given `context`? Asks for `n` draws.

    An RTT matches the target within ± `tolerance` · target (0: only the target's own code). The target is
    at most `MOST_TARGET_MS`. The same `seed` gives the same draws. The address may also be passed as text and
    the context as any iterable. A private or special source is refused unless `allow_private`. Raises
    `QueryError`. Before 0.2.0 the target came first, which still works with a `DeprecationWarning`.
    """

    src: Address
    target_rtt_ms: float
    n: int = 10
    context: Sequence[Measurement] = ()
    tolerance: float = 0.05
    seed: int = 0
    allow_private: bool = False

    def __post_init__(self) -> None:
        target = parse_number("target_rtt_ms", self.target_rtt_ms)
        if not 0 < target <= MOST_TARGET_MS:
            raise QueryError(
                "target_rtt_ms",
                f"{cut(str(self.target_rtt_ms))}: expected more than 0 ms and at most {MOST_TARGET_MS:,} ms, the "
                "longest that RIPE Atlas waits for a reply",
            )
        share = parse_number("tolerance", self.tolerance)
        if not 0 <= share < 1:
            raise QueryError(
                "tolerance", f"{cut(str(self.tolerance))}: expected 0 or more and below 1"
            )
        _normalise(
            self,
            target_rtt_ms=target,
            src=parse_address("src", self.src),
            n=parse_whole("n", self.n, 1, MAX_BRANCHES),
            context=parse_context(self.context),
            tolerance=share,
            seed=parse_whole("seed", self.seed, 0, MAX_SEED),
        )
        check_public("src", self.src, self.allow_private)

    def prompt(self, window: int) -> list[int]:
        """Tokens up to the destination's role, leaving room in `window` for its bytes and the RTT."""
        asked = Measurement(self.src, self.src, None, None)
        role = address_role("dst", self.src.version)
        begun = [MEASUREMENT_START, *encode_field(asked, "src", None), role]
        answer = ADDRESS_BYTES[self.src.version] + RTT_TOKENS
        return write_prompt(self.context, self.src, lambda clock: begun, window - answer)


SampleQuery.__init__ = source_first(SampleQuery.__init__)  # type: ignore[method-assign]


def address_role(field: AddressField, family: int) -> int:
    """Role token of an address field."""
    roles = (SRC_IPV4, SRC_IPV6) if field == "src" else (DST_IPV4, DST_IPV6)
    return roles[family == 6]


def context_used(query: RttQuery | CompletionQuery | SampleQuery, window: int) -> int:
    """Number of measurements of the query's context that fit into the window beside the query."""
    return query.prompt(window).count(MEASUREMENT_START) - 1


def _normalise(query: Any, **fields: Any) -> None:
    """Replace fields of a frozen dataclass by their checked values, in its `__post_init__`."""
    for name, value in fields.items():
        object.__setattr__(query, name, value)
