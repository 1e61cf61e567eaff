"""Ranges of shards: every row of every run is in exactly one of a split's ranges."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.split.plan import Cut, find_cut_second, plan_shards
from pipeline.split.ranges import END, Edge, Range, write_index
from pipeline.split.runs import open_run, write_runs
from tests.pipeline.tables import measurement_table, with_column, write_parquet

ALL, ONE, APART = range(3)


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Three runs: with all sources; with one of them; with others, before and behind those."""
    (tmp_path / "names.json").write_text(json.dumps(["a"]))
    (tmp_path / "runs").mkdir()
    sources = {
        ONE: ["8.8.3.4"] * 300,
        APART: [f"{first}.0.0.{last}" for first in (1, 8, 223) for last in range(100)],
    }
    paths = []
    for number in (ALL, ONE, APART):
        table = measurement_table(2000 if number == ALL else 300, seed=number)
        if number in sources:
            table = with_column(table, "src_addr", sources[number], pa.string())
            table = with_column(table, "dst_addr", ["9.9.9.9"] * 300, pa.string())
            table = with_column(table, "ip_version", [4] * 300, pa.int64())
        file = write_parquet(table, tmp_path / f"{number}.parquet")
        found = write_runs(
            *(file, "a", [0], 10_000 * number, table.schema.names),
            *(tmp_path / "names.json", tmp_path / "runs" / str(number), tmp_path / f"{number}-"),
        )
        paths += [tmp_path / "runs" / name for name in found["runs"]]
    write_index(tmp_path / "runs", paths)
    return paths


def rows_of(runs: Path, range_: Range) -> list[int]:
    """The numbers of the rows of a range, which differ between runs."""
    return [
        row
        for run, start, stop in range_.slices(runs)
        for row in run.columns["row"][start:stop].tolist()
    ]


@pytest.mark.parametrize("shards", [1, 7, 400])
@pytest.mark.parametrize("by", ["time", "source", "pair"])
def test_the_ranges_of_a_split_have_every_row_of_every_run_once(
    runs: list[Path], by: str, shards: int
) -> None:
    cut = Cut(by, 0.1, find_cut_second(runs, 0.1))
    planned = plan_shards(runs, cut, {"train": shards, "test": None}, rows_per_shard=20)
    assert len(planned["train"]) == shards
    everything = sorted(row for run in runs for row in open_run(run).columns["row"].tolist())
    for ranges in planned.values():
        found = [row for range_ in ranges for row in rows_of(runs[0].parent, range_)]
        assert sorted(found) == everything


def test_a_range_may_begin_and_end_inside_a_source(runs: list[Path]) -> None:
    run = open_run(runs[ONE])
    middle = int(np.median(run.columns["time"]))
    source = bytes(run.sources[0])
    before, after = (
        rows_of(runs[0].parent, range_)
        for range_ in (
            Range(Edge(source), Edge(source, middle)),
            Range(Edge(source, middle), Edge(source + b"\x01")),
        )
    )
    times = run.columns["time"]
    assert set(run.columns["row"][times < middle].tolist()) <= set(before)
    assert set(run.columns["row"][times >= middle].tolist()) <= set(after)
    assert not set(before) & set(after)


def test_runs_whose_sources_all_lie_outside_are_not_opened(runs: list[Path]) -> None:
    last = bytes(open_run(runs[APART]).sources[-1])
    runs[ONE].write_bytes(b"no run")
    assert rows_of(runs[0].parent, Range(Edge(last), END))[-1] >= 10_000 * APART
