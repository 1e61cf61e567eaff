"""Files made to do harm, given to `ingest` and `prepare` as users would."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.attack.bounded import CLI, bomb, bounded, refused
from tests.measurements.encrypted_parquet import write_encrypted
from tests.pipeline.ingest.results import lines, ping
from tests.pipeline.tables import measurement_table, write_parquet

pytestmark = [pytest.mark.attack, pytest.mark.timeout(300)]
GOOD = lines([ping(n) for n in range(50)])


def accepted(path: Path, out: Path, **limits: Any) -> int:
    """Rows that `ingest` takes."""
    ended = bounded("ingest", "--input", path, "--out", out, "--workers", 1, "--json", **limits)
    assert ended.code == 0, ended.error
    return sum(file["accepted"] for file in json.loads(ended.out)["files"])


@pytest.mark.parametrize(
    ("start", "fill", "end"),
    [
        (b"", b" ", b""),
        (b"[", b" \n", b"]"),
        (b"", b"\0", b""),
        (b'{"type": "ping", "x": "', b"a", b'"}\n'),
        (b"[", b"1,", b"1]"),
        (b"", b"[", b""),
        (b"", b"{}\n", b""),
    ],
    ids=["blanks", "array", "zeros", "long line", "numbers", "brackets", "records"],
)
def test_a_gibibyte_in_a_small_file_takes_no_more_memory(
    start: bytes, fill: bytes, end: bytes, tmp_path: Path
) -> None:
    size = 8 if fill == b"{}\n" else 1024  # each of these is a reject of its own
    path = bomb(tmp_path / "bomb.json.gz", start, fill, size, end)
    ended = bounded(
        *("ingest", "--input", path, "--out", tmp_path / "out", "--workers", 1),
        seconds=240,
        mebibytes=1500,
    )
    assert ended.code == 1
    assert "Traceback" not in ended.error


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 100_000 + b"]" * 100_000,
        b'{"type": "ping", "result": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"type": "ping", "result": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
        b'{"type": "ping", "src_addr": "\xff\xfe\x80"}',
        json.dumps(ping(1) | {"timestamp": 10**400}).encode(),
        json.dumps(ping(1) | {"result": [{"rtt": 10**400}]}).encode(),
        json.dumps(ping(1) | {"msm_id": "9" * 400, "prb_id": -(10**400)}).encode(),
        b'{"type": "ping", "timestamp": 1e99999}',
    ],
    ids=["arrays", "in a result", "objects", "utf-8", "time", "rtt", "ids", "exponent"],
)
def test_a_bad_line_costs_no_other(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    path.write_bytes(GOOD + line + b"\n" + lines([ping(n) for n in range(50, 100)]))
    assert accepted(path, tmp_path / "out", seconds=60, mebibytes=1500) == 100


def test_names_with_escape_codes_and_line_ends_are_never_printed_raw(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("\x1b]0;owned\x07.json", "two\nlines.json", "\u202ergb.json"):
        (folder / name).write_bytes(GOOD)
        (folder / f"bad {name}").write_bytes(b"[")
    ended = bounded(
        *("ingest", "--input", folder, "--out", tmp_path / "out", "--workers", 1),
        seconds=60,
        mebibytes=1500,
    )
    for line in (ended.out + ended.error).split("\n"):
        assert line.isprintable(), line
    broken = folder / "\x1b[2J.json.gz"
    broken.write_bytes(b"\x1f\x8b\x08 no gzip")
    assert r"\x1b[2J" in refused("ingest", "--input", broken, "--out", tmp_path / "other")


def test_links_in_circles_pipes_and_devices_are_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.json").write_bytes(GOOD)
    (folder / "circle").symlink_to(folder)
    (folder / "zero.json").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.json")
    assert accepted(folder, tmp_path / "out", seconds=60, mebibytes=1500) == 50
    for name, what in (("zero.json", "device"), ("pipe.json", "pipe")):
        line = refused("prepare", "--input", folder / name, "--out", tmp_path / "other")
        assert f"is a {what}, expected a regular file" in line


def test_a_file_that_grows_while_it_is_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "growing.ndjson"
    path.write_bytes(GOOD * 4000)
    done = threading.Event()

    def grow() -> None:
        with path.open("ab") as file:
            while not done.wait(0.002):
                file.write(GOOD)
                file.flush()

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        line = refused("ingest", "--input", path, "--out", tmp_path / "out", "--workers", 1)
    finally:
        done.set()
        thread.join()
    assert "growing.ndjson" in line
    assert "changed" in line


def test_ten_thousand_row_groups_are_read(tmp_path: Path) -> None:
    table = measurement_table(10_000)
    path = write_parquet(table, tmp_path / "a.parquet", row_group_size=1)
    ended = bounded(
        *("prepare", "--input", path, "--out", tmp_path / "out", "--workers", 2, "--json"),
        seconds=200,
        mebibytes=2500,
    )
    assert ended.code == 0, ended.error


def test_an_encrypted_table_and_one_without_rows_are_refused(tmp_path: Path) -> None:
    empty = write_parquet(measurement_table(10).slice(0, 0), tmp_path / "empty.parquet")
    assert "empty.parquet" in refused("prepare", "--input", empty, "--out", tmp_path / "a")

    for plaintext_footer in (False, True):
        path = tmp_path / f"encrypted{plaintext_footer:d}.parquet"
        write_encrypted(measurement_table(100), path, "rtt", plaintext_footer)
        line = refused("prepare", "--input", path, "--out", tmp_path / f"b{plaintext_footer:d}")
        assert path.name in line


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*CLI, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_of_two_runs_at_once_one_makes_the_store(tmp_path: Path) -> None:
    path = write_parquet(measurement_table(20_000), tmp_path / "a.parquet")
    command = ("prepare", "--input", path, "--workers", 1, "--json", "--out")
    both = [start(*command, tmp_path / "out") for _ in range(2)]
    ends = [(process.communicate(timeout=120), process.returncode) for process in both]
    errors = [error for (_, error), code in ends if code]
    assert all("another pinglm process" in error for error in errors)
    assert len(errors) <= 1
    alone = bounded(*command, tmp_path / "alone", seconds=120, mebibytes=1500)
    digest = json.loads(alone.out)["store"]["digest"]
    assert {json.loads(out)["store"]["digest"] for (out, _), code in ends if not code} == {digest}


@pytest.mark.parametrize("stage", ["ingest", "split", "tokenize"])
def test_a_worker_killed_in_a_stage_is_one_line_and_the_run_continues(
    stage: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.ndjson"
    path.write_bytes(b"".join(lines([ping(n)]) for n in range(60_000)))
    command = ("prepare", "--input", path, "--workers", 2, "--rows-per-shard", 2000, "--json")
    out = tmp_path / "out"
    process = start(*command, "--out", out)
    at_work = out / ".pinglm" / stage / "units"
    for _ in itertools.count():
        assert process.poll() is None, "it ended before a worker was killed"
        if at_work.is_dir() and (children := workers(process.pid)):
            children[0].kill()
            break
        time.sleep(0.001)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 1, error
    assert "a worker process died" in error
    assert "Traceback" not in error
    again = bounded(*command, "--out", out, seconds=120, mebibytes=2500)
    alone = bounded(*command, "--out", tmp_path / "alone", seconds=120, mebibytes=2500)
    first, second = (json.loads(ended.out)["store"]["digest"] for ended in (again, alone))
    assert first == second


def workers(pid: int) -> list[psutil.Process]:
    """The processes that do the units' work."""
    found = []
    for child in psutil.Process(pid).children():
        try:
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found
