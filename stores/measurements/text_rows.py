"""Measurements as text: JSON lines, or CSV with a header line.

    {"src": "192.0.2.1", "dst": "198.51.100.7", "rtt_ms": 12.3, "time": 1751000000}
    {"src": "192.0.2.1", "dst": "198.51.100.8", "failed": true}

    src,dst,rtt_ms,time
    192.0.2.1,198.51.100.7,12.3,1751000000
    192.0.2.1,198.51.100.8,failed,

    src_addr,dst_addr,rtt,event_time
    192.0.2.1,198.51.100.7,12.3,2025-06-27T04:53:20Z
    192.0.2.1,198.51.100.8,-1,2025-06-27T04:53:21Z

A failed ping has `failed` set, or "failed" as its `rtt_ms`; in the names of the measurement table, a negative
`rtt`. `time` and `event_time` are in Unix seconds or ISO 8601 (in UTC where it names no zone); either may be left
out. CSV values may be quoted and have spaces around them; blank lines are skipped.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from stores.errors import InputError
from stores.measurements.given import FIELDS, TABLE_NAMES, Given, cut

FAILED = "failed"
LONGEST_LINE = 1 << 20
"""Characters of a line: an address, a number and a time have less than a hundred."""
_IGNORED = (
    "msm_id",
    "ip_version",
    "size",
    "packet_error_count",
    "prb_id",
    "source_file",
    "source_row",
)
"""The other columns of the measurement table."""


def lines_of(blocks: Iterable[str], name: str) -> Iterator[str]:
    """Lines, as `str.splitlines` ends them, of text in pieces. Raises `InputError` for one that does not end."""
    rest, number = "", 0
    for block in blocks:
        whole = (rest + block).splitlines(keepends=True)
        rest = ""
        if whole and (whole[-1].endswith("\r") or whole[-1].splitlines() == whole[-1:]):
            rest = whole.pop()  # goes on in the next block, if only with a line feed
        for line in whole:
            number += 1
            yield line
        if len(rest) > LONGEST_LINE:
            raise InputError(
                f"{name}:{number + 1}: a line of more than {LONGEST_LINE:,} characters, "
                "expected CSV or JSON lines of measurements"
            )
    yield from rest.splitlines()


def text_rows(lines: Iterable[str], name: str, others: bool = False) -> Iterator[Given]:
    """Rows of JSON lines or CSV, told apart by the first character that is no space.

    What is wrong with a single row is its `problem`; a field of another name is, unless `others` are allowed.
    Raises `InputError` naming `name` where the whole cannot be read: the header, or a quoted value without end.
    """
    remaining = iter(lines)
    blank = 0
    for first in remaining:
        if first.strip():
            rows = _json_rows if first.lstrip().startswith("{") else _csv_rows
            yield from rows(chain([first], remaining), name, blank, others)
            return
        blank += 1
    yield from _csv_rows([], name, blank, others)


def _json_rows(lines: Iterable[str], name: str, blank: int, others: bool) -> Iterator[Given]:
    for number, content in enumerate(lines, blank + 1):
        if not content.strip():
            continue
        row, reason = None, f"found {cut(content.strip())}"
        try:
            row = json.loads(content, parse_constant=_no_number)
        except RecursionError:
            reason = "nested too deeply"
        except ValueError as error:
            reason = str(error)
        if isinstance(row, dict):
            yield _given(number, row, others)
        else:
            yield Given(number, {}, f"expected one JSON object per line ({reason})")


def _no_number(name: str) -> None:
    """Refuse NaN and Infinity: Python's reader takes them, but JSON does not have them."""
    raise ValueError(f"{name} is not JSON")


def _csv_rows(lines: Iterable[str], name: str, blank: int, others: bool) -> Iterator[Given]:
    reader = csv.DictReader((line.strip() for line in lines), skipinitialspace=True, restval="")
    try:
        reader.fieldnames = names = [column.strip() for column in reader.fieldnames or ()]
        if not ({"src", "dst"} <= set(names) or {"src_addr", "dst_addr"} <= set(names)):
            raise InputError(
                f"{name}: expected JSON lines, or CSV whose first line is src,dst,rtt_ms,time, "
                "or src_addr,dst_addr,rtt,event_time"
            )
        for row in reader:
            number = blank + reader.line_num
            if None in row:
                yield Given(number, {}, "has more values than the first line")
            else:
                values = {name: value.strip() or None for name, value in row.items()}
                yield _given(number, values, others)
    except csv.Error as error:
        raise InputError(
            f"{name}:{blank + reader.line_num + 1}: cannot be read ({error})"
        ) from None


def _given(number: int, row: dict[str, Any], others: bool) -> Given:
    """The row in the names of `FIELDS`."""
    of_table = "src_addr" in row
    known = (*TABLE_NAMES, *_IGNORED) if of_table else FIELDS
    unknown = row.keys() - set(known)
    if unknown and not others:
        return Given(number, {}, f"unknown field {cut(min(unknown))}: expected {', '.join(known)}")
    if not of_table:
        rtt_ms = row.get("rtt_ms")
        if isinstance(rtt_ms, str) and rtt_ms.lower() == FAILED:
            row = {**row, "rtt_ms": None, "failed": True}
        failed = row.get("failed")
        if isinstance(failed, str):
            row = {**row, "failed": failed.lower() in ("true", "yes", "1")}
        return Given(number, row)
    values = {short: row.get(long) for long, short in TABLE_NAMES.items()}
    if _is_negative(values["rtt_ms"]):
        values |= {"rtt_ms": None, "failed": True}
    return Given(number, values)


def _is_negative(rtt: Any) -> bool:
    try:
        return not isinstance(rtt, bool) and float(rtt) < 0
    except (TypeError, ValueError, OverflowError):
        return False
