"""The command `fetch` as a process: interrupted, refused, without space, and what `prepare` makes of its files."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.fetch.api import KEY as KEY_VARIABLE
from tests.helpers import limited_to
from tests.pipeline.fetch.atlas_api import KEY, Api
from tests.pipeline.fetch.downloads import JAN, command, execute, expected, files, lines, run
from tests.pipeline.ingest.results import ping
from tests.pipeline.remote.prepared import digest


def test_what_fetch_wrote_goes_through_prepare(server: tuple[Api, str], tmp_path: Path) -> None:
    api, url = server
    api.private, api.faults = {1004}, ["", "500", "drop"]
    done = execute(command(url, tmp_path / "d"), **{KEY_VARIABLE: KEY})
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{tmp_path}/d: 6 new files, {len(expected(api)):,} results, ")
    assert f"cli.py prepare --input {tmp_path}/d --out data\n" in done.stdout
    again = execute(command(url, tmp_path / "d", "--json"), **{KEY_VARIABLE: KEY})
    assert json.loads(again.stdout)["files_before"] == 6
    whole = tmp_path / "all.json"
    whole.write_text("".join(json.dumps(r) + "\n" for r in expected(api)))
    digest([str(tmp_path / "d")], tmp_path / "out")
    digest([str(whole)], tmp_path / "one")
    reports = [json.loads((tmp_path / f"{out}/report.json").read_bytes()) for out in ("out", "one")]
    totals = [report["totals"] for report in reports]
    assert totals[0] == totals[1]
    assert totals[0]["rows"] == len(expected(api))
    assert "duplicate" not in totals[0]["rejected"]
    assert [f["file"] for f in reports[0]["files"]] == list(files(tmp_path / "d"))
    shown = done.stdout + done.stderr + again.stdout + again.stderr
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert KEY not in shown
    assert KEY.encode() not in written


@pytest.mark.parametrize("moment", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_or_killed_fetch_continues_where_it_stopped(
    moment: signal.Signals, server: tuple[Api, str], tmp_path: Path
) -> None:
    api, url = server
    started = subprocess.Popen(command(url, tmp_path / "d"), stderr=subprocess.PIPE, text=True)

    def stop(count: int) -> None:
        if count == 3:
            api.hold.set()
            started.send_signal(moment)

    api.on_request = stop
    _, errors = started.communicate(timeout=60)
    assert len(files(tmp_path / "d")) == 2
    if moment == signal.SIGINT:
        assert started.returncode == 130
        assert errors == "error: interrupted; run the same command again to continue\n"
        assert not list((tmp_path / "d").glob(".*.tmp"))
    api.hold.clear()
    api.on_request = lambda count: None
    api.asked.clear()
    done = execute(command(url, tmp_path / "d"))
    assert done.returncode == 0, done.stderr
    assert len(api.asked) == 4
    assert lines(tmp_path / "d") == expected(api)


def test_errors_are_one_line(server: tuple[Api, str], tmp_path: Path) -> None:
    api, url = server
    api.private = {1004}
    refused = execute(command(url, tmp_path / "d"), **{KEY_VARIABLE: "neverprinted"})
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == (
        f"error: {url}/api/v2/measurements/1004/results/ (1004-20240101T000000Z-20240102T000000Z.ndjson): "
        "access denied: the key in RIPE_ATLAS_API_KEY may not see this measurement, or is no longer valid\n"
    )
    assert len(files(tmp_path / "d")) == 3


def test_a_full_disk_is_one_line_and_leaves_nothing_half(
    server: tuple[Api, str], tmp_path: Path
) -> None:
    _, url = server
    full = execute([*limited_to(10), *command(url, tmp_path / "d")])
    assert full.returncode == 1
    first = f"{tmp_path}/d/1001-20240101T000000Z-20240102T000000Z.ndjson"
    assert full.stderr == f"error: {first}: cannot write: File too large\n"
    assert files(tmp_path / "d") == {}
    assert not list((tmp_path / "d").glob(".*.tmp"))
    assert run(url, tmp_path / "d").files == 6


def test_memory_does_not_grow_with_a_slice(tmp_path: Path) -> None:
    api = Api([])
    body = (json.dumps(ping(1, msm_id=1001, timestamp=JAN)) + "\n").encode() * 400_000
    api._body = lambda *_: body  # type: ignore[method-assign]
    api.results = [{"msm_id": 1001}]
    with api.serve() as url:
        measured = (
            "import cli\n"
            "try: cli.main()\n"
            "finally: print([line for line in open('/proc/self/status') if 'VmHWM' in line][0].split()[1])"
        )
        given = ["--msm", "1001", "--start", "2024-01-01", "--stop", "2024-01-02", "--url", url]
        words = [sys.executable, "-c", measured, "fetch", *given, "--out", str(tmp_path / "d")]
        done = execute(words)
    assert done.returncode == 0, done.stderr
    assert "400,000 results" in done.stdout
    assert len(body) > 75 << 20
    assert int(done.stdout.splitlines()[-1]) << 10 < 75 << 20
