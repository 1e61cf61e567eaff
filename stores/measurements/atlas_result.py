"""Turns one RIPE Atlas result (JSON text) into one row of the measurement table, or a reason to reject it.

Results of firmware 0 to 5120 are read in the same way: every field may be missing, null, or a number written
as a string; the destination may be in `dst_addr`, in `addr`, or in a name that is an address; the source in
`src_addr` or `srcaddr`.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal

import msgspec

REASONS = {
    "bad_json": "text that is not JSON (a line of NDJSON, or an element of other JSON)",
    "truncated": "the file ends inside this value",
    "too_long": "an object of more than 16 MiB that looks like a result",
    "not_a_result": "an object without msm_id, prb_id and timestamp where a result was expected",
    "missing_type": "no type",
    "other_type": "a traceroute, DNS, HTTP, ... result; skipped, and its text is not kept",
    "missing_msm_id": "no msm_id, or it is not an integer",
    "missing_prb_id": "no prb_id, or it is not an integer",
    "missing_timestamp": "no timestamp",
    "bad_timestamp": "timestamp is not an integer from 0 to the end of 2099 (Unix seconds)",
    "no_destination": "no destination address, for example after a failed DNS lookup",
    "no_public_source": "neither `from` nor `src_addr` is a global address",
    "family_mismatch": "`af`, source and destination are not of the same address family",
    "no_rtt": "neither packets nor summary, so it is unknown whether it was answered",
    "bad_rtt": "an RTT that is not a finite number of 0 or more",
    "bad_result": "`result` is not a list of packets, or has thousands",
    "duplicate": "same msm_id, prb_id and timestamp as an earlier result in these inputs",
}
"""Why a record is not in the table."""

Statistic = Literal["mean", "min", "median"]
Source = Literal["from", "src_addr"]
Row = tuple[int, int, str, str, int, float, int, int, int]
"""msm_id, timestamp (Unix seconds), src_addr, dst_addr, ip_version, rtt, size, packet_error_count,
prb_id"""

_END_OF_TIME = 4_102_444_800  # 2100-01-01: catches milliseconds
_MAX_INTEGER = (1 << 63) - 1
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?").fullmatch


class Packet(msgspec.Struct, gc=False):
    """An entry of `result`: answered if it has an rtt; {"x": "*"} and {"error": ...} are lost packets."""

    rtt: Any = None
    dup: Any = None


class Result(msgspec.Struct, gc=False):
    """A result as it is decoded, every field still in doubt."""

    type: Any = None
    msm_id: Any = None
    prb_id: Any = None
    timestamp: Any = None
    from_: Any = msgspec.field(default=None, name="from")
    src_addr: Any = None
    srcaddr: Any = None
    dst_addr: Any = None
    dst_name: Any = None
    addr: Any = None
    name: Any = None
    af: Any = None
    size: Any = None
    sent: Any = None
    rcvd: Any = None
    avg: Any = None
    min: Any = None
    result: list[Packet] | None = None


def make_parser(
    source: Source = "from", allow_private: bool = False, statistic: Statistic = "mean"
) -> Callable[[memoryview | bytes], Row | str]:
    """Make a function from the JSON text of one result to its row, or to a key of `REASONS`, by the rules of
    `make_rule`. Takes about 3 µs per result.
    """
    decode = msgspec.json.Decoder(Result).decode
    rule = make_rule(source, allow_private, statistic)

    def parse(text: memoryview | bytes) -> Row | str:
        try:
            result = decode(text)
        except msgspec.ValidationError:
            return _reason_against_shape(text)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return "bad_json"
        return rule(result)

    return parse


def make_rule(
    source: Source = "from", allow_private: bool = False, statistic: Statistic = "mean"
) -> Callable[[Result], Row | str]:
    """Make a function from a decoded result to its row, or to a key of `REASONS`.

    Source: the first of `from` and `src_addr` (in the other order with `source="src_addr"`) that is a
    global address of the destination's family; with `allow_private`, any address of that family.
    RTT: the statistic of the answered packets in ms, without late duplicates; -1.0 if none was
    answered. Firmware 0 and 1 does not list packets: its `avg` is used instead (`min` for "min"), even
    for "median". `packet_error_count` is `sent` - `rcvd`; where one is missing, it is counted from the
    packets. A missing `size` counts as 0.
    """
    summarize = _STATISTICS[statistic]
    summary = "min" if statistic == "min" else "avg"
    from_first = source == "from"

    def rule(result: Result) -> Row | str:
        if result.type != "ping":
            return "missing_type" if result.type is None else "other_type"
        msm_id, prb_id = _integer(result.msm_id), _integer(result.prb_id)
        if msm_id is None:
            return "missing_msm_id"
        if prb_id is None:
            return "missing_prb_id"
        timestamp = _integer(result.timestamp)
        if timestamp is None or timestamp >= _END_OF_TIME:
            return "missing_timestamp" if result.timestamp is None else "bad_timestamp"

        target = _address(result.dst_addr) or _first_address(
            result.addr, result.dst_name, result.name
        )
        if target is None:
            return "no_destination"
        family = target[0]
        if result.af is not None and _integer(result.af) != family:
            return "family_mismatch"
        reported = _address(result.from_)
        own = _address(result.src_addr) or _address(result.srcaddr)
        of_other_family = False
        for source_address in (reported, own) if from_first else (own, reported):
            if source_address is not None and (source_address[1] or allow_private):
                if source_address[0] == family:
                    break
                of_other_family = True
        else:
            return "family_mismatch" if of_other_family else "no_public_source"

        sent, received = _integer(result.sent), _integer(result.rcvd)
        rtt: float | str
        if result.result is None:
            rtt, packets, answered = _from_summary(getattr(result, summary), received), 0, 0
        else:
            rtts = []
            packets = 0
            for packet in result.result:
                if not packet.dup:
                    packets += 1
                    if packet.rtt is not None:
                        rtts.append(_number(packet.rtt))
            answered = len(rtts)
            rtt = -1.0
            if rtts:
                # the sum is NaN or infinite if one of them is
                rtt = summarize(rtts) if min(rtts) >= 0 and sum(rtts) < math.inf else "bad_rtt"
        if isinstance(rtt, str):
            return rtt
        lost = (packets if sent is None else sent) - (answered if received is None else received)
        return (
            msm_id,
            timestamp,
            source_address[2],
            target[2],
            family,
            rtt,
            _integer(result.size) or 0,
            max(0, lost),
            prb_id,
        )

    return rule


def _median(values: list[float]) -> float:
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


_STATISTICS: dict[str, Callable[[list[float]], float]] = {
    "mean": lambda values: sum(values) / len(values),
    "min": min,
    "median": _median,
}


def _reason_against_shape(text: memoryview | bytes) -> str:
    """Why some JSON does not fit `Result`; results of other types keep other things in `result`."""
    try:
        kind = msgspec.json.decode(text, type=dict).get("type")
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "bad_json"
    if kind == "ping":
        return "bad_result"
    return "missing_type" if kind is None else "other_type"


def _from_summary(average: Any, received: int | None) -> float | str:
    """RTT of a result without packets, or the reason why it has none; -1 means that all
    packets were lost."""
    if received == 0:
        return -1.0
    if average is None:
        return "no_rtt"
    rtt = _number(average)
    if rtt == -1:
        return -1.0
    return rtt if 0 <= rtt < math.inf else "bad_rtt"


def _integer(value: Any) -> int | None:
    """A JSON number or digits as an integer from 0 to 2**63 - 1, else None."""
    if type(value) is not int:
        if isinstance(value, str) and value.isascii() and value.isdigit():
            value = int(value.lstrip("0")[:20] or "0")
        elif isinstance(value, float) and value.is_integer():
            value = int(value)
        else:
            return None
    return value if 0 <= value <= _MAX_INTEGER else None


def _number(value: Any) -> float:
    """A JSON number, or a string that holds one, as float; NaN for anything else."""
    if type(value) is float:
        return value
    if isinstance(value, str) and not _NUMBER(value.strip()):
        return math.nan  # float() takes more: "1_0", "١"
    if isinstance(value, (int, str)) and not isinstance(value, bool):
        try:
            return float(value)
        except (ValueError, OverflowError):
            pass
    return math.nan


def _first_address(*candidates: Any) -> tuple[int, bool, str] | None:
    return next((address for value in candidates if (address := _address(value))), None)


def _address(value: Any) -> tuple[int, bool, str] | None:
    return _parse_address(value) if value and isinstance(value, str) else None


@lru_cache(maxsize=1 << 18)
def _parse_address(text: str) -> tuple[int, bool, str] | None:
    """(family, whether it is global, canonical text), or None for what is not an address."""
    try:
        address = ipaddress.ip_address(text.strip())
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv4Address):
        mapped = False
    elif address.scope_id is not None:
        return None  # has a meaning on one machine only
    else:
        mapped = address.ipv4_mapped is not None  # counts as global from Python 3.13 on
    public = address.is_global and not address.is_multicast and not mapped
    return address.version, public, str(address)
