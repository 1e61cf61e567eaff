"""`prepare` on a Dask cluster of two nodes with addresses of their own, and what a broken network does to it.

To be run by `make cluster-test`; its name keeps it out of `make test`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks.local_dask import ROOT, LocalDask

INPUT = ("--rows", "20000", "--rows-per-shard", "1000", "--seed", "3")
SILENCE = "12s"
"""How long Dask waits for a node that does not answer; by default 30 s."""

pytestmark = pytest.mark.timeout(900)


def on(node: int) -> tuple[str, ...]:
    """The words to put before a command that is to run on a node."""
    return ("ip", "netns", "exec", f"node{node}")


def command(out: Path, *options: str) -> list[str]:
    return [sys.executable, "cli.py", "prepare", *INPUT, "--out", str(out), "--json", *options]


def digest(printed: str) -> str:
    return str(json.loads(printed)["store"]["digest"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of the store that one process makes."""
    line = command(tmp_path_factory.mktemp("whole"), "--workers", "1")
    return digest(subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True).stdout)


@pytest.fixture
def dask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalDask]:
    """A scheduler and a worker on node 1."""
    monkeypatch.setenv("DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP", SILENCE)
    with LocalDask(tmp_path, "10.0.0.1", *on(1)) as cluster:
        cluster.add_workers(1, *on(1))
        yield cluster


def test_two_nodes_make_the_store_of_one_process(
    dask: LocalDask, whole: str, tmp_path: Path
) -> None:
    dask.add_workers(1, *on(2))
    before = sent_by_node_2()
    out = tmp_path / "out"
    line = command(out, "--scheduler", dask.address)
    found = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert digest(found.stdout) == whole
    started = [re.findall(r"worker at:\s+tcp://([\d.]+)", log.read_text()) for log in logs(dask)]
    assert sorted(address for found in started for address in found[:1]) == ["10.0.0.1", "10.0.0.2"]
    sent = sent_by_node_2() - before
    print(f"node 2 sent {sent:,} bytes")  # shown with -s
    assert 10_000 < sent < 20_000 * 100  # results of units, but no rows


def sent_by_node_2() -> int:
    """Bytes that have come through the switch from node 2."""
    return int(psutil.net_io_counters(pernic=True)["port2"].bytes_recv)


def logs(dask: LocalDask) -> list[Path]:
    return sorted(dask.folder.glob("worker-*.log"))


def test_a_node_that_is_cut_off_in_the_middle_changes_nothing(
    dask: LocalDask, whole: str, tmp_path: Path
) -> None:
    dask.add_workers(1, *on(2))
    out = tmp_path / "out"
    line = command(out, "--scheduler", dask.address)
    process = subprocess.Popen(
        line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not any((out / ".pinglm/split").glob("units/shard-train-*.json")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    subprocess.run(["ip", "link", "set", "port2", "down"], check=True)
    try:
        printed, errors = process.communicate(timeout=400)
    finally:
        process.kill()
        subprocess.run(["ip", "link", "set", "port2", "up"], check=True)
    assert process.returncode == 0, errors
    assert digest(printed) == whole


def test_a_node_with_a_file_system_of_its_own_is_named_at_once(
    dask: LocalDask, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    script = f'mount -t tmpfs own {out} && exec "$@"'
    dask.add_workers(1, *on(2), "unshare", "--mount", "sh", "-c", script, "sh")
    line = command(out, "--scheduler", dask.address)
    found = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 1
    assert found.stderr.count("\n") == 1
    assert re.search(rf"its worker tcp://10\.0\.0\.2:\d+ on \S+ does not see {out}/", found.stderr)
    assert sorted(path.name for path in (out / ".pinglm").iterdir()) == ["lock"]
