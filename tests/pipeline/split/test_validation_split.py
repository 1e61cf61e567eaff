"""A validation split: taken out of train by the same rule, and test stays what it was."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from stores import TokenStore
from stores.errors import ConfigError
from stores.layout import WITH_VALIDATION
from stores.manifest import read_manifest
from stores.rows import read_rows
from stores.verify import verify_store
from tests.pipeline.tables import (
    as_rows,
    measurement_table,
    read_split,
    with_column,
    write_parquet,
)
from tests.test_cli import run


def rows_of(out: Path, split: str) -> list:
    return as_rows(pa.concat_tables(read_split(out, split)))


@pytest.mark.parametrize("by", ["time", "source", "pair"])
def test_validation_comes_out_of_train_and_test_is_the_same(
    by: str, tmp_path: Path, run_split
) -> None:
    table = measurement_table(6000, sources=60)
    file = write_parquet(table, tmp_path / "a.parquet")
    run_split([file], tmp_path / "two", by=by)
    record = run_split([file], tmp_path / "three", by=by, validation=0.2, rows_per_shard=900)
    train, validation, test = (rows_of(tmp_path / "three", split) for split in WITH_VALIDATION)
    assert test == rows_of(tmp_path / "two", "test")
    assert sorted(train + validation) == rows_of(tmp_path / "two", "train")
    assert (record.totals.train, record.totals.validation) == (len(train), len(validation))
    assert record.totals.rows == len(train) + len(validation) + len(test)
    assert 0.1 < len(validation) / 6000 < 0.3
    keys = {"time": [1], "source": [2], "pair": [2, 3]}[by]
    sets = [{tuple(row[i] for i in keys) for row in rows} for rows in (train, validation, test)]
    if by == "time":
        assert max(sets[0]) < min(sets[1]) <= max(sets[1]) < min(sets[2])
    else:
        assert len(set.union(*sets)) == sum(map(len, sets))


@pytest.mark.parametrize("by", ["time", "pair"])
def test_a_stream_of_several_shards_is_whole_in_every_split(
    by: str, tmp_path: Path, run_split
) -> None:
    table = with_column(measurement_table(4000), "src_addr", ["8.8.8.8"] * 4000)
    table = with_column(table, "dst_addr", [f"9.9.{i % 200}.9" for i in range(4000)])
    table = with_column(table, "ip_version", [4] * 4000)
    file = write_parquet(table, tmp_path / "a.parquet")
    out = tmp_path / "out"
    record = run_split([file], out, by=by, validation=0.3, rows_per_shard=300)
    assert all(len(record.shards[split]) > 1 for split in ("train", "validation"))
    found = [row for split in WITH_VALIDATION for row in rows_of(out, split)]
    assert sorted(found) == as_rows(table)


def test_the_overlap_counts_validation_too(tmp_path: Path, run_split) -> None:
    out = tmp_path / "out"
    file = write_parquet(measurement_table(3000, sources=40), tmp_path / "a.parquet")
    overlap = run_split([file], out, validation=0.2, rows_per_shard=300).overlap
    for kind, keys in {"sources": [2], "destinations": [3], "pairs": [2, 3]}.items():
        train, validation, test = (
            {tuple(row[i] for i in keys) for row in rows_of(out, split)}
            for split in WITH_VALIDATION
        )
        counts = getattr(overlap, kind)
        assert counts.held_out("validation") == (len(validation), len(validation & train))
        assert counts.held_out("test") == (len(test), len(test & train))
    assert overlap.time.train[1] < overlap.time.validation[0]
    assert overlap.time.validation[1] < overlap.time.test[0]


def test_the_store_has_three_splits_and_is_sound(tmp_path: Path, run_split, run_tokenize) -> None:
    file = write_parquet(measurement_table(4000), tmp_path / "a.parquet")
    out = tmp_path / "out"
    split = run_split([file], out, validation=0.2, rows_per_shard=700)
    run_tokenize(out)
    assert verify_store(out).problems == []
    store = TokenStore.open(out)
    assert store.splits == WITH_VALIDATION
    assert store.choosing_split == "validation"
    assert (
        store.manifest.format_version == 2
    )  # earlier versions refuse it, rather than overlook a split
    assert store.manifest.ledger == split.totals
    assert store.manifest.configuration["split"]["validation"] == 0.2
    assert int(store.measurements("validation", "mixed").sum()) == split.totals.validation
    train, test = read_rows(store)
    assert (len(train), len(test)) == (split.totals.train, split.totals.test)


def test_without_it_records_and_store_are_what_they_were(
    tmp_path: Path, run_split, run_tokenize
) -> None:
    """In JSON too, so that a folder of an earlier version continues and its digest is the same."""
    out = tmp_path / "out"
    run_split([write_parquet(measurement_table(2000), tmp_path / "a.parquet")], out)
    run_tokenize(out)
    for record in ("split", "tokenize"):
        assert "validation" not in (out / f".pinglm/{record}.json").read_text()
    assert "validation" not in (out / "store.zarr/zarr.json").read_text()
    assert not (out / "store.zarr/validation").exists()
    assert read_manifest(out / "store.zarr").format_version == 1


@pytest.mark.parametrize("share", [0.0, -0.1, 0.9, 1.0, float("nan")])
def test_a_share_that_leaves_no_rows_is_refused(share: float, tmp_path: Path, run_split) -> None:
    file = write_parquet(measurement_table(100), tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match=r"--validation .*: expected a share above 0"):
        run_split([file], tmp_path / "out", validation=share)


def test_a_folder_that_began_without_validation_says_so(tmp_path: Path, run_split) -> None:
    file = write_parquet(measurement_table(500), tmp_path / "a.parquet")
    run_split([file], tmp_path / "out")
    with pytest.raises(ConfigError, match=r"was started with validation None, not 0\.1"):
        run_split([file], tmp_path / "out", validation=0.1)


def test_prepare_and_the_stages_make_the_same_store(tmp_path: Path) -> None:
    file = write_parquet(measurement_table(3000), tmp_path / "a.parquet")
    share = ("--validation", 0.2, "--workers", 1)
    whole = run("prepare", "--input", file, "--out", tmp_path / "whole", *share)
    assert whole.returncode == 0, whole.stderr
    assert "both ÷ validation" in whole.stdout
    assert run("split", "--input", file, "--out", tmp_path / "steps", *share).returncode == 0
    done = run("tokenize", "--out", tmp_path / "steps", "--workers", 1, "--json")
    report = json.loads((tmp_path / "whole/report.json").read_text())
    assert json.loads(done.stdout)["digest"] == report["store"]["digest"]
    assert sum(report["totals"][split] for split in WITH_VALIDATION) == 3000


def test_an_empty_validation_split_is_reported_and_not_chosen_on(tmp_path: Path) -> None:
    table = measurement_table(300)
    seconds = np.where(np.arange(300) < 250, 1_750_000_000, 1_750_000_100) * 1_000_000
    times = pa.array(seconds).cast(table.schema.field("event_time").type)
    file = write_parquet(with_column(table, "event_time", times), tmp_path / "a.parquet")
    out = tmp_path / "out"
    said = run("prepare", "--input", file, "--out", out, "--validation", 0.01, "--workers", 1)
    assert said.returncode == 0, said.stderr
    assert "The validation split is empty: too few seconds or keys to divide." in said.stdout
    assert verify_store(out).problems == []
    assert TokenStore.open(out).choosing_split == "test"
