"""Any file of measurements, row by row: RIPE Atlas results, tables, JSON lines and CSV, also compressed.

What `pipeline` takes is read by its rules: a result without a public source, or of another kind than ping, is a row
with the reason as its problem.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, BinaryIO, Literal

from stores.errors import InputError
from stores.measurements.decompress import compression_of, decompressed
from stores.measurements.given import Given
from stores.measurements.regular_file import open_regular
from stores.measurements.text_rows import lines_of, text_rows

_PARQUET = b"PAR1"
_BEFORE_JSON = b"\xef\xbb\xbf\x1e \t\r\n"  # byte order mark, record separator, space
_RESULT_KEYS = (re.compile(rb'"timestamp"\s*:'), re.compile(rb'"(prb|msm)_id"\s*:'))
"""Both are in every result, and never in a row that is none."""


@dataclass(frozen=True)
class Rows:
    """The rows of a file."""

    kind: Literal["results", "table", "text"]
    rows: Iterator[Given]


@contextmanager
def open_rows(path: str, name: str = "", others: bool = False) -> Iterator[Rows]:
    """The rows of a file, as `read_rows` gives them; errors call it `name`, or by its path."""
    with open_regular(path) as descriptor, open(descriptor, "rb", closefd=False) as file:
        yield read_rows(file, name or path, others=others)


def read_rows(file: BinaryIO, name: str, most: int | None = None, others: bool = False) -> Rows:
    """The rows of a file that is open in binary and can be sought in; `name` is what errors call it. Text may have
    `others` than the known fields, which are left out.

    Raises `InputError`, here or while the rows are read; also when decompressed text has more than `most` bytes.
    """
    start = file.read(4)
    file.seek(0)
    if start == _PARQUET:
        return _of_parquet(file, name)
    blocks = _text(file, compression_of(start), name, most)
    first = next(blocks, b"")
    text = first.lstrip(_BEFORE_JSON)
    if text[:1] == b"[" or (text[:1] == b"{" and all(key.search(text) for key in _RESULT_KEYS)):
        return Rows("results", _results_in_json(chain([first], blocks)))
    decoded = _decoded(chain([first], blocks), name)
    return Rows("text", text_rows(lines_of(decoded, name), name, others))


def _of_parquet(file: BinaryIO, name: str) -> Rows:
    from stores.measurements.bigquery import is_bigquery, read_results
    from stores.measurements.parquet_file import open_parquet, reading
    from stores.measurements.table_rows import table_rows

    with reading(name, name), open_parquet(file) as opened:
        of_results = is_bigquery(opened.schema_arrow.names)
    file.seek(0)
    if not of_results:
        return Rows("table", table_rows(file, name, name))
    return Rows("results", _results_in_table(read_results(file, name, name)))


def _text(file: BinaryIO, compression: str | None, name: str, most: int | None) -> Iterator[bytes]:
    """The text in blocks, decompressed."""
    size = 0
    for block in decompressed(file, compression, name):
        size += len(block)
        if most is not None and size > most:
            raise InputError(f"{name}: more than {most:,} bytes of text: take a part of it")
        yield block


def _decoded(blocks: Iterator[bytes], name: str) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    try:
        for block in blocks:
            yield decoder.decode(block)
        yield decoder.decode(b"", True)
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: cannot be read ({error})") from error


def _results_in_json(blocks: Iterator[bytes]) -> Iterator[Given]:
    from stores.measurements.atlas_json import find_results
    from stores.measurements.atlas_result import make_parser
    from stores.measurements.json_scanner import RESULT, SPAN_REASONS

    parse = make_parser()
    for data, spans in find_results(blocks):
        for start, end, kind, number in spans:
            if kind != RESULT:
                yield Given(number, {}, SPAN_REASONS[kind])
            else:
                yield _given(number, parse(data[start:end]) if start >= 0 else "too_long")


def _results_in_table(batches: Iterator[Any]) -> Iterator[Given]:
    from stores.measurements.atlas_result import make_rule

    rule, number = make_rule(), 0
    for batch in batches:
        for result in batch.results:
            number += 1
            yield _given(number, result if isinstance(result, str) else rule(result))


def _given(number: int, outcome: Any) -> Given:
    """What a result's row, or the reason why it has none, gives."""
    if isinstance(outcome, str):
        return Given(number, {}, outcome)
    _, timestamp, src, dst, _, rtt, _, _, _ = outcome
    failed = rtt < 0
    values = {"src": src, "dst": dst, "rtt_ms": None if failed else rtt, "failed": failed}
    return Given(number, {**values, "time": timestamp})


def rows_of_bytes(data: bytes, name: str, most: int) -> Rows:
    """`read_rows` of a file in memory."""
    return read_rows(io.BytesIO(data), name, most)
