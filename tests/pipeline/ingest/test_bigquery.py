"""RIPE's BigQuery tables give what the same results give in JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.ingest.stage import IngestOptions
from pipeline.inputs import find_inputs
from stores.errors import InputError
from stores.measurements.bigquery import MOST_PACKETS
from tests.measurements.bigquery_table import NESTINGS, bigquery_table, write_bigquery
from tests.pipeline.ingest.results import lines, ping, rejects, run, table
from tests.pipeline.ingest.test_ingest_real import decoded

ROOT = Path(__file__).parents[3]
ORIGIN = ["source_file", "source_row"]

RESULTS: list[dict[str, Any]] = [
    *(ping(i) for i in range(20)),
    ping(30, result=[{"x": "*"}, {"x": "*"}, {"x": "*"}], rcvd=0),
    ping(31, result=[{"rtt": 5.5}, {"error": "connect failed: Network is unreachable"}, {"x": "*"}], rcvd=1),
    ping(32, result=[{"rtt": 5.0}, {"rtt": 900.0, "dup": 1}, {"rtt": 6.5}, {"rtt": 9.0}]),
    ping(33, af=6, dst_addr="2001:500:2::c", src_addr="fd00::1", **{"from": "2a00:1450:4001::8"}),
    ping(34, result=None, avg=12.25, min=11.5),
    ping(35, result=None, avg=-1.0, rcvd=0),
    ping(36, src_addr="9.9.9.9", **{"from": None}),
    ping(37, sent=None, rcvd=None, result=[{"rtt": 1.25}, {"x": "*"}]),
    ping(38, size=None, af=None),
    ping(5),  # again
    # rejected:
    ping(40, **{"from": "10.1.1.1"}),
    ping(41, af=6),
    ping(42, dst_addr=None),
    ping(43, prb_id=None),
    ping(44, timestamp=None),
    ping(45, result=None, avg=None),
    ping(46, result=[{"rtt": -4.0}]),
]  # fmt: skip


def both(
    results: list[dict[str, Any]],
    tmp_path: Path,
    options: IngestOptions | None = None,
    **shape: Any,
) -> tuple[pa.Table, pa.Table]:
    """The rows of some results from JSON, and from a BigQuery table; the reasons agree."""
    (tmp_path / "a.json").write_bytes(lines(results))
    write_bigquery(tmp_path / "a.parquet", results, **shape)
    found = []
    reasons = []
    for name in ("a.json", "a.parquet"):
        out = tmp_path / f"out-{name}"
        record = run(find_inputs([tmp_path / name]), out, options)
        reasons.append(record.totals.rejected)
        found.append(table(out).drop_columns(["source_file"]))
        assert record.totals.rows == len(results)
    assert reasons[0] == reasons[1]
    return found[0], found[1]


@pytest.mark.parametrize("nesting", NESTINGS)
@pytest.mark.parametrize("packed", [False, True])
def test_a_table_gives_the_rows_of_the_same_results_in_json(
    nesting: str, packed: bool, tmp_path: Path
) -> None:
    from_json, from_table = both(RESULTS, tmp_path, nesting=nesting, packed=packed)
    assert len(from_json) == 29
    assert from_table.equals(from_json)


@pytest.mark.parametrize(
    "options",
    [IngestOptions(rtt="min"), IngestOptions(rtt="median"), IngestOptions("src_addr", True)],
)
def test_the_options_of_ingest_hold_for_tables(options: IngestOptions, tmp_path: Path) -> None:
    from_json, from_table = both(RESULTS, tmp_path, options)
    assert from_table.equals(from_json)


@pytest.mark.skipif(
    "PINGLM_REAL_DATA" not in os.environ, reason="PINGLM_REAL_DATA names no folder of real results"
)
@pytest.mark.parametrize(
    ("folder", "nesting"),
    [("cmb-atlas-results", "plain"), ("fetchmesh", "element"), ("shapes", "item")],
)
def test_real_results_give_the_same_rows_from_a_table(
    folder: str, nesting: str, tmp_path: Path
) -> None:
    results = [result for result in decoded(folder) if result["type"] == "ping"]
    from_json, from_table = both(results, tmp_path, nesting=nesting, packed=nesting == "plain")
    assert len(from_json) > 1_900
    assert from_table.equals(from_json)


def test_results_of_both_kinds_are_told_from_each_other_once(tmp_path: Path) -> None:
    """The same result in JSON and in a table is a duplicate; rejects name file, row and content."""
    (tmp_path / "a.json").write_bytes(lines([ping(i) for i in range(10)]))
    write_bigquery(tmp_path / "b.parquet", [ping(i) for i in range(5, 15)] + [ping(20, af=6)])
    record = run(find_inputs([tmp_path]), tmp_path / "out")
    assert record.totals.accepted == 15
    assert record.totals.rejected == {"duplicate": 5, "family_mismatch": 1}
    [reject] = [each for each in rejects(tmp_path / "out") if each["reason"] != "duplicate"]
    assert (reject["file"], reject["row"]) == ("b.parquet", 11)
    assert json.loads(reject["record"])["synth_addr"] == "9.9.20.9"


def test_prepare_takes_tables_beside_results(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(lines([ping(i) for i in range(300)]))
    write_bigquery(tmp_path / "b.parquet", [ping(i) for i in range(300, 600)])
    command = [sys.executable, str(ROOT / "cli.py"), "prepare", "--workers", "1", "--json"]
    inputs = ["--input", str(tmp_path / "a.json"), "--input", str(tmp_path / "b.parquet")]
    done = subprocess.run(
        [*command, *inputs, "--out", str(tmp_path / "out")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["totals"]["rows"] == 600


def test_bytes_that_are_not_an_address_and_text_that_is_not_utf_8_are_rejected(
    tmp_path: Path,
) -> None:
    good = bigquery_table([ping(1), ping(2)], packed=True)
    at = good.schema.get_field_index("dst_addr")
    short = good.set_column(at, "dst_addr", pa.array([b"\x08\x08\x08", bytes([8, 8, 8, 8])]))
    pq.write_table(short, tmp_path / "short.parquet")
    wrong = pa.array([b"\xff8.8.8.8", b"8.8.8.8"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 2, wrong.buffers())
    pq.write_table(good.set_column(at, "dst_addr", text), tmp_path / "text.parquet")
    record = run(find_inputs([tmp_path]), tmp_path / "out")
    assert record.totals.rejected == {"no_destination": 2, "duplicate": 1}


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_times_of_any_unit_are_whole_seconds_or_rejected(unit: str, tmp_path: Path) -> None:
    ticks = {"ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    seconds = [1_600_000_000, 4_102_444_799, 4_102_444_800, 2**62 // 10**9, -1, None]
    times = [None if s is None else (s + 1) * ticks - 1 for s in seconds]
    if unit == "ms":
        times[3] = 2**61  # far after the year 9999
    whole = bigquery_table([ping(i) for i in range(6)])
    column = pa.array(times, pa.int64()).cast(pa.timestamp(unit))
    at = whole.schema.get_field_index("start_time")
    pq.write_table(whole.set_column(at, "start_time", column), tmp_path / "a.parquet")
    record = run(find_inputs([tmp_path / "a.parquet"]), tmp_path / "out")
    assert record.totals.rejected == {"bad_timestamp": 3, "missing_timestamp": 1}
    found = table(tmp_path / "out")["event_time"].cast(pa.int64()).to_pylist()
    assert found == [s * 10**6 for s in (1_600_000_000, 4_102_444_799)]


def test_a_column_of_bytes_stands_for_the_text(tmp_path: Path) -> None:
    """The table has both; somebody may have exported the smaller one alone."""
    packed = bigquery_table([ping(i) for i in range(9)], packed=True)
    names = [n + "_bytes" if n.endswith("_addr") else n for n in packed.column_names]
    pq.write_table(packed.rename_columns(names), tmp_path / "a.parquet")
    assert run(find_inputs([tmp_path]), tmp_path / "out").totals.accepted == 9


def test_a_result_of_far_too_many_packets_is_rejected(tmp_path: Path) -> None:
    long = ping(2, result=[{"rtt": 1.0}] * (MOST_PACKETS + 1))
    write_bigquery(tmp_path / "a.parquet", [ping(1), long, ping(3)], nesting="element")
    record = run(find_inputs([tmp_path / "a.parquet"]), tmp_path / "out")
    assert record.totals.rejected == {"bad_result": 1}
    assert table(tmp_path / "out")["rtt"].to_pylist() == [1 / 8, 3 / 8]


def test_too_many_packets_or_too_long_text_are_refused_unread(tmp_path: Path) -> None:
    """A few KB that would become gigabytes."""
    whole = bigquery_table([ping(1), ping(2, result=[{"rtt": 1.0}] * 200_000)])
    pq.write_table(whole, tmp_path / "packets.parquet")
    with pytest.raises(InputError, match=r"packets.parquet: column pings has 200,001 packets"):
        run(find_inputs([tmp_path / "packets.parquet"]), tmp_path / "o1")
    long = whole.set_column(
        whole.schema.get_field_index("synth_addr"), "synth_addr", pa.array(["x" * 2_000_000, "y"])
    )
    pq.write_table(long, tmp_path / "text.parquet", use_dictionary=False)
    with pytest.raises(InputError, match=r"text.parquet: column synth_addr has 2,000,0"):
        run(find_inputs([tmp_path / "text.parquet"]), tmp_path / "o2")


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("prb_id", None, "column prb_id is missing: expected RIPE's BigQuery table"),
        ("start_time", pa.array([1]), "column start_time has type int64, expected a timestamp"),
        ("dst_addr", pa.array([1]), "column dst_addr has type int64, expected text or bytes"),
        ("size", pa.array(["64"]), "column size has type string, expected an integer"),
        (
            "pings",
            pa.array([[1.5]]),
            r"column pings has type list<.*>, expected an array of structs",
        ),
        ("pings", pa.array([[{"ttl": 64}]]), "column pings has type list<.*>, expected an array"),
    ],
)
def test_a_table_of_another_form_is_an_error_that_names_the_column(
    column: str, values: pa.Array | None, message: str, tmp_path: Path
) -> None:
    whole = bigquery_table([ping(1)])
    at = whole.schema.get_field_index(column)
    odd = whole.remove_column(at) if values is None else whole.set_column(at, column, values)
    pq.write_table(odd, tmp_path / "a.parquet")
    with pytest.raises(InputError, match=f"^a.parquet: {message}"):
        run(find_inputs([tmp_path / "a.parquet"]), tmp_path / "out")


def test_a_damaged_table_is_an_error_of_one_line(tmp_path: Path) -> None:
    path = write_bigquery(tmp_path / "a.parquet", [ping(i) for i in range(3000)])
    data = bytearray(path.read_bytes())
    data[200:4000] = b"\0" * 3800
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"^a.parquet: cannot be read as Parquet \(.*\)") as caught:
        run(find_inputs([path]), tmp_path / "out")
    assert len(str(caught.value).splitlines()) == 1
