"""Every benchmark runs in its smallest form and prints the numbers that it promises."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as command_line
from benchmarks import encode
from tests.helpers import build_store
from tests.s3_server import SERVER

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("batch_size=2", "layers=1")  # a model that trains in milliseconds


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Benchmarks start `cli.py`, as they are run from the root of the repository."""
    monkeypatch.chdir(ROOT)


def printed(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_encode_prints_its_rates_and_the_error_of_its_rtts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(encode, "TURNS", 1)
    monkeypatch.setattr(encode, "PLAIN_WINDOWS", 2)
    encode.main(["--rows", "2000", "--json"])
    result = printed(capsys)
    assert result["rows"] == 2000
    assert all(mode["encode_per_s"] > mode["plain_per_s"] for mode in result["modes"].values())
    assert result["rtt_relative_error_max"] < 1 / 2000


def test_ingest_prints_its_rows_and_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("psutil", reason="psutil, of the extra `bench`, is not installed")
    from benchmarks import ingest

    result = {
        "type": "ping",
        "af": 4,
        "msm_id": 1,
        "prb_id": 2,
        "timestamp": 1_700_000_000,
        "from": "8.8.8.8",
        "dst_addr": "1.1.1.1",
        "size": 48,
        "sent": 1,
        "rcvd": 1,
        "result": [{"rtt": 12.5}],
    }
    (tmp_path / "one.json.gz").write_bytes(gzip.compress(json.dumps(result).encode()))
    monkeypatch.setattr(ingest, "TURNS", 1)
    ingest.main(["--input", str(tmp_path), "--json"])
    numbers = printed(capsys)
    assert numbers["rows"] == 1
    assert numbers["wall_s"] > 0


def test_ingest_of_a_large_file_prints_what_each_core_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("psutil", reason="psutil, of the extra `bench`, is not installed")
    from benchmarks import ingest

    monkeypatch.delenv("PINGLM_REAL_DATA", raising=False)
    ingest.main(["--large", "0.1", "--cores", "2", "--turns", "2", "--json"])
    large = printed(capsys)["large"]
    assert large["cores"] == 2
    assert large["text_bytes"] >= 100_000 > large["file_bytes"]
    assert large["per_core"] > 0
    assert len(large["per_core_by_turn"]) == 2


def test_ingest_without_data_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("psutil", reason="psutil, of the extra `bench`, is not installed")
    from benchmarks import ingest

    monkeypatch.delenv("PINGLM_REAL_DATA", raising=False)
    ingest.main([])
    assert "PINGLM_REAL_DATA is not set" in capsys.readouterr().err


def test_prepare_prints_the_time_of_each_stage(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("psutil", reason="psutil, of the extra `bench`, is not installed")
    from benchmarks import prepare

    prepare.main(["--rows", "5000", "--json"])
    result = printed(capsys)
    assert set(result["prepare"]["5000"]["seconds"]) == {"split", "tokenize"}
    assert result["polars_sort_split"]["5000"]["rows_per_s"] > 0


def test_cluster_prints_what_parent_and_workers_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("psutil", reason="psutil, of the extra `bench`, is not installed")
    pytest.importorskip("distributed", reason="Dask, of the extra `cluster`, is not installed")
    from benchmarks import cluster

    monkeypatch.setattr(cluster, "UNITS", 10)
    monkeypatch.setattr(cluster, "PLAN", 3)
    monkeypatch.setattr(cluster, "PLAN_ROWS", 1000)
    cluster.main(["--rows", "5000", "--workers", "1", "--json"])
    result = printed(capsys)
    assert result["units"]["parent_s"] > 0
    (found,) = result["prepare"]
    assert 0 < found["parent_share"] < 1
    assert found["workers_s"] > 0
    assert found["written_bytes"] > 5000 * 100
    assert result["overlap_file_s"] > 0
    many, few = result["plan"]
    assert many["sources"] > few["sources"]
    assert few["pair_worker_s"] > 0
    assert few["shard_sent_bytes"] > 0


def test_streams_prints_the_peak_of_each_size(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("psutil", reason="psutil, of the extra `bench`, is not installed")
    from benchmarks import streams

    streams.main(["--rows", "5000", "--json"])
    assert [(row["rows"], row["peak_bytes"] > 0) for row in printed(capsys)] == [(5000, True)] * 2


def test_train_step_prints_the_time_of_a_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks import train_step

    monkeypatch.setattr(train_step, "WARM_UP", 1)
    monkeypatch.setattr(train_step, "TURN_SECONDS", 0.01)
    monkeypatch.setattr(train_step, "HOST_BATCHES", 10)
    monkeypatch.setattr(train_step, "WINDOWS", 64)
    small = [part for field in SMALL for part in ("--set", field)]
    train_step.main(["--preset", "tiny", "--seconds", "0.01", "--json", *small])
    (row,) = printed(capsys)
    assert row["batch_size"] == 2
    assert row["step_from_store_s"] > 0


def test_an_unknown_benchmark_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks", "nothing"])
    with pytest.raises(SystemExit, match="no benchmark nothing"):
        command_line.main()


def test_first_batch_prints_the_time_of_every_point_up_to_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from benchmarks import first_batch

    if not SERVER.exists():
        pytest.skip(f"{SERVER} is not installed: run `make setup`")
    first_batch.main(["--rows", "20000", "--bucket", "--json"])
    ((rows, states),) = printed(capsys).items()
    assert rows == "20,000"
    assert states.pop("curl")["wall_s"] > 0
    assert list(states) == ["cold", "warm", "empty cache", "full cache"]
    for state, numbers in states.items():
        assert list(numbers["points"])[-1] == "first batch"
        assert numbers["wall_s"] > 0
        assert ("pull" in numbers["points"]) == ("cache" in state)
    assert states["full cache"]["points"]["pull"] < states["empty cache"]["points"]["pull"]


def test_content_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks import content_check

    monkeypatch.setattr(content_check, "STEPS", 2)
    monkeypatch.setattr(content_check, "INTERVALS", 8)
    store = build_store(tmp_path / "store.zarr", train=3000, test=300)
    content_check.main(["--store", str(store), "--batch-size", "2", "--context", "64"])
    result = printed(capsys)
    assert result["intervals"] == 3
    assert result["with_check_over_without"] > 0
    assert result["cpu_s_per_gb"] > 0
