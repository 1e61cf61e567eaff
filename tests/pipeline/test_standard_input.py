"""Results from standard input: the store of the same file, and reruns that are given it anew."""

from __future__ import annotations

import gzip
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.folder import open_folder
from tests.helpers import limited_to
from tests.pipeline.ingest.results import lines, ping
from tests.pipeline.remote.prepared import ROOT, digest
from tests.pipeline.tables import measurement_table, write_parquet

RESULTS = lines([ping(i) for i in range(2000)])


def command(out: Path, *more: object, stage: str = "prepare") -> list[str]:
    given = [stage, "--input", "-", "--out", str(out), "--workers", "1", "--json"]
    return [sys.executable, str(ROOT / "cli.py"), *given, *map(str, more)]


def run(
    out: Path, text: bytes, *more: object, **options: Any
) -> subprocess.CompletedProcess[bytes]:
    words = command(out, *more, stage=options.pop("stage", "prepare"))
    return subprocess.run(words, input=text, capture_output=True, timeout=120, **options)


def refused(done: subprocess.CompletedProcess[bytes]) -> str:
    """The one line that a run ended with."""
    assert (done.returncode, done.stdout) == (1, b"")
    [line] = done.stderr.decode().splitlines()
    return line


def store_of(done: subprocess.CompletedProcess[bytes]) -> str:
    assert done.returncode == 0, done.stderr
    found: str = json.loads(done.stdout)["store"]["digest"]
    return found


@pytest.mark.parametrize("kind", ["ndjson", "gzip", "parquet"])
def test_standard_input_gives_the_store_of_a_file(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "in/stdin"
    file.parent.mkdir()
    if kind == "parquet":
        write_parquet(measurement_table(2000), file)
    else:
        file.write_bytes(gzip.compress(RESULTS) if kind == "gzip" else RESULTS)
    done = run(tmp_path / "out", file.read_bytes())
    assert store_of(done) == digest([str(file)], tmp_path / "local")
    assert [entry["file"] for entry in json.loads(done.stdout)["files"]] == ["stdin"]
    assert not (tmp_path / "out/.pinglm/stdin").exists()


def test_standard_input_may_be_one_of_several_inputs(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(lines([ping(i) for i in range(3000, 3100)]))
    done = run(tmp_path / "out", RESULTS, "--input", tmp_path / "a.json", stage="ingest")
    assert done.returncode == 0, done.stderr
    assert {f["file"]: f["rows"] for f in json.loads(done.stdout)["files"]} == {
        "a.json": 100,
        "stdin": 2000,
    }


def test_a_killed_run_continues_with_the_same_input_and_no_other(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "text").write_bytes(RESULTS)
    with open(tmp_path / "text", "rb") as text:
        started = subprocess.Popen(command(out), stdin=text, stdout=subprocess.DEVNULL)
        while not list(out.glob(".pinglm/ingest/units/*.json")) and started.poll() is None:
            time.sleep(0.001)
        started.kill()
        assert started.wait(60) == -signal.SIGKILL
    other = refused(run(out, RESULTS.replace(b"9.9.1.9", b"9.9.2.9", 1)))
    assert "other input files (or they changed since), the first of them stdin" in other
    found = store_of(run(out, RESULTS))
    (tmp_path / "stdin").write_bytes(RESULTS)
    assert found == digest([str(tmp_path / "stdin")], tmp_path / "local")
    assert store_of(run(out, RESULTS)) == found
    assert "stdin" in refused(run(out, RESULTS[: len(RESULTS) // 2]))
    assert not (out / ".pinglm/stdin").exists()


def test_empty_input_and_a_terminal_are_refused(tmp_path: Path) -> None:
    assert refused(run(tmp_path / "out", b"")) == (
        "error: standard input: is empty, expected results: did what writes it fail?"
    )
    store_of(run(tmp_path / "out", RESULTS))  # it had not begun
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            command(tmp_path / "tty"), stdin=theirs, capture_output=True, timeout=60
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert refused(done) == (
        "error: standard input: is a terminal, expected results: pipe them into --input -"
    )


def test_a_lack_of_space_for_it_is_reported_and_nothing_is_left(tmp_path: Path) -> None:
    words = [*limited_to(10), *command(tmp_path / "out", stage="prepare")]
    done = subprocess.run(words, input=RESULTS, capture_output=True, timeout=120)
    assert refused(done) == f"error: {tmp_path}/out/.pinglm/stdin: cannot write: File too large"
    assert {path.name for path in (tmp_path / "out/.pinglm").iterdir()} == {"lock"}


def test_a_second_run_leaves_the_first_ones_input_alone(tmp_path: Path) -> None:
    spool = tmp_path / "out/.pinglm/stdin"
    with open_folder(tmp_path / "out"):
        spool.write_bytes(RESULTS)
        said = refused(run(tmp_path / "out", RESULTS))
        assert "another pinglm process is working in this folder" in said
        assert spool.read_bytes() == RESULTS
