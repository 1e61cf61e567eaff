"""A command's wall time, CPU time and memory, with all its child processes."""

from __future__ import annotations

import contextlib
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

import psutil


def measure(command: Sequence[object]) -> dict[str, Any]:
    """Run `python` with these arguments; return {"wall_s", "cpu_s", "peak_bytes"}.

    Memory is the proportional set size of all processes together (a page they share counts once),
    sampled 20 times a second. Raises `RuntimeError` with the last line of its errors when the command
    fails.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *map(str, command)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    peak = _Peak(process.pid)
    _, errors = process.communicate()
    wall = time.monotonic() - begin
    peak.stop()
    if process.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {errors.strip().splitlines()[-1:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": round(wall, 2), "cpu_s": round(cpu, 2), "peak_bytes": peak.bytes}


class _Peak:
    def __init__(self, pid: int) -> None:
        self.bytes = 0
        self._process = psutil.Process(pid)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._done.wait(0.05):
            with contextlib.suppress(psutil.Error):
                tree = [self._process, *self._process.children(recursive=True)]
                self.bytes = max(self.bytes, sum(_proportional(process) for process in tree))

    def stop(self) -> None:
        self._done.set()
        self._thread.join()


def _proportional(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0
