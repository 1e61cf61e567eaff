"""The split: what goes where, what is rejected, and that nothing is lost."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.measurements import SCHEMA
from pipeline.records import OverlapCounts
from pipeline.split import plan, runs
from stores.errors import ConfigError, InputError, OutputError
from tests.pipeline.tables import (
    START,
    as_rows,
    measurement_table,
    read_split,
    with_column,
    write_parquet,
)


def all_rows(out: Path) -> list:
    return as_rows(pa.concat_tables([t for s in ("train", "test") for t in read_split(out, s)]))


def seconds(table: pa.Table) -> np.ndarray:
    return table.column("event_time").cast(pa.int64()).to_numpy() // 1_000_000


@pytest.mark.parametrize("by", ["time", "source", "pair"])
def test_every_row_lands_in_one_split(by: str, tmp_path: Path, run_split) -> None:
    table = measurement_table(5000)
    record = run_split([write_parquet(table, tmp_path / "a.parquet")], tmp_path / "out", by=by)
    assert all_rows(tmp_path / "out") == as_rows(table)
    totals = record.totals
    assert totals.rows == 5000 == totals.train + totals.test
    assert totals.test > 0


def test_time_split_puts_the_last_tenth_in_test_and_never_cuts_a_second(
    tmp_path: Path, run_split
) -> None:
    table = measurement_table(6000)
    run_split([write_parquet(table, tmp_path / "a.parquet")], tmp_path / "out")
    train, test = (
        np.concatenate([seconds(t) for t in read_split(tmp_path / "out", s)])
        for s in ("train", "test")
    )
    assert train.max() < test.min()
    assert abs(len(test) - 600) <= np.bincount(seconds(table) - START).max()


def test_rows_of_one_second_stay_on_one_side(tmp_path: Path, run_split) -> None:
    times = pa.array([START * 1_000_000] * 50).cast(SCHEMA.field("event_time").type)
    table = with_column(measurement_table(50), "event_time", times)
    record = run_split([write_parquet(table, tmp_path / "a.parquet")], tmp_path / "out")
    assert (record.totals.train, record.totals.test) == (50, 0)
    assert len(read_split(tmp_path / "out", "test")) == 1  # one empty shard, still Parquet


@pytest.mark.parametrize(("by", "key"), [("source", [2]), ("pair", [2, 3])])
def test_keys_of_test_never_occur_in_train(by: str, key: list, tmp_path: Path, run_split) -> None:
    table = measurement_table(4000, sources=60)
    out = tmp_path / "out"
    record = run_split([write_parquet(table, tmp_path / "a.parquet")], out, by=by)
    keys = {
        s: {tuple(row[i] for i in key) for t in read_split(out, s) for row in as_rows(t)}
        for s in ("train", "test")
    }
    assert keys["train"].isdisjoint(keys["test"])
    kind = {"source": "sources", "pair": "pairs"}[by]
    assert getattr(record.overlap, kind).both == 0
    assert 0.02 < record.totals.test / 4000 < 0.25


def test_the_overlap_counts_what_is_distinct(tmp_path: Path, run_split) -> None:
    table = measurement_table(3000)
    out = tmp_path / "out"
    record = run_split([write_parquet(table, tmp_path / "a.parquet")], out, rows_per_shard=300)
    for kind, key in {"sources": [2], "destinations": [3], "pairs": [2, 3]}.items():
        train, test = (
            {tuple(row[i] for i in key) for t in read_split(out, s) for row in as_rows(t)}
            for s in ("train", "test")
        )
        assert getattr(record.overlap, kind) == OverlapCounts(
            train=len(train), test=len(test), both=len(train & test)
        )


def test_shards_are_sorted_and_hold_whole_streams(tmp_path: Path, run_split) -> None:
    table = measurement_table(8000, sources=100)
    out = tmp_path / "out"
    run_split([write_parquet(table, tmp_path / "a.parquet")], out, rows_per_shard=1000)
    shards = read_split(out, "train")
    assert 6 <= len(shards) <= 8
    seen: set[str] = set()
    for shard in shards:
        sources = shard.column("src_addr").to_pylist()
        streams = [a for a, b in pairwise([*sources, None]) if a != b]
        assert len(streams) == len(set(streams))
        assert seen.isdisjoint(streams)
        seen |= set(streams)
        times = shard.column("event_time").cast(pa.int64()).to_pylist()
        for i in range(1, len(times)):
            assert sources[i] != sources[i - 1] or times[i] >= times[i - 1]


def test_source_larger_than_a_shard_is_cut_by_time(tmp_path: Path, run_split) -> None:
    table = with_column(measurement_table(6000), "src_addr", ["8.8.8.8"] * 6000)
    table = with_column(table, "dst_addr", ["9.9.9.9"] * 6000)
    table = with_column(table, "ip_version", [4] * 6000)
    out = tmp_path / "out"
    run_split([write_parquet(table, tmp_path / "a.parquet")], out, rows_per_shard=500)
    shards = read_split(out, "train")
    assert len(shards) == 11
    assert max(len(shard) for shard in shards) < 600
    ends = [(seconds(s).min(), seconds(s).max()) for s in shards]
    assert all(before[1] <= after[0] for before, after in pairwise(ends))
    assert all_rows(out) == as_rows(table)


@pytest.mark.parametrize("rows", [4000, 12])
def test_number_of_shards_can_be_fixed(rows: int, tmp_path: Path, run_split) -> None:
    table = measurement_table(rows)
    out = tmp_path / "out"
    path = write_parquet(table, tmp_path / "a.parquet")
    run_split([path], out, train_shards=18, test_shards=2)
    assert [len(read_split(out, s)) for s in ("train", "test")] == [18, 2]
    assert all_rows(out) == as_rows(table)


def test_bytes_do_not_depend_on_how_rows_are_spread_over_files_and_runs(
    tmp_path: Path, run_split, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = measurement_table(5000)
    run_split(
        [write_parquet(table, tmp_path / "one/a.parquet")], tmp_path / "x", rows_per_shard=700
    )
    shuffled = table.take(np.random.default_rng(1).permutation(5000))
    for i in range(3):
        part = shuffled.slice(i * 1700, 1700)
        write_parquet(part, tmp_path / f"many/{i}.parquet", row_group_size=400)
    monkeypatch.setattr(runs, "RUN_ROWS", 600)
    monkeypatch.setattr(plan, "_FOLD_ENTRIES", 30)  # sources are counted run by run
    run_split([tmp_path / "many"], tmp_path / "y", rows_per_shard=700)
    for split in ("train", "test"):
        for a, b in zip(
            read_split(tmp_path / "x", split), read_split(tmp_path / "y", split), strict=True
        ):
            assert a.equals(b)


def test_each_bad_row_is_rejected_with_its_reason(tmp_path: Path, run_split) -> None:
    columns = {name: measurement_table(40).column(name).to_pylist() for name in SCHEMA.names}
    columns["ip_version"] = [4 if "." in text else 6 for text in columns["src_addr"]]
    expected = {}

    def spoil(row: int, column: str, value: object, reason: str) -> None:
        columns[column][row] = value
        expected[row + 1] = reason

    for row, name in enumerate(SCHEMA.names):
        spoil(row, name, None, f"null_{name}")
    spoil(10, "src_addr", "10.0.0.300", "bad_src_addr")
    spoil(11, "dst_addr", "example.net", "bad_dst_addr")
    spoil(12, "ip_version", 10 - columns["ip_version"][12], "ip_version_mismatch")
    spoil(13, "rtt", float("nan"), "rtt_not_finite")
    spoil(14, "rtt", float("inf"), "rtt_not_finite")
    spoil(15, "event_time", -1, "time_before_1970")
    spoil(16, "event_time", 253_402_300_800_000_000, "time_after_9999")
    for name in SCHEMA.names:  # two exact copies of row 30
        columns[name][31] = columns[name][32] = columns[name][30]
    expected |= {32: "duplicate", 33: "duplicate"}
    times = pa.array(
        [
            t if isinstance(t, int | None) else int(t.timestamp() * 1e6)
            for t in columns["event_time"]
        ]
    ).cast(SCHEMA.field("event_time").type)
    table = with_column(
        pa.table({**columns, "event_time": times}, schema=SCHEMA), "event_time", times
    )

    record = run_split([write_parquet(table, tmp_path / "bad.parquet")], tmp_path / "out")
    rejected = pl.read_parquet(tmp_path / "out/rejected/*.parquet")
    assert dict(rejected.select("row", "reason").iter_rows()) == expected
    assert set(rejected["file"]) == {"bad.parquet"}
    assert rejected.filter(pl.col("row") == 11)["record"][0].count("10.0.0.300") == 1
    totals = record.totals
    assert totals.rows == 40 == totals.train + totals.test + len(expected)
    assert totals.rejected["duplicate"] == 2


def test_rows_that_differ_in_one_column_are_not_duplicates(tmp_path: Path, run_split) -> None:
    one = measurement_table(1)
    variants = [one]
    for name, value in [("msm_id", 5), ("rtt", 3.25), ("size", 7), ("packet_error_count", 9)]:
        variants.append(with_column(one, name, [value], SCHEMA.field(name).type))
    table = pa.concat_tables([*variants, *variants])
    out = tmp_path / "out"
    record = run_split([write_parquet(table, tmp_path / "a.parquet")], out)
    assert record.totals.rejected == {"duplicate": 5}
    assert all_rows(out) == as_rows(pa.concat_tables(variants))


def test_long_ties_are_ordered_and_deduplicated(tmp_path: Path, run_split) -> None:
    """Hundreds of rows of one source in one microsecond, each of them twice."""
    table = measurement_table(400)
    same = {"src_addr": "8.8.8.8", "dst_addr": "9.9.9.9", "ip_version": 4}
    for name, value in same.items():
        table = with_column(table, name, [value] * 400, SCHEMA.field(name).type)
    times = pa.array([START * 1_000_000] * 400).cast(SCHEMA.field("event_time").type)
    table = with_column(table, "event_time", times)
    doubled = pa.concat_tables([table, table])
    out = tmp_path / "out"
    record = run_split([write_parquet(doubled, tmp_path / "a.parquet")], out)
    assert record.totals.rejected == {"duplicate": 400}
    assert all_rows(out) == as_rows(table)


ADDRESS_TYPES = [
    pa.string(),
    pa.large_string(),
    pa.dictionary(pa.int8(), pa.string()),
    pa.dictionary(pa.uint32(), pa.large_string()),
]
TIME_TYPES = [pa.timestamp(unit, tz) for unit in ("s", "ms", "us", "ns") for tz in (None, "UTC")]


@pytest.mark.parametrize("address", ADDRESS_TYPES, ids=str)
@pytest.mark.parametrize("time", TIME_TYPES[::3], ids=str)
def test_every_spelling_of_the_table_is_accepted(address, time, tmp_path: Path, run_split) -> None:
    table = measurement_table(300)
    whole = pa.array(seconds(table)).cast(pa.timestamp("s")).cast(SCHEMA.field("event_time").type)
    table = with_column(table, "event_time", whole)
    other = with_column(table, "event_time", whole.cast(time))
    for name in ("src_addr", "dst_addr"):
        other = with_column(other, name, table.column(name).cast(address))
    for name in ("msm_id", "ip_version", "size", "packet_error_count"):
        other = with_column(other, name, table.column(name).cast(pa.int32()))
    run_split([write_parquet(other, tmp_path / "a.parquet")], tmp_path / "out")
    assert all_rows(tmp_path / "out") == as_rows(table)
    assert read_split(tmp_path / "out", "train")[0].schema.equals(SCHEMA)


def test_files_written_by_polars_with_categories_are_accepted(tmp_path: Path, run_split) -> None:
    table = measurement_table(300)
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    path = tmp_path / "a.parquet"
    frame.with_columns(pl.col("src_addr", "dst_addr").cast(pl.Categorical)).write_parquet(path)
    run_split([path], tmp_path / "out")
    assert all_rows(tmp_path / "out") == as_rows(table)


def test_probe_ids_are_kept_where_there_are_some(tmp_path: Path, run_split) -> None:
    table = measurement_table(100)
    probes = pa.array([None if i % 3 == 0 else i for i in range(100)], pa.int64())
    write_parquet(table.append_column("prb_id", probes), tmp_path / "in/a.parquet")
    write_parquet(measurement_table(100, seed=1), tmp_path / "in/b.parquet")
    run_split([tmp_path / "in"], tmp_path / "out")
    shards = pa.concat_tables(
        [t for s in ("train", "test") for t in read_split(tmp_path / "out", s)]
    )
    kept = [p for p in shards.column("prb_id").to_pylist() if p is not None]
    assert sorted(kept) == [i for i in range(100) if i % 3]


def test_a_table_of_wrong_shape_names_file_column_and_types(tmp_path: Path, run_split) -> None:
    table = measurement_table(10)
    path = write_parquet(table.drop_columns(["rtt"]), tmp_path / "missing.parquet")
    with pytest.raises(InputError, match=r"missing\.parquet: column rtt is missing"):
        run_split([path], tmp_path / "o1")
    wrong = with_column(table, "rtt", ["1.0"] * 10)
    path = write_parquet(wrong, tmp_path / "wrong.parquet")
    with pytest.raises(InputError, match="column rtt has type string, expected double"):
        run_split([path], tmp_path / "o2")
    wrong = with_column(table, "event_time", list(range(10)))
    path = write_parquet(wrong, tmp_path / "time.parquet")
    with pytest.raises(InputError, match="event_time has type int64, expected timestamp"):
        run_split([path], tmp_path / "o3")


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_truncated_parquet_is_named(keep: float, tmp_path: Path, run_split) -> None:
    path = write_parquet(measurement_table(2000), tmp_path / "cut.parquet")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(InputError, match=r"cut\.parquet"):
        run_split([path], tmp_path / "out")
    assert not (tmp_path / "out/splits").exists()


def test_damage_inside_a_parquet_is_named(tmp_path: Path, run_split) -> None:
    path = write_parquet(measurement_table(5000), tmp_path / "hit.parquet")
    data = bytearray(path.read_bytes())
    data[200:2000] = bytes(1800)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"hit\.parquet"):
        run_split([path], tmp_path / "out")


def test_no_valid_row_at_all_is_an_error_that_says_why(tmp_path: Path, run_split) -> None:
    path = write_parquet(measurement_table(0), tmp_path / "none.parquet")
    with pytest.raises(InputError, match="no rows at all"):
        run_split([path], tmp_path / "o1")
    bad = with_column(measurement_table(7), "src_addr", ["?"] * 7)
    path = write_parquet(bad, tmp_path / "bad.parquet")
    with pytest.raises(InputError, match=r"7 rows, all rejected.*bad_src_addr 7"):
        run_split([path], tmp_path / "o2")


def test_another_option_or_a_changed_input_is_refused(tmp_path: Path, run_split) -> None:
    path = write_parquet(measurement_table(100), tmp_path / "a.parquet")
    run_split([path], tmp_path / "out")
    with pytest.raises(ConfigError, match="by time, not pair"):
        run_split([path], tmp_path / "out", by="pair")
    write_parquet(measurement_table(101), path)
    with pytest.raises(ConfigError, match="other input files"):
        run_split([path], tmp_path / "out")


def test_a_shard_lost_after_the_split_is_noticed(tmp_path: Path, run_split) -> None:
    path = write_parquet(measurement_table(100), tmp_path / "a.parquet")
    record = run_split([path], tmp_path / "out")
    assert run_split([path], tmp_path / "out") == record
    (tmp_path / "out/splits/train/shard_0000.parquet").unlink()
    with pytest.raises(OutputError, match=r"shard_0000\.parquet: is missing"):
        run_split([path], tmp_path / "out")


def test_memory_is_one_shard_whatever_a_row_group_holds(tmp_path: Path) -> None:
    """A run is cut inside a row group, which is never held whole."""
    from pipeline.hashed_file import open_hashed
    from pipeline.split.parquet_input import read_tables

    path = write_parquet(measurement_table(5000), tmp_path / "a.parquet", row_group_size=5000)
    assert pq.ParquetFile(path).num_row_groups == 1
    with open_hashed(path) as file:
        sizes = [len(table) for table in read_tables(file, "a", [0], SCHEMA.names, 1000)]
    assert sizes == [1000] * 5
