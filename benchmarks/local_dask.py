"""A Dask cluster of this machine: a scheduler and workers, each a process of its own that can be killed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

LEFT_ALONE = "10 minutes"  # after which a scheduler ends with its workers, if nobody has
ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 120  # seconds for a process to start


class LocalDask:
    """A scheduler, and the workers that `add_workers` starts: one thread each, killed for good when killed.

    Their logs are in `folder`. The scheduler listens at `host`; `prefix` are words before its command. Use as
    a context manager, which kills what is left.
    """

    def __init__(self, folder: Path, host: str = "127.0.0.1", *prefix: str) -> None:
        self.folder = folder
        self.workers: list[subprocess.Popen[bytes]] = []
        self._started = 0
        self._host, self._prefix = host, prefix
        self.start_scheduler()

    def start_scheduler(self, port: int = 0) -> None:
        """Start a scheduler and wait until it listens; by default at a free port."""
        options = ["--host", self._host, "--port", str(port), "--idle-timeout", LEFT_ALONE]
        self.scheduler = self._start("scheduler", *options, prefix=self._prefix)
        self.address = self._wait_for(r"Scheduler at:\s+(tcp://\S+)", self._log)

    def add_workers(self, count: int, *prefix: str) -> list[subprocess.Popen[bytes]]:
        """Start that many workers and wait until they are known. `prefix` are words before the command."""
        started = []
        for _ in range(count):
            options = ["worker", self.address, "--nthreads", "1", "--no-nanny"]
            self.workers.append(self._start(*options, prefix=prefix))
            started.append(self._log)
        for log in started:
            self._wait_for(r"Registered to:\s+(tcp://\S+)", log)
        return self.workers[-count:]

    def restart_scheduler(self) -> None:
        """Kill the scheduler and start another at the same address."""
        port = int(self.address.rpartition(":")[2])
        self.scheduler.kill()
        self.scheduler.wait()
        self.start_scheduler(port)

    def kill(self, worker: subprocess.Popen[bytes]) -> None:
        """Kill one worker."""
        worker.kill()
        worker.wait()
        self.workers.remove(worker)

    def kill_workers(self) -> None:
        """Kill all workers."""
        for worker in list(self.workers):
            self.kill(worker)

    def stop(self) -> None:
        """Kill the workers and the scheduler."""
        self.kill_workers()
        self.scheduler.kill()
        self.scheduler.wait()

    def __enter__(self) -> LocalDask:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(
        self, kind: str, *options: str, prefix: tuple[str, ...] = ()
    ) -> subprocess.Popen[bytes]:
        self._started += 1
        self._log = self.folder / f"{kind}-{self._started}.log"
        command = [*prefix, sys.executable, "-m", "dask", kind, *options, "--no-dashboard"]
        command += ["--local-directory", str(self.folder)] if kind == "worker" else []
        with open(self._log, "wb") as log:
            return subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), "POLARS_MAX_THREADS": "1"},
                stdout=log,
                stderr=log,
            )

    def _wait_for(self, pattern: str, log: Path) -> str:
        deadline = time.monotonic() + PATIENCE
        while not (found := re.search(pattern, log.read_text())):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{log}: {log.read_text()}")
            time.sleep(0.05)
        return found[1]
