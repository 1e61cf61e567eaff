"""`prepare` with inputs at URLs: the same store as from local files, whatever happens on the way."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest

from pipeline.inputs import find_inputs
from stores.errors import ConfigError, InputError
from stores.verify import verify_store
from tests.pipeline.remote.prepared import command, contents, digest, files_of
from tests.pipeline.remote.web_server import Web
from tests.s3_server import google, use
from tests.stores.remote_servers import Relay


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bucket_gives_the_store_of_the_local_files(
    workers: int, bucket: str, local: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    given = [bucket] if workers == 1 else [f"{bucket}/*"]
    assert digest(given, tmp_path / "out", workers) == local[0]
    assert files_of(tmp_path / "out") == local[1]
    assert verify_store(tmp_path / "out/store.zarr").sound


def test_google_s_storage_gives_the_store_of_the_local_files(
    server: str,
    bucket: str,
    local: tuple[str, dict[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with google(monkeypatch, server, tmp_path):
        found = digest([bucket.replace("s3://", "gs://")], tmp_path / "out")
    assert found == local[0]
    assert files_of(tmp_path / "out") == local[1]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failing_web_server_gives_the_store_of_the_local_files(
    workers: int, web: tuple[Web, list[str]], local_files: str, tmp_path: Path
) -> None:
    at, urls = web
    for i, name in enumerate(at.files):
        faults = ["500", "drop", "416", "more", "less", "429"]
        at.faults[name] = ["", *faults[i:], "", *faults[:i], "drop", "", "", "drop"]
    assert digest(urls, tmp_path / "out", workers) == local_files


def test_a_server_that_knows_little_gives_the_store_of_the_local_files(
    web: tuple[Web, list[str]], folder: Path, tmp_path: Path
) -> None:
    """No ranges, no lengths, no tags: all but the Parquet, which says what it needs."""
    at, urls = web
    at.ranges = at.tags = at.times = False
    at.length = "chunked"
    results = [url for url in urls if not url.endswith("parquet")]
    names = [name for name in contents(folder) if not name.endswith("parquet")]
    there = digest([str(folder / name) for name in names], tmp_path / "local")
    for name in names:
        at.faults[name] = ["", "drop", "500", "drop"]
    assert digest(results, tmp_path / "out") == there
    with pytest.raises(
        InputError, match=r"p\.parquet: Parquet is read in ranges, .*: download the file"
    ):
        find_inputs(urls)


@pytest.mark.parametrize("moment", [8, 14])
def test_a_run_killed_at_a_request_continues_to_the_same_digest(
    moment: int, web: tuple[Web, list[str]], local_files: str, tmp_path: Path
) -> None:
    at, urls = web
    started = subprocess.Popen(command(urls, tmp_path / "out", "--workers", 2))

    def kill(count: int) -> None:
        if count == moment:
            started.kill()

    at.on_request = kill
    assert started.wait(120) == -signal.SIGKILL
    at.on_request = lambda count: None
    done = subprocess.run(
        command(urls, tmp_path / "out", "--json", "--workers", 2),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["store"]["digest"] == local_files


def test_a_run_killed_while_it_reads_a_bucket_continues_to_the_same_digest(
    server: str,
    bucket: str,
    local: tuple[str, dict[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    relay, asked = Relay(server), 0
    with relay.serve() as endpoint:
        use(monkeypatch, endpoint)
        started = subprocess.Popen(command([bucket], tmp_path / "out", "--workers", 2))

        def kill(path: str) -> None:
            nonlocal asked
            asked += 1
            if asked == 7:
                started.kill()

        relay.fault = kill
        assert started.wait(120) == -signal.SIGKILL
    use(monkeypatch, server)
    done = subprocess.run(
        command([bucket], tmp_path / "out", "--json"), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["store"]["digest"] == local[0]


@pytest.mark.parametrize(
    ("stop", "name"),
    [
        ("ingest: parse", "2024-01/ping-a.bz2"),
        ("ingest: write", "2024-01/ping-a.bz2"),
        ("split: sort", "2024-01/ping-a.bz2"),
        ("split: sort", "p.parquet"),
    ],
)
def test_a_file_that_changes_between_two_runs_is_named(
    stop: str, name: str, web: tuple[Web, list[str]], tmp_path: Path
) -> None:
    at, urls = web
    with pytest.raises(KeyboardInterrupt):
        digest(urls, tmp_path / "out", stop=stop)
    at.files[name] = at.files[name][:-1] + b"#"
    said = rf"other input files \(or they changed since\), the first of them {Path(name).name}: "
    with pytest.raises(ConfigError, match=said):
        digest(urls, tmp_path / "out")


@pytest.mark.parametrize("name", ["2024-01/ping-a.bz2", "2024-01/ping-b.json.gz", "p.parquet"])
def test_a_file_that_changes_during_a_run_is_named(
    name: str, web: tuple[Web, list[str]], tmp_path: Path
) -> None:
    at, urls = web
    times = 0

    def change_it(count: int) -> None:
        nonlocal times
        times += at.asked[-1][0] == f"/{name}"
        if times == 3:
            at.files[name] = at.files[name][:-1] + b"#"

    at.on_request = change_it
    with pytest.raises(InputError, match=rf"/{name}: changed since this run began"):
        digest(urls, tmp_path / "out")
