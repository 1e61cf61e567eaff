"""Earlier measurements as text: JSON lines, or CSV with a header line.

    {"src": "193.0.2.1", "dst": "198.51.101.7", "rtt_ms": 12.3, "time": 1751000000}
    {"src": "193.0.2.1", "dst": "198.51.101.8", "failed": true}

    src,dst,rtt_ms,time
    193.0.2.1,198.51.101.7,12.3,1751000000
    193.0.2.1,198.51.101.8,failed,

A failed ping has `failed` set, or "failed" as its `rtt_ms`. `time` is in Unix seconds and may be left out.
CSV values may be quoted and have spaces around them; blank lines are skipped.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from model.inference.checks import cut, make_measurement
from stores.codec import Measurement
from stores.errors import InputError, QueryError

FIELDS = ("src", "dst", "rtt_ms", "failed", "time")
FAILED = "failed"


def read_context_file(path: Path) -> list[Measurement]:
    """Measurements of a file, in its order. Raises `InputError` naming file, line and field."""
    try:
        return parse_context_text(path.read_text(encoding="utf-8-sig"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error


def parse_context_text(text: str, where: str) -> list[Measurement]:
    """Measurements of JSON lines or CSV, told apart by the first character.

    The page reads pasted text by the same rules (`model/service/page/context.js`). Raises `InputError`
    naming `where`, the line counted from 1, and the field.
    """
    text = text.removeprefix("\ufeff")
    lines = _json_rows if text.lstrip().startswith("{") else _csv_rows
    return [_measurement(f"{where}:{line}", row) for line, row in lines(text, where)]


def _json_rows(text: str, where: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, content in enumerate(text.splitlines(), 1):
        if not content.strip():
            continue
        try:
            row = json.loads(content, parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            reason = "nested too deeply" if isinstance(error, RecursionError) else error
            raise InputError(
                f"{where}:{line}: expected one JSON object per line ({reason})"
            ) from None
        if not isinstance(row, dict):
            raise InputError(
                f"{where}:{line}: expected one JSON object per line, found {cut(content)}"
            )
        yield line, row


def _no_number(name: str) -> None:
    """Refuse NaN and Infinity: Python's reader takes them, but JSON does not have them."""
    raise ValueError(f"{name} is not JSON")


def _csv_rows(text: str, where: str) -> Iterator[tuple[int, dict[str, Any]]]:
    lines = [line.strip() for line in text.splitlines()]
    blank = next((at for at, line in enumerate(lines) if line), len(lines))  # before the header
    reader = csv.DictReader(lines[blank:], skipinitialspace=True, restval="")
    try:
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        if not {"src", "dst"} <= set(reader.fieldnames):
            raise InputError(
                f"{where}: expected JSON lines, or CSV whose first line is src,dst,rtt_ms,time"
            )
        for row in reader:
            line = blank + reader.line_num
            if None in row:
                raise InputError(f"{where}:{line}: has more values than the first line")
            yield line, {name: value.strip() or None for name, value in row.items()}
    except csv.Error as error:
        raise InputError(
            f"{where}:{blank + reader.line_num + 1}: cannot be read ({error})"
        ) from None


def _measurement(where: str, row: dict[str, Any]) -> Measurement:
    unknown = row.keys() - set(FIELDS)
    if unknown:
        raise InputError(
            f"{where}: unknown field {cut(min(unknown))}: expected {', '.join(FIELDS)}"
        )
    rtt_ms, failed = row.get("rtt_ms"), row.get("failed")
    if isinstance(rtt_ms, str) and rtt_ms.lower() == FAILED:
        rtt_ms, failed = None, True
    if isinstance(failed, str):
        failed = failed.lower() in ("true", "yes", "1")
    if bool(failed) == (rtt_ms is not None):
        raise InputError(f"{where}: rtt_ms: expected a number of ms, or failed, and not both")
    try:
        return make_measurement(row.get("src"), row.get("dst"), rtt_ms, row.get("time"))
    except QueryError as error:
        raise InputError(f"{where}: {error}") from None
