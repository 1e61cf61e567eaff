"""`prepare` with inputs at URLs: the same store as from local files, whatever happens on the way."""

from __future__ import annotations

import bz2
import gzip
import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from pipeline.folder import open_folder
from pipeline.ingest import stage
from pipeline.inputs import find_inputs
from pipeline.prepare import PrepareOptions, prepare
from pipeline.remote import tries
from pipeline.remote.objects import bucket_of
from pipeline.units import open_executor
from stores.errors import ConfigError, InputError
from stores.manifest import read_manifest
from stores.verify import verify_store
from tests.measurements.bigquery_table import write_bigquery
from tests.pipeline.ingest.results import lines, outputs, ping
from tests.pipeline.remote.web_server import Web
from tests.pipeline.tables import measurement_table, write_parquet
from tests.s3_server import KEY, SECRET, TOKEN, change, new_bucket, s3_server, use
from tests.stores.remote_servers import Relay

ROOT = Path(__file__).parents[3]
PIECE = 30_000
SIGNED = "X-Amz-Signature=neverprinted&X-Amz-Credential=neverprinted%2F2026&token=neverprinted"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inputs of all kinds, one of them in pieces; some rows bad, some twice."""
    folder = tmp_path_factory.mktemp("in")
    rng = random.Random(0)
    text = lines([ping(rng.randrange(900), x=rng.randbytes(100).hex()) for _ in range(1500)])
    (folder / "2024-01").mkdir()
    (folder / "2024-01/ping-a.bz2").write_bytes(bz2.compress(text + b"{\n" + text[:5000], 1))
    (folder / "2024-01/ping-b.json.gz").write_bytes(
        gzip.compress(lines([ping(i) for i in range(300)]))
    )
    (folder / "c.json").write_text(json.dumps([ping(i, msm_id=5) for i in range(200)]))
    (folder / "d.jsonl.zst").write_bytes(
        zstandard.compress(lines([ping(i, af=6) for i in range(50)]))
    )
    (folder / "empty.json").write_bytes(b"")
    write_bigquery(folder / "q.parquet", [ping(i, msm_id=7) for i in range(80)])
    write_parquet(measurement_table(3000), folder / "p.parquet", row_group_size=900)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket_of.cache_clear()
    monkeypatch.setattr(tries, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(stage, "MIN_BATCH_BYTES", PIECE)
    monkeypatch.setattr(stage, "MAX_BATCH_BYTES", PIECE)


def digest(inputs: list[str], out: Path, workers: int = 1, stop: str = "") -> str:
    """Digest of the store that `prepare` makes. Interrupted after two units of the step `stop`."""

    def interrupt(step: str, done: int, total: int) -> None:
        if step == stop and done == 2:
            raise KeyboardInterrupt

    with open_folder(out) as opened, open_executor(workers) as executor:
        files = find_inputs(inputs)
        return prepare(files, opened, PrepareOptions(), executor, interrupt).store.digest


@pytest.fixture(scope="module")
def local(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, str]]:
    """Digest of the store from local files, and all that was written."""
    out = tmp_path_factory.mktemp("local") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "MIN_BATCH_BYTES", PIECE)
        patch.setattr(stage, "MAX_BATCH_BYTES", PIECE)
        found = digest([str(folder)], out)
    return found, files_of(out)


def files_of(out: Path) -> dict[str, str]:
    """Digests of the user's files, but for the times in the report and the records of stages."""
    return {
        name: value
        for name, value in outputs(out).items()
        if name != "report.json" and not name.startswith(".pinglm")
    }


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture
def bucket(server: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """s3:// URL of the folder in a bucket."""
    use(monkeypatch, server)
    url = f"{new_bucket(server)}/all"
    for name, content in contents(folder).items():
        change(server, f"{url}/{name}", content)
    return url


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bucket_gives_the_store_of_the_local_files(
    workers: int, bucket: str, local: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    given = [bucket] if workers == 1 else [f"{bucket}/*"]
    assert digest(given, tmp_path / "out", workers) == local[0]
    assert files_of(tmp_path / "out") == local[1]
    assert verify_store(tmp_path / "out/store.zarr").sound


@pytest.fixture
def web(folder: Path) -> Iterator[tuple[Web, list[str]]]:
    """The folder on a web server, and the URLs of its files."""
    found = Web(contents(folder))
    with found.serve() as url:
        yield found, [f"{url}/{name}" for name in found.files]


@pytest.fixture(scope="module")
def local_files(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Digest of the store from the files under their own names, as a web server gives them."""
    out = tmp_path_factory.mktemp("local") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "MIN_BATCH_BYTES", PIECE)
        patch.setattr(stage, "MAX_BATCH_BYTES", PIECE)
        return digest([str(folder / name) for name in contents(folder)], out)


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


def command(inputs: list[str], out: Path, *more: object) -> list[str]:
    given = [part for url in inputs for part in ("--input", url)]
    return [
        sys.executable,
        str(ROOT / "cli.py"),
        "prepare",
        "--out",
        str(out),
        *given,
        *map(str, more),
    ]


@pytest.mark.parametrize("moment", [8, 14])
def test_killed_at_a_request_it_continues_to_the_same_digest(
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


def test_killed_while_it_reads_a_bucket_it_continues_to_the_same_digest(
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


def test_signatures_are_nowhere_and_may_change(
    web: tuple[Web, list[str]], local_files: str, tmp_path: Path
) -> None:
    at, urls = web
    signed = [f"{url}?{SIGNED}" for url in urls]
    with pytest.raises(KeyboardInterrupt):
        digest(signed, tmp_path / "out", stop="ingest: parse")
    assert digest([f"{url}?{SIGNED}anew" for url in urls], tmp_path / "out") == local_files
    assert all(SIGNED in path for path, _ in at.asked)
    done = subprocess.run(
        command(signed, tmp_path / "other"), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    at.files.clear()
    failed = subprocess.run(
        command(signed, tmp_path / "failed"), capture_output=True, text=True, timeout=120
    )
    assert (failed.returncode, failed.stdout) == (1, "")
    assert re.fullmatch(r"error: http://[^?]*: there is no such file\n", failed.stderr)
    shown = done.stdout + done.stderr + failed.stderr
    written = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert "neverprinted" not in shown
    assert b"neverprinted" not in written
    assert {entry.name for entry in read_manifest(tmp_path / "out/store.zarr").inputs} == {
        Path(url).name for url in urls
    }


def test_keys_of_a_bucket_are_nowhere(bucket: str, tmp_path: Path) -> None:
    environment = {**os.environ, "RUST_LOG": "debug"}
    done = subprocess.run(
        command([bucket], tmp_path / "out"),
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    written = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    for secret in (KEY, SECRET, TOKEN):
        assert secret not in done.stdout + done.stderr
        assert secret.encode() not in written


HIDDEN = "import sys; sys.modules[sys.argv.pop(1)] = None; import cli; cli.main()"


def test_without_the_extra_a_bucket_says_what_to_install_and_the_web_needs_none(
    web: tuple[Web, list[str]], tmp_path: Path
) -> None:
    def run(url: str) -> subprocess.CompletedProcess[str]:
        arguments = ["obstore", "ingest", "--input", url, "--out", str(tmp_path / "out"), "--json"]
        return subprocess.run(
            [sys.executable, "-c", HIDDEN, *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=ROOT,
        )

    failed = run("s3://bucket/pings/*.bz2")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr == (
        "error: obstore is not installed: this command needs the extra `cloud`: "
        "run pip install '.[cloud]' in the clone\n"
    )
    assert run(web[1][0]).returncode == 0


def test_local_files_load_nothing_of_it(folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from pipeline.inputs import find_inputs, find_left_out\n"
        "results = [f'{sys.argv[1]}/2024-01']  # what looks into Parquet loads PyArrow, and that ssl\n"
        "find_inputs(results); find_left_out(results)\n"
        "print([name for name in ('urllib.request', 'http.client', 'ssl') if name in sys.modules])\n"
        "import cli\n"
        "try: cli.app(['ingest', '--input', f'{sys.argv[1]}/c.json', '--out', sys.argv[2]])\n"
        "except SystemExit as end: assert not end.code\n"
        "print([name for name in sys.modules if name.startswith(('obstore', 'stores.bucket', 'pipeline.remote'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(tmp_path / "out")],
        capture_output=True, text=True, timeout=120, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = done.stdout.splitlines()
    assert (found[0], found[-1]) == ("[]", "[]")
