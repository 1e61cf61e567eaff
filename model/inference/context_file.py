"""Earlier measurements that the user brings: any file that `stores.measurements.reader` reads.

In text, whatever is wrong is an error, for the user wrote it; of RIPE Atlas results and tables, rows that `prepare`
would reject are left out and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from model.inference.checks import make_measurement
from stores.codec import Measurement
from stores.errors import InputError, QueryError
from stores.measurements.given import Given
from stores.measurements.reader import Rows, open_rows
from stores.measurements.text_rows import lines_of, text_rows
from stores.terminal import Terminal


@dataclass
class Earlier:
    """The measurements of a file, oldest first, and how many of its rows are not among them, by reason."""

    measurements: list[Measurement] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def note(self) -> str:
        """What was left out, in words; empty if nothing was."""
        if not self.left_out:
            return ""
        total = len(self.measurements) + self.left_out.total()
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in self.left_out.most_common())
        return f"{self.left_out.total():,} of {total:,} rows left out: {reasons}"


def context_of(path: Path | None) -> Sequence[Measurement]:
    """The measurements of the file that a command was given, if any. Says on standard error what is left out."""
    if path is None:
        return ()
    earlier = read_earlier(path)
    if note := earlier.note():
        Terminal(stderr=True).print(f"{path}: {note}", soft_wrap=True)
    return earlier.measurements


def read_context_file(path: Path) -> list[Measurement]:
    """Measurements of a file, oldest first. Raises `InputError` naming file, line and field."""
    return read_earlier(path).measurements


def read_earlier(path: Path) -> Earlier:
    """Measurements of a file. Raises `InputError` naming file, line and field, or when no row can be used."""
    with open_rows(str(path)) as rows:
        return take_rows(rows, str(path))


def parse_context_text(text: str, where: str) -> list[Measurement]:
    """Measurements of JSON lines or CSV, told apart by the first character.

    The page reads pasted text by the same rules (`model/service/page/context.js`). Raises `InputError`
    naming `where`, the line counted from 1, and the field.
    """
    lines = lines_of([text.removeprefix("\ufeff")], where)
    return take_rows(Rows("text", text_rows(lines, where)), where).measurements


def take_rows(rows: Rows, where: str) -> Earlier:
    """Measurements of rows that `where` has: text in its order, anything else by time, as `prepare` sorts it."""
    earlier = Earlier()
    earlier.measurements = list(measurements_in(rows, where, earlier.left_out))
    if rows.kind != "text":
        if not earlier.measurements:
            raise nothing_usable(where, earlier.left_out)
        earlier.measurements.sort(key=lambda measurement: measurement.time or 0)
    return earlier


def measurements_in(rows: Rows, where: str, left_out: Counter[str]) -> Iterator[Measurement]:
    """The measurements of rows in their order; those of results and tables that are none are counted.

    Raises `InputError` naming `where`, line and field for text that is wrong.
    """
    for row in rows.rows:
        reason, problem = row.problem, row.problem
        if reason is None:
            try:
                measurement = measurement_of(row)
            except QueryError as error:
                reason, problem = f"bad_{error.field.rstrip(':')}", str(error)
            else:
                yield measurement
                continue
        if rows.kind == "text":
            raise InputError(f"{where}:{row.row}: {problem}")
        left_out[reason] += 1


def nothing_usable(where: str, left_out: Counter[str]) -> InputError:
    """The error for results or a table without any measurement."""
    reasons = ", ".join(f"{name} {count:,}" for name, count in left_out.most_common(3))
    return InputError(f"{where}: no usable measurement: {reasons or 'no rows at all'}")


def measurement_of(row: Given) -> Measurement:
    """The measurement in the values of a row. Raises `QueryError` naming the field."""
    values = row.values
    rtt_ms = values.get("rtt_ms")
    if bool(values.get("failed")) == (rtt_ms is not None):
        raise QueryError(
            "rtt_ms:",
            "expected a number of ms, or `failed` for a ping without answer, and not both",
        )
    return make_measurement(values.get("src"), values.get("dst"), rtt_ms, values.get("time"))
