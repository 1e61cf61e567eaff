"""The whole offline half: the same bytes however it is run, killed or cut off."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stores.manifest import read_manifest
from stores.verify import verify_store
from tests.helpers import Writes
from tests.pipeline.tables import measurement_table, write_parquet

ROOT = Path(__file__).parent.parent.parent
CLI = [sys.executable, str(ROOT / "cli.py")]


def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [*CLI, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, **options)  # type: ignore[call-overload, no-any-return]


def prepare(source: Path, out: Path, *arguments: object) -> str:
    """Digest of the store that `prepare` makes, on one worker unless told otherwise."""
    workers = () if {"--workers", "--scheduler"} & set(arguments) else ("--workers", 1)
    found = run("prepare", "--input", source, "--out", out, "--json", *arguments, *workers)
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)["store"]["digest"]


def ping(i: int) -> dict:
    """An invented RIPE Atlas result."""
    return {
        "type": "ping",
        "fw": 5020,
        "msm_id": 1000 + i % 7,
        "prb_id": i % 11,
        "timestamp": 1_750_000_000 + i * 13,
        "from": f"8.8.{i % 11}.1",
        "src_addr": "192.168.0.2",
        "dst_addr": f"9.9.{i % 7}.9",
        "af": 4,
        "size": 64,
        "sent": 3,
        "rcvd": 3,
        "result": [{"rtt": 10.0 + i % 50}, {"rtt": 11.0}, {"rtt": 12.5}],
    }


@pytest.fixture
def mixed_input(tmp_path: Path) -> Path:
    """NDJSON, an array, and canonical Parquet in several files; some rows bad, some twice."""
    folder = tmp_path / "in"
    folder.mkdir()
    lines = [json.dumps(ping(i)) for i in range(600)]
    (folder / "a.ndjson.gz").write_bytes(gzip.compress("\n".join([*lines, "{"]).encode()))
    (folder / "b.json").write_text(json.dumps([ping(i) for i in range(500, 900)]))
    (folder / "empty.json").write_text("[]")
    for i in range(3):
        write_parquet(measurement_table(3000, seed=i), folder / f"p{i}.parquet", row_group_size=900)
    return folder


SHARDS = ("--rows-per-shard", 700)


def test_bytes_are_the_same_for_1_and_8_workers_and_a_dask_cluster_of_2_processes(
    mixed_input: Path, tmp_path: Path
) -> None:
    from distributed import LocalCluster

    one = prepare(mixed_input, tmp_path / "one", "--workers", 1, *SHARDS)
    eight = prepare(mixed_input, tmp_path / "eight", "--workers", 8, *SHARDS)
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        address = cluster.scheduler_address
        dask = prepare(mixed_input, tmp_path / "dask", "--scheduler", address, *SHARDS)
    assert one == eight == dask
    for name in ("rejected", "splits", "store.zarr"):
        files = {
            p.relative_to(tmp_path / "one"): p.read_bytes()
            for p in (tmp_path / "one" / name).rglob("*")
            if p.is_file()
        }
        assert files
        for other in ("eight", "dask"):
            assert all((tmp_path / other / p).read_bytes() == data for p, data in files.items())


def test_ledger_adds_up_for_every_file_and_reason(mixed_input: Path, tmp_path: Path) -> None:
    prepare(mixed_input, tmp_path / "out", *SHARDS)
    report = json.loads((tmp_path / "out/report.json").read_bytes())
    files = {entry["file"]: entry for entry in report["files"]}
    assert set(files) == {
        "a.ndjson.gz",
        "b.json",
        "empty.json",
        *(f"p{i}.parquet" for i in range(3)),
    }
    for entry in [*files.values(), report["totals"]]:
        assert entry["rows"] == entry["train"] + entry["test"] + sum(entry["rejected"].values())
    assert files["a.ndjson.gz"]["rows"] == 601
    assert sum(files["a.ndjson.gz"]["rejected"].values()) == 1
    assert files["b.json"]["rejected"] == {"duplicate": 100}
    assert files["empty.json"]["rows"] == 0
    names = [entry["name"] for entry in report["inputs"]]
    assert names == sorted(files)
    assert verify_store(tmp_path / "out/store.zarr").problems == []


def test_more_workers_than_there_is_work_or_memory_for_do_not_start(tmp_path: Path) -> None:
    import psutil

    path = write_parquet(measurement_table(300), tmp_path / "a.parquet")
    command = [*CLI, "prepare", "--input", path, "--out", tmp_path / "out", "--workers", "100000"]
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    most = 0
    while process.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            most = max(most, len(psutil.Process(process.pid).children()))
        time.sleep(0.01)
    error = process.communicate()[1]
    assert process.returncode == 0, error
    assert most <= 12  # of a stage at most six units wait at once
    assert re.fullmatch(r"\d+ of 100000 workers: there is no memory for more .*", error.strip())
    assert prepare(path, tmp_path / "one") == read_manifest(tmp_path / "out/store.zarr").digest


def units_done(out: Path) -> int:
    """How far a run has come: markers of units and records of stages."""
    found = os.walk(out / ".pinglm")  # passes over folders that vanish while it looks
    return sum(name.endswith(".json") for _, _, names in found for name in names)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_killed_at_any_moment_continues_to_the_same_digest(
    workers: int, mixed_input: Path, tmp_path: Path
) -> None:
    undisturbed = prepare(mixed_input, tmp_path / "whole", *SHARDS)
    out = tmp_path / "killed"
    command = [*CLI, "prepare", "--input", mixed_input, "--out", out, "--workers", workers, *SHARDS]
    rng = random.Random(workers)
    kills = 0
    while kills < 6:
        # a random number of units further on than the last time, at a random moment after that
        goal = units_done(out) + rng.randrange(1, 9)
        process = subprocess.Popen(
            list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and units_done(out) < goal:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.05))
        if process.poll() is not None:
            break
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
        if (out / "store.zarr/zarr.json").exists():
            read_manifest(out / "store.zarr")  # finished means whole
    assert kills >= 3
    assert prepare(mixed_input, out, "--workers", workers, *SHARDS) == undisturbed
    assert verify_store(out / "store.zarr").problems == []
    assert not [p for p in out.rglob("*") if p.name.endswith(".tmp")]


def test_a_finished_folder_answers_at_once_with_the_same_report(
    mixed_input: Path, tmp_path: Path
) -> None:
    prepare(mixed_input, tmp_path / "out", *SHARDS)
    before = (tmp_path / "out/report.json").read_bytes()
    prepare(mixed_input, tmp_path / "out", *SHARDS)
    assert (tmp_path / "out/report.json").read_bytes() == before


RECORDS = (".pinglm/ingest.json", ".pinglm/split.json", ".pinglm/tokenize.json", "report.json")


def test_a_record_that_a_loss_of_power_emptied_is_a_fresh_start_to_the_same_bytes(
    tmp_path: Path,
) -> None:
    source = tmp_path / "a.ndjson"
    source.write_text("\n".join(json.dumps(ping(i)) for i in range(500)))
    out = tmp_path / "out"
    whole = prepare(source, out, *SHARDS)
    for name in RECORDS:
        (out / name).write_bytes(b"")
        assert prepare(source, out, *SHARDS) == whole
        assert json.loads((out / name).read_bytes())
    assert verify_store(out / "store.zarr").problems == []


def test_what_a_finished_run_relies_on_is_on_disk(
    mixed_input: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records and metadata as they are written; everything else at the latest with the stage's record."""
    from pipeline.folder import open_folder
    from pipeline.inputs import find_inputs
    from pipeline.prepare import PrepareOptions, prepare
    from pipeline.units import open_executor

    writes = Writes(monkeypatch)
    out = (tmp_path / "out").resolve()
    with open_folder(out) as folder, open_executor(1) as executor:
        files = find_inputs([str(mixed_input)])
        prepare(files, folder, PrepareOptions(), executor, lambda *_: None)
    records = [
        path for path in writes.names() if path.suffix == ".json" and "units" not in path.parts
    ]
    stages = {"ingest.json", "split.json", "tokenize.json"}
    assert {path.name for path in records} >= {"options.json", "report.json", "zarr.json", *stages}
    assert [path for path in records if not writes.durable(path)] == []
    kept = {path for path in out.rglob("*") if path.is_file() and path.name != "lock"}
    assert {path for path in kept if not writes.synced(path)} == set()


def test_stages_one_by_one_make_the_same_store_as_prepare(tmp_path: Path) -> None:
    source = tmp_path / "a.ndjson"
    source.write_text("\n".join(json.dumps(ping(i)) for i in range(500)))
    whole = prepare(source, tmp_path / "whole")
    out = tmp_path / "steps"
    for command in (["ingest", "--input", source], ["split"], ["tokenize"]):
        found = run(*command, "--out", out)
        assert found.returncode == 0, found.stderr
    assert read_manifest(out / "store.zarr").digest == whole


def test_without_input_a_simulated_internet_is_prepared(tmp_path: Path) -> None:
    found = run("prepare", "--rows", 20_000, "--out", tmp_path / "out", "--json")
    assert found.returncode == 0, found.stderr
    report = json.loads(found.stdout)
    assert report["totals"]["rows"] == 20_000
    assert (tmp_path / "out/truth").is_dir()
    assert verify_store(tmp_path / "out/store.zarr").problems == []
    path = write_parquet(measurement_table(10), tmp_path / "a.parquet")
    again = run("prepare", "--input", path, "--out", tmp_path / "out")
    assert again.returncode == 1
    assert "was started with no --input" in again.stderr


# --- Failing well: one line that names the file, exit 1, nothing that looks finished ---------------


def fails(out: Path, *arguments: object, **options: object) -> str:
    found = run("prepare", "--out", out, "--workers", 1, *arguments, **options)
    assert found.returncode == 1, (found.stdout, found.stderr)
    lines = found.stderr.strip().splitlines()
    assert len(lines) == 1, found.stderr
    assert lines[0].startswith("error: ")
    assert not (out / "store.zarr/zarr.json").exists()
    return lines[0]


def test_an_input_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "gone.json" in fails(tmp_path / "out", "--input", tmp_path / "gone.json")


def test_a_truncated_gzip_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cut.json.gz"
    data = gzip.compress(json.dumps([ping(i) for i in range(2000)]).encode())
    path.write_bytes(data[: len(data) // 2])
    assert "cut.json.gz" in fails(tmp_path / "out", "--input", path)


def test_a_truncated_parquet_is_named(tmp_path: Path) -> None:
    path = write_parquet(measurement_table(2000), tmp_path / "cut.parquet")
    path.write_bytes(path.read_bytes()[:5000])
    assert "cut.parquet" in fails(tmp_path / "out", "--input", path)


def test_a_folder_with_something_else_in_it_is_refused_and_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("x")
    path = write_parquet(measurement_table(10), tmp_path / "a.parquet")
    assert "holds something other than" in fails(out, "--input", path)
    assert [p.name for p in out.iterdir()] == ["thesis.tex"]


def test_no_rows_at_all_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "empty.json"
    path.write_text("[]")
    assert "empty.json" in fails(tmp_path / "out", "--input", path)


def test_two_runs_at_once_do_not_share_a_folder(tmp_path: Path) -> None:
    from pipeline.folder import open_folder

    path = write_parquet(measurement_table(10), tmp_path / "a.parquet")
    with open_folder(tmp_path / "out"):
        assert "another pinglm process" in fails(tmp_path / "out", "--input", path)
    assert prepare(path, tmp_path / "out")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
@pytest.mark.parametrize("size", ["300k", "2m", "5m"])
def test_a_full_disk_is_one_line_and_the_run_continues_with_more_space(
    size: str, tmp_path: Path
) -> None:
    path = write_parquet(measurement_table(60_000), tmp_path / "a.parquet")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"this machine does not let us mount: {mounted.stderr.strip()}")
    try:
        message = fails(disk / "out", "--input", path)
        assert "No space left" in message
        assert str(disk) in message
        subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
        assert prepare(path, disk / "out") == prepare(path, tmp_path / "roomy")
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_worker_that_dies_is_one_line_and_the_run_continues(tmp_path: Path) -> None:
    path = write_parquet(measurement_table(40_000), tmp_path / "a.parquet")
    command = [*CLI, "prepare", "--input", path, "--out", tmp_path / "out", "--workers", "2"]
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    import psutil

    killed = False
    deadline = time.monotonic() + 30
    while not killed and process.poll() is None and time.monotonic() < deadline:
        for child in psutil.Process(process.pid).children():
            if "spawn_main" in " ".join(child.cmdline()):
                child.kill()
                killed = True
        time.sleep(0.01)
    error = process.communicate(timeout=60)[1].strip()
    assert process.returncode == 1
    assert "a worker process died" in error
    assert "Traceback" not in error
    assert prepare(path, tmp_path / "out") == prepare(path, tmp_path / "other")
