"""A test split of vantage points that train does not have says so, with the number and what to do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from stores.manifest import read_manifest
from stores.overlap import OverlapCounts, new_sources_warning
from tests.pipeline.tables import START, measurement_table, with_column, write_parquet
from tests.test_cli import run

WARNING = (
    "WARNING: 7 of the 8 sources in test (88%) are not in train, because the split is by time: "
)


@pytest.fixture(scope="module")
def newcomers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parquet of 1,000 rows, of which the last 100 come from seven other sources and from a known one."""
    at = np.arange(1000)
    sources = [f"8.8.{i % 20}.4" if i < 900 or i == 960 else f"8.9.{i % 7}.4" for i in at]
    table = with_column(measurement_table(1000), "src_addr", sources)
    table = with_column(table, "dst_addr", [f"9.9.{i % 9}.9" for i in at])
    table = with_column(table, "ip_version", [4] * 1000)
    times = pa.array((START + at) * 1_000_000).cast(table.schema.field("event_time").type)
    path = tmp_path_factory.mktemp("newcomers") / "a.parquet"
    return write_parquet(with_column(table, "event_time", times), path)


def test_prepare_and_inspect_store_warn(newcomers: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = run("prepare", "--input", newcomers, "--out", out, "--workers", 1)
    assert said.returncode == 0, said.stderr
    (line,) = (line for line in said.stdout.splitlines() if "WARNING" in line)
    assert line.startswith(WARNING)
    assert "never met" in line
    assert "--by pair" in line
    assert "--by source" in line
    looked = run("inspect-store", out).stdout
    assert WARNING.strip() in " ".join(looked.split())
    assert "20 sources in train, 8 in test (1 of them also in train)" in looked
    told = json.loads(run("inspect-store", out, "--json").stdout)
    assert told["overlap"]["sources"] == {"train": 20, "test": 8, "both": 1}
    assert told["new_sources"].startswith(WARNING.removeprefix("WARNING: "))


def test_prepare_warns_beside_its_json(newcomers: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = run("prepare", "--input", newcomers, "--out", out, "--workers", 1, "--json")
    assert WARNING in said.stderr
    assert json.loads(said.stdout)["overlap"]["sources"]["test"] == 8


def test_split_warns_too_and_by_source_is_on_purpose(newcomers: Path, tmp_path: Path) -> None:
    said = run("split", "--input", newcomers, "--out", tmp_path / "time", "--workers", 1)
    assert WARNING in said.stdout
    told = run("split", "--input", newcomers, "--out", tmp_path / "time", "--workers", 1, "--json")
    assert WARNING in told.stderr
    assert json.loads(told.stdout)
    meant = ("--by", "source", "--out", tmp_path / "source", "--workers", 1)
    assert "WARNING" not in run("split", "--input", newcomers, *meant).stdout


def test_the_digest_does_not_depend_on_what_is_counted(
    newcomers: Path, tmp_path: Path, run_split, run_tokenize
) -> None:
    """A store of an earlier version lacks the counts: it opens as ever, and nothing is said."""
    out = tmp_path / "out"
    run_split([newcomers], out)
    digest = run_tokenize(out).digest
    file = out / "store.zarr/zarr.json"
    document = json.loads(file.read_text())
    document["attributes"]["pinglm"].pop("overlap")
    file.write_text(json.dumps(document))
    manifest = read_manifest(out / "store.zarr")
    assert manifest.digest == digest
    assert manifest.new_sources is None
    assert "sources in train" not in run("inspect-store", out).stdout


@pytest.mark.parametrize("by", ["time", "pair", "source"])
def test_few_new_sources_are_not_worth_a_warning(by: str) -> None:
    few = {"sources": OverlapCounts(train=500, test=100, both=91)}
    assert new_sources_warning(few, by) is None
    assert new_sources_warning({}, by) is None
    many = {"sources": OverlapCounts(train=500, test=100, both=90)}
    assert (new_sources_warning(many, by) is None) == (by == "source")


def test_each_split_is_counted_and_advice_fits_the_rule() -> None:
    counts = OverlapCounts(train=500, test=100, both=90, validation=40, validation_both=10)
    said = new_sources_warning({"sources": counts}, "pair")
    assert said is not None
    assert said.startswith(
        "10 of the 100 sources in test (10%) and 30 of the 40 sources in validation (75%) are not"
    )
    assert "--by source" in said
    assert "--by pair" not in said
