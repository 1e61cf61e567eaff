"""Tables that hold what the canonical form cannot: such rows are rejected, and never become others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.measurements import INGESTED_SCHEMA, SCHEMA
from tests.pipeline.tables import START, as_rows, measurement_table, with_column, write_parquet
from tests.pipeline.tables import read_split as read_shards

ROOT = Path(__file__).parents[3]
TICKS = {"ms": 10**3, "us": 10**6, "ns": 10**9}
YEAR_10000 = 253_402_300_800


def rejected(out: Path) -> dict[int, str]:
    """Reason by row number."""
    found = pl.read_parquet(out / "rejected/*.parquet")
    return dict(found.select("row", "reason").iter_rows())


def accepted(out: Path) -> pa.Table:
    return pa.concat_tables(
        [table for side in ("train", "test") for table in read_shards(out, side)]
    )


@pytest.mark.parametrize("dictionary", [False, True])
@pytest.mark.parametrize("unit", TICKS)
def test_a_time_that_does_not_fit_is_rejected_and_not_wrapped(
    unit: str, dictionary: bool, tmp_path: Path, run_split
) -> None:
    ticks = TICKS[unit]
    times = [
        START * ticks, 2**62, 2**61 + START * ticks, 18_448_444_073_709_552, -(2**62), 10**18,
        2**63 - 1, -(2**63) + 1, -1, 0, YEAR_10000 * ticks - 1, YEAR_10000 * ticks, None,
    ]  # fmt: skip
    times = [t for t in times if t is None or -(2**63) <= t < 2**63]
    column: pa.Array = pa.array(times, pa.int64()).cast(pa.timestamp(unit))
    if dictionary:
        column = column.dictionary_encode()
    table = with_column(measurement_table(len(times)), "event_time", column)
    run_split([write_parquet(table, tmp_path / "a.parquet")], tmp_path / "out")
    reasons = {}
    for row, time in enumerate(times, 1):
        if time is None:
            reasons[row] = "null_event_time"
        elif time < 0:
            reasons[row] = "time_before_1970"
        elif time >= YEAR_10000 * ticks:
            reasons[row] = "time_after_9999"
    assert rejected(tmp_path / "out") == reasons
    kept = [t for row, t in enumerate(times, 1) if row not in reasons and t is not None]
    found = accepted(tmp_path / "out").column("event_time").cast(pa.int64()).to_pylist()
    assert sorted(found) == sorted(t * 10**6 // ticks for t in kept)


def test_times_of_96_bits_do_not_wrap_either(tmp_path: Path, run_split) -> None:
    """What Spark writes by default."""
    times = [START * 10**6 + 123_456, 32_503_680_000 * 10**6, YEAR_10000 * 10**6, -1]
    table = with_column(
        measurement_table(4), "event_time", pa.array(times).cast(pa.timestamp("us"))
    )
    path = tmp_path / "a.parquet"
    write_parquet(table, path, use_deprecated_int96_timestamps=True)
    run_split([path], tmp_path / "out")
    assert rejected(tmp_path / "out") == {3: "time_after_9999", 4: "time_before_1970"}
    found = accepted(tmp_path / "out").column("event_time").cast(pa.int64()).to_pylist()
    assert sorted(found) == times[:2]


@pytest.mark.parametrize("name", ["msm_id", "size", "packet_error_count", "prb_id"])
def test_an_integer_that_does_not_fit_is_rejected(name: str, tmp_path: Path, run_split) -> None:
    table = measurement_table(4).append_column("prb_id", pa.array([1, 2, 3, 4]))
    table = with_column(table, name, [5, 2**64 - 1, 2**63, 2**63 - 2], pa.uint64())
    run_split([write_parquet(table, tmp_path / "a.parquet")], tmp_path / "out")
    assert rejected(tmp_path / "out") == dict.fromkeys((2, 3), "integer_too_large")
    assert sorted(accepted(tmp_path / "out").column(name).to_pylist()) == [5, 2**63 - 2]


def test_rows_that_do_not_say_which_file_they_came_from_are_those_of_this_one(
    tmp_path: Path, run_split
) -> None:
    """An ingested part and a table without its two last columns, concatenated."""
    plain = measurement_table(30)
    names = pa.array(["a.json", None, "b.json"]).dictionary_encode().take(np.arange(30) % 3)
    ingested = pa.table(
        [*plain.columns, pa.array([7] * 30), names, pa.array([None, *range(2, 31)], pa.int64())],
        schema=INGESTED_SCHEMA,
    )
    bad = with_column(ingested, "src_addr", ["?"] * 30)
    whole = pa.concat_tables(
        [ingested, bad, measurement_table(20, seed=1)], promote_options="default"
    )
    record = run_split([write_parquet(whole, tmp_path / "mixed.parquet")], tmp_path / "out")
    assert {file.file: file.rows for file in record.files} == {"mixed.parquet": 80}
    assert rejected(tmp_path / "out") == dict.fromkeys(range(31, 61), "bad_src_addr")
    assert as_rows(accepted(tmp_path / "out")) == as_rows(
        pa.concat_tables([plain, measurement_table(20, seed=1)])
    )


def test_a_table_whose_files_are_all_unknown_is_accepted(tmp_path: Path, run_split) -> None:
    table = measurement_table(10)
    for field in INGESTED_SCHEMA:
        if field.name not in SCHEMA.names:
            table = table.append_column(field, pa.nulls(10, field.type))
    record = run_split([write_parquet(table, tmp_path / "a.parquet")], tmp_path / "out")
    assert record.totals.train + record.totals.test == 10


# --- Text that is too long --------------------------------------------------------------------------


def peak(path: Path, out: Path) -> tuple[int, str]:
    """Peak memory in bytes of `split`, and the last line of its errors."""
    command = ["split", "--input", path, "--out", out, "--workers", 1]
    program = (
        "import resource, subprocess, sys;"
        "found = subprocess.run(sys.argv[1:], capture_output=True, text=True);"
        "peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss;"
        "print(peak * 1024, found.stderr.strip().rpartition('\\n')[2])"
    )
    whole = [sys.executable, "-c", program, sys.executable, ROOT / "cli.py", *command]
    found = subprocess.run([*map(str, whole)], capture_output=True, text=True, check=True)
    size, _, error = found.stdout.strip().partition(" ")
    return int(size), error


@pytest.mark.parametrize("column", ["src_addr", "dst_addr"])
def test_long_strings_are_refused_before_they_are_read(column: str, tmp_path: Path) -> None:
    """A few KB that would be 400 MB, and several times that while they are read."""
    rows = 200
    table = measurement_table(rows)
    short = write_parquet(table, tmp_path / "short.parquet")
    long = [f"{i:04}" + "x" * 2_000_000 for i in range(20)]
    path = tmp_path / "long.parquet"
    with pq.ParquetWriter(path, SCHEMA, compression="zstd", use_dictionary=False) as writer:
        for start in range(0, rows, 20):
            part = table.slice(start, 20)
            writer.write_table(with_column(part, column, long))
    assert path.stat().st_size < 1 << 20
    expected, _ = peak(short, tmp_path / "o1")
    found, error = peak(path, tmp_path / "o2")
    assert f"long.parquet: column {column} has " in error
    assert found < expected + (64 << 20)


def test_a_long_string_that_all_rows_share_is_not_repeated_in_their_rejects(
    tmp_path: Path, run_split
) -> None:
    table = measurement_table(5000)
    src = table["src_addr"].combine_chunks().dictionary_encode()
    texts = pa.array([*src.dictionary.to_pylist(), "x" * 600_000])
    codes = [len(texts) - 1 if i % 2 else code for i, code in enumerate(src.indices.to_pylist())]
    names = pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), texts)
    table = with_column(table, "src_addr", names)
    run_split([write_parquet(table, tmp_path / "a.parquet")], tmp_path / "out")
    found = pl.read_parquet(tmp_path / "out/rejected/*.parquet")
    assert set(found["reason"]) == {"bad_src_addr"}
    assert len(found) == 2500
    assert found["record"].str.len_bytes().max() < 1000
    assert found["record"].str.contains("x" * 256, literal=True).all()


def test_names_in_place_of_addresses_are_rejected_row_by_row(tmp_path: Path, run_split) -> None:
    table = measurement_table(100)
    names = [
        f"{i}.{'y' * 200}.example" if i % 2 else a
        for i, a in enumerate(table["dst_addr"].to_pylist())
    ]
    path = write_parquet(with_column(table, "dst_addr", names), tmp_path / "a.parquet")
    record = run_split([path], tmp_path / "out")
    assert record.totals.rejected == {"bad_dst_addr": 50}


@pytest.mark.parametrize("name", ["src_addr", "source_file"])
def test_text_that_is_not_utf_8_is_rejected_or_unknown(
    name: str, tmp_path: Path, run_split
) -> None:
    table = measurement_table(4)
    for field in INGESTED_SCHEMA:
        if field.name not in SCHEMA.names:
            table = table.append_column(field.name, pa.nulls(4, field.type))
    values = [text and text.encode() for text in table[name].to_pylist()]
    values[1] = b"\xff8.8.8.8"
    binary = pa.array(values, pa.binary())
    table = with_column(table, name, pa.Array.from_buffers(pa.string(), 4, binary.buffers()))
    record = run_split([write_parquet(table, tmp_path / "a.parquet")], tmp_path / "out")
    assert record.totals.rejected == ({"bad_src_addr": 1} if name == "src_addr" else {})
    if name == "src_addr":
        [text] = pl.read_parquet(tmp_path / "out/rejected/*.parquet")["record"]
        assert json.loads(text)["src_addr"] == r"\xff8.8.8.8"
