"""Restartable units of work on a `concurrent.futures` executor.

A stage is a list of units. A unit is a function of its arguments: it writes its own files, whole or
not at all, and returns a small JSON-able dict. When it has returned, a marker file keeps that dict; a
stage that was killed and runs again skips the units that have one. Nothing else is shared, so the
bytes do not depend on how many workers there are, nor on whether they are threads, processes or a
Dask cluster.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import ctypes
import hashlib
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stores.errors import ConfigError, OutputError
from stores.files import write_json

BROKEN_POLL_SECONDS = 1.0
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h

Progress = Callable[[str, int, int], None]
"""Called as progress(stage, units done, units in all)."""


@dataclass(frozen=True)
class Unit:
    """One piece of a stage: `function(*arguments)`, picklable, returning a JSON-able dict."""

    name: str
    function: Callable[..., dict[str, Any]]
    arguments: tuple[Any, ...]

    @property
    def fingerprint(self) -> str:
        """Changes with the arguments, so that a marker of other work is not taken for this one."""
        return hashlib.sha256(repr(self.arguments).encode()).hexdigest()[:16]


def run_units(
    stage: str,
    units: Sequence[Unit],
    markers: Path,
    executor: concurrent.futures.Executor,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Run the units that have no marker under `markers` yet; return every unit's dict, in order.

    The first failure cancels what has not started and is raised; a worker that died is an `OutputError`.
    """
    results: dict[int, dict[str, Any]] = {}
    todo: list[int] = []
    waiting: dict[concurrent.futures.Future[dict[str, Any]], int] = {}
    for index, unit in enumerate(units):
        marker = markers / f"{unit.name}.json"
        if marker.exists():
            finished = json.loads(marker.read_bytes())
            if finished["arguments"] != unit.fingerprint:
                raise ConfigError(
                    f"{marker}: this unit was finished with other arguments: remove the output folder"
                )
            results[index] = finished["result"]
        else:
            todo.append(index)
    progress(stage, len(results), len(units))
    try:
        for index in todo:
            waiting[_submit(executor, units[index])] = index
        for future in _as_completed(waiting, executor):
            index = waiting[future]
            results[index] = future.result()
            finished = {"arguments": units[index].fingerprint, "result": results[index]}
            write_json(markers / f"{units[index].name}.json", finished)
            progress(stage, len(results), len(units))
    except BaseException as error:
        for future in waiting:
            future.cancel()
        if isinstance(error, concurrent.futures.BrokenExecutor) or "KilledWorker" in repr(error):
            raise OutputError(
                f"{stage}: a worker process died (out of memory?): "
                "run the same command again to continue, with fewer --workers"
            ) from error
        raise
    return [results[index] for index in range(len(units))]


def _submit(
    executor: concurrent.futures.Executor, unit: Unit
) -> concurrent.futures.Future[dict[str, Any]]:
    try:
        return executor.submit(unit.function, *unit.arguments)
    except OSError as error:  # the pipe to a pool whose worker died a moment ago
        raise concurrent.futures.BrokenExecutor(str(error)) from error


def _as_completed(
    waiting: Iterable[concurrent.futures.Future[dict[str, Any]]],
    executor: concurrent.futures.Executor,
) -> Iterator[concurrent.futures.Future[dict[str, Any]]]:
    """The futures as they end. CPython 3.11's pool forgets one that is submitted in the moment in which
    the pool breaks, so a broken pool is not waited for."""
    left = set(waiting)
    while left:
        try:
            for future in concurrent.futures.as_completed(left, timeout=BROKEN_POLL_SECONDS):
                left.discard(future)
                yield future
        except TimeoutError:
            if getattr(executor, "_broken", False):
                raise concurrent.futures.BrokenExecutor("a worker died as work began") from None


@contextmanager
def open_executor(
    workers: int, scheduler: str | None = None
) -> Iterator[concurrent.futures.Executor]:
    """An executor for `run_units`: this process for one worker, `workers` processes for more, or the
    workers of the Dask scheduler at address `scheduler` (which must see the same file system).

    Raises `ConfigError` when the scheduler cannot be reached or Dask is not installed.
    """
    if scheduler is not None:
        with _dask_client(scheduler) as client:
            yield client.get_executor(pure=False)
    elif workers == 1:
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            yield thread
    else:
        spawn = multiprocessing.get_context("spawn")
        executor = concurrent.futures.ProcessPoolExecutor(workers, spawn, _start_worker)
        with contextlib.suppress(concurrent.futures.BrokenExecutor, OSError):  # `run_units` says so
            for _ in range(workers):  # start them now, while the caller still prepares the units
                executor.submit(_import_stages)
        try:
            yield executor
        finally:
            if getattr(executor, "_broken", False):
                # One that was started in the moment in which the pool broke would be waited for forever.
                for worker in multiprocessing.active_children():
                    worker.kill()
            executor.shutdown(cancel_futures=True)


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start_worker() -> None:
    """One thread a worker; Ctrl-C is the parent's; and no worker outlives a killed parent."""
    os.environ["POLARS_MAX_THREADS"] = "1"
    _keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def leave_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()


def _import_stages() -> None:
    pass


def _keep_freed_memory() -> None:
    """Have malloc reuse large blocks instead of returning them to the system, which then zeroes their
    pages anew for every temporary array: a third of a worker's system time. glibc only."""
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, 1 << 30)


def _dask_client(address: str) -> Any:
    try:
        from distributed import Client
    except ImportError:
        raise ConfigError(
            "--scheduler needs Dask, which is not installed: pip install 'pinglm[cluster]'"
        ) from None
    try:
        return Client(address, timeout=10, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--scheduler {address}: no Dask scheduler answers there: {error}"
        ) from error
