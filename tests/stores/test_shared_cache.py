"""Several processes that want the same store from a URL at once: one pulls it into the cache, the others wait."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from stores import TokenStore
from stores.folder_lock import take_turn
from tests.stores.mirrors import ALL, ROOT, content_of
from tests.stores.remote_servers import Files

HERE = socket.gethostname()


@pytest.fixture
def files(bucket: Path) -> Files:
    """The store, to be served over HTTP."""
    return Files(bucket)


@pytest.fixture
def cache(store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the store will lie in a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / f"cache/pinglm/stores/{TokenStore.open(store_path).digest}.zarr"


@pytest.fixture
def processes() -> Iterator[ExitStack]:
    """Ends what it is given."""
    with ExitStack() as stack:
        yield stack


def inspect(url: str, processes: ExitStack) -> subprocess.Popen[str]:
    """A process that wants the store."""
    command = [sys.executable, str(ROOT / "cli.py"), "inspect-store", url, "--json"]
    pipe = subprocess.PIPE
    process = processes.enter_context(
        subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)
    )
    processes.callback(process.kill)
    return process


def first_line(process: subprocess.Popen[str]) -> str:
    """What it says first on standard error."""
    assert process.stderr is not None
    return process.stderr.readline()


def test_one_of_several_processes_pulls_and_the_others_find_the_store(
    files: Files, store_path: Path, cache: Path, processes: ExitStack
) -> None:
    with files.serve() as url:
        with take_turn(cache.with_suffix(".lock"), waiting=print):  # as one that is pulling
            both = [inspect(url, processes) for _ in range(2)]
            for process in both:
                said = first_line(process)
                assert said == f"waiting for process {os.getpid()} on {HERE}, which pulls {url}\n"
        for process in both:
            output, errors = process.communicate(timeout=60)
            assert (process.returncode, errors) == (0, "")
            assert TokenStore.open(store_path).digest in output
        pulled = Counter(path for path in files.asked if path != "/zarr.json")
    assert len(pulled) == ALL - 1
    assert set(pulled.values()) == {1}
    assert content_of(cache) == content_of(store_path)


def test_when_the_one_that_pulls_is_killed_another_takes_over(
    files: Files, store_path: Path, cache: Path, processes: ExitStack
) -> None:
    with files.serve() as url:
        victim = inspect(url, processes)

        def stop(count: int) -> None:
            if count == 20:
                victim.send_signal(signal.SIGSTOP)  # it holds the lock, and gets no further

        files.on_request = stop
        deadline = time.monotonic() + 60
        while len(files.asked) < 20 and time.monotonic() < deadline:
            time.sleep(0.01)
        other = inspect(url, processes)
        said = first_line(other)
        assert said == f"waiting for process {victim.pid} on {HERE}, which pulls {url}\n"
        assert other.poll() is None
        victim.kill()
        output, errors = other.communicate(timeout=60)
    assert (other.returncode, errors) == (0, "")
    assert TokenStore.open(store_path).digest in output
    assert content_of(cache) == content_of(store_path)
