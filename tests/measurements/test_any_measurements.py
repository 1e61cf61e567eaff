"""Every form of a file of measurements says the same."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import tracemalloc
from collections import Counter
from ipaddress import ip_address
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.inference.context_file import read_context_file, read_earlier
from stores.codec import Measurement
from stores.errors import InputError
from stores.measurements.reader import open_rows, read_rows
from stores.measurements.text_rows import LONGEST_LINE, lines_of
from tests.measurements.measurement_files import FORMS, PINGS, results, write_form
from tests.test_cli import BLOCKING

ROOT = Path(__file__).parents[2]
EXPECTED = [Measurement(ip_address(s), ip_address(d), rtt, time) for s, d, rtt, time in PINGS]


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_measurements(name: str, tmp_path: Path) -> None:
    earlier = read_earlier(write_form(tmp_path, name))
    assert earlier.measurements == EXPECTED
    of_results = name.startswith(("results", "bigquery"))
    assert earlier.left_out == Counter({"no_public_source": 1} if of_results else {})
    assert earlier.note() == ("1 of 6 rows left out: no_public_source 1" if of_results else "")


def test_results_are_read_without_numba_too(tmp_path: Path) -> None:
    """Asking a model needs no compiler; the scanner is only slower then."""
    path = write_form(tmp_path, "results.ndjson")
    lines = "from stores.measurements.reader import open_rows\n" + (
        "with open_rows(sys.argv[1]) as found:\n    print([tuple(row) for row in found.rows])"
    )
    program = BLOCKING.replace("import cli\ncli.main()", lines)
    assert program != BLOCKING
    command = [sys.executable, "-c", program, "numba", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    with open_rows(str(path)) as found:
        assert done.stdout.strip() == str([tuple(row) for row in found.rows]), done.stderr


def test_text_alone_is_read_without_pyarrow(tmp_path: Path) -> None:
    path = write_form(tmp_path, "table.csv.gz")
    program = BLOCKING.replace(
        "import cli\ncli.main()",
        "from model.inference.context_file import read_context_file\n"
        "print(len(read_context_file(sys.argv[1])))",
    )
    command = [sys.executable, "-c", program, "pyarrow,numba,polars", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "5\n", done.stderr


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
def test_lines_do_not_depend_on_where_blocks_end(size: int) -> None:
    text = "a\r\nb\n\nc\r\rd\u2028e\x1df\n g"
    blocks = [text[at : at + size] for at in range(0, len(text), size)]
    assert [line.rstrip("\r\n\u2028\x1d") for line in lines_of(blocks, "x")] == text.splitlines()


def test_a_line_without_end_is_refused_before_it_is_held() -> None:
    blocks = ("x" * 65_536 for _ in range(1 << 14))  # 1 GB
    tracemalloc.start()
    with pytest.raises(InputError, match=r"^x:1: a line of more than 1,048,576 characters"):
        list(lines_of(blocks, "x"))
    assert tracemalloc.get_traced_memory()[1] < 20 * LONGEST_LINE
    tracemalloc.stop()


def test_a_bomb_is_refused_at_its_limit() -> None:
    packed = gzip.compress(b"src,dst,rtt_ms\n" + b"\n" * (64 << 20))
    with pytest.raises(InputError, match=r"^x: more than 1,048,576 bytes of text"):
        list(read_rows(io.BytesIO(packed), "x", 1 << 20).rows)


def test_what_is_wrong_with_a_table_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"src": ["8.8.8.8"], "rtt_ms": [1.0]}), path)
    with pytest.raises(InputError, match=r"a.parquet: column dst is missing: expected src, dst"):
        read_context_file(path)
    pq.write_table(pa.table({"src_addr": [1], "dst_addr": ["8.8.8.8"]}), path)
    with pytest.raises(InputError, match=r"column src_addr has type int64, expected text"):
        read_context_file(path)
    pq.write_table(pa.table({"src": ["x", "8.8.8.8"], "dst": ["9.9.9.9"] * 2}), path)
    with pytest.raises(InputError, match=r"no usable measurement: bad_rtt_ms 2"):
        read_context_file(path)
    path.write_bytes(b"PAR1 and nothing more")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        read_context_file(path)


def test_text_that_is_not_utf_8_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("src,dst,rtt_ms\n8.8.8.8,9.9.9.9,1\nZürich,9.9.9.9,2\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"a.csv: cannot be read \('utf-8' codec"):
        read_context_file(path)


def test_a_broken_line_among_results_is_left_out_and_counted(tmp_path: Path) -> None:
    path = write_form(tmp_path, "results.ndjson")
    first, rest = path.read_bytes().split(b"\n", 1)
    path.write_bytes(first + b'\n{"broken": \n' + rest)
    earlier = read_earlier(path)
    assert earlier.measurements == EXPECTED
    assert earlier.left_out["bad_json"] == 1


@pytest.mark.parametrize(
    "kind", [pa.dictionary(pa.int32(), pa.string()), pa.string_view(), pa.large_string()], ids=str
)
def test_addresses_of_every_type_of_text_are_read(kind: pa.DataType, tmp_path: Path) -> None:
    table = pq.read_table(write_form(tmp_path, "short.parquet"))
    for name in ("src", "dst"):
        at = table.schema.get_field_index(name)
        table = table.set_column(at, name, table.column(name).combine_chunks().cast(kind))
    pq.write_table(table, tmp_path / "a.parquet")
    assert pq.read_schema(tmp_path / "a.parquet").field("src").type == kind
    assert read_earlier(tmp_path / "a.parquet").measurements == EXPECTED


def test_results_of_other_kinds_alone_are_an_error_that_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{**each, "type": "dns"} for each in results()]))
    with pytest.raises(InputError, match=r"a.json: no usable measurement: other_type 6$"):
        read_context_file(path)


@pytest.mark.parametrize("name", ["results.ndjson.bz2", "table.parquet"])
def test_a_pipe_is_refused_and_a_cut_off_file_named(name: str, tmp_path: Path) -> None:
    path = write_form(tmp_path, name)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=name):
        read_context_file(path)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(InputError, match="is a pipe, expected a regular file"):
        read_context_file(tmp_path / "fifo")


@pytest.mark.skipif(
    "PINGLM_REAL_DATA" not in os.environ, reason="PINGLM_REAL_DATA names no folder of real results"
)
def test_real_results_are_those_that_ingest_takes() -> None:
    """Of every file in a real folder: as many rows as the ledger of `ingest` says, before duplicates."""
    folder = Path(os.environ["PINGLM_REAL_DATA"]) / "cmb-atlas-results"
    usable = 0
    problems: Counter[str] = Counter()
    for path in sorted(folder.rglob("*.gz")):
        with open_rows(str(path)) as found:
            assert found.kind == "results"
            for row in found.rows:
                usable += row.problem is None
                problems[row.problem or ""] += row.problem is not None
    assert (usable, +problems) == (51_634, Counter({"no_public_source": 2}))
