"""Restartable units of work on a `concurrent.futures` executor.

A stage is a list of units. A unit is a function of its arguments: it writes its own files, either
completely or not at all, and returns a small JSON-able dict. Once it has returned, that dict is kept in
a marker file; a stage that was killed and is run again skips the units that already have one. Units
share nothing else, so the bytes they write depend neither on the number of workers nor on whether the
workers are threads, processes or a Dask cluster.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import ctypes
import gc
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

from pipeline.dask_cluster import DaskExecutor, InputSizes, dask_executor
from pipeline.memory import available_memory
from pipeline.records import Record, read_json_if_whole, to_json
from stores.errors import ConfigError, OutputError
from stores.files import write_bytes

BROKEN_POLL_SECONDS = 1.0
WORKER_BYTES = 300 << 20
"""What a worker of any stage needs at its peak."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h

Progress = Callable[[str, int, int], None]
"""Called as progress(stage, units done, units in total)."""


@dataclass(frozen=True)
class Unit:
    """One piece of a stage: `function(*arguments)`, picklable, returning a JSON-able dict."""

    name: str
    function: Callable[..., dict[str, Any]]
    arguments: tuple[Any, ...]

    @property
    def fingerprint(self) -> str:
        """Changes with the arguments, so that the marker of different work is not mistaken for this unit's."""
        return hashlib.sha256(repr(self.arguments).encode()).hexdigest()[:16]


class FinishedUnit(Record, frozen=True):
    """The content of a marker: the unit's fingerprint, and what it returned."""

    arguments: str
    result: dict[str, Any]


def run_units(
    stage: str,
    units: Sequence[Unit],
    markers: Path,
    executor: concurrent.futures.Executor,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Run the units that have no marker under `markers` yet; return every unit's dict, in order.

    The first failure cancels all units that have not started and is raised. Raises `OutputError` if a
    worker process died or the Dask cluster is gone, and `ConfigError` if a marker belongs to a unit with
    different arguments.
    """
    results: dict[int, dict[str, Any]] = {}
    todo: list[int] = []
    waiting: dict[concurrent.futures.Future[dict[str, Any]], int] = {}
    for index, unit in enumerate(units):
        marker = markers / f"{unit.name}.json"
        finished = read_json_if_whole(marker, FinishedUnit)
        if finished is None:
            todo.append(index)
            continue
        if finished.arguments != unit.fingerprint:
            raise ConfigError(
                f"{marker}: this unit was run before with different arguments: remove the output folder"
            )
        results[index] = finished.result
    progress(stage, len(results), len(units))
    try:
        for index in todo:
            waiting[_submit(executor, units[index])] = index
        for future in _as_completed(waiting, executor):
            index = waiting[future]
            results[index] = future.result()
            finished = FinishedUnit(units[index].fingerprint, results[index])
            # not synced, as little as what the unit wrote: a stage that lost power starts over
            text = json.dumps(to_json(finished))
            write_bytes(markers / f"{units[index].name}.json", text.encode())
            progress(stage, len(results), len(units))
    except BaseException as error:
        for future in waiting:
            future.cancel()
        if isinstance(error, concurrent.futures.CancelledError) and isinstance(
            executor, DaskExecutor
        ):
            raise executor.lost() from error
        if isinstance(error, concurrent.futures.BrokenExecutor) or "KilledWorker" in repr(error):
            remedy = "more memory each" if isinstance(executor, DaskExecutor) else "fewer --workers"
            raise OutputError(
                f"{stage}: a worker process died (out of memory?): "
                f"run the same command again to continue, with {remedy}"
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
    """Yield the futures as they finish. CPython 3.11's pool forgets a future that is submitted at the very
    moment the pool breaks, so this stops waiting once the pool is broken, or Dask has no workers."""
    left = set(waiting)
    while left:
        try:
            for future in concurrent.futures.as_completed(left, timeout=BROKEN_POLL_SECONDS):
                left.discard(future)
                yield future
        except TimeoutError:
            if getattr(executor, "_broken", False):
                raise concurrent.futures.BrokenExecutor("a worker died as work began") from None
            if isinstance(executor, DaskExecutor):
                executor.check_workers()


@contextmanager
def open_executor(
    workers: int,
    scheduler: str | None = None,
    warm_up: Callable[[], object] | None = None,
    at_once: int | None = None,
    shared: Path = Path(),
    inputs: InputSizes = (),
) -> Iterator[concurrent.futures.Executor]:
    """An executor for `run_units`: a thread of this process for one worker, up to `workers` processes for
    more, or the workers of the Dask scheduler at address `scheduler`, if they see the folder `shared` and
    these `inputs`.

    `at_once` worker processes (by default all) start at once and each calls `warm_up`, which must be
    picklable, while the caller is still preparing the units. It typically imports the modules of the units,
    about a second of work. The others start one by one, when a unit finds no idle worker: there are never
    many more than units.

    Raises `ConfigError` if the scheduler cannot be reached, its workers see other files, or Dask is not installed.
    """
    if scheduler is not None:
        with dask_executor(scheduler, shared, inputs) as cluster:
            yield cluster
    elif workers == 1:
        thread = concurrent.futures.ThreadPoolExecutor(1)
        try:
            yield thread
        finally:  # an interrupt may come while units are still being submitted: do not run those
            thread.shutdown(cancel_futures=True)
    else:
        spawn = multiprocessing.get_context("spawn")
        executor = concurrent.futures.ProcessPoolExecutor(workers, spawn, _start_worker)
        # A pool that breaks here is reported by `run_units`.
        with contextlib.suppress(concurrent.futures.BrokenExecutor, OSError):
            for _ in range(min(workers, at_once or workers)):  # every submission starts one more
                executor.submit(_warm_up, warm_up)
        try:
            yield executor
        finally:
            if getattr(executor, "_broken", False):
                # `shutdown` would wait forever for a worker that was started just as the pool broke.
                for worker in multiprocessing.active_children():
                    worker.kill()
            executor.shutdown(cancel_futures=True)


def affordable_workers(wanted: int) -> int:
    """How many of `wanted` workers the memory suffices for, at least one."""
    return min(wanted, max(1, available_memory() // WORKER_BYTES))


def available_cores() -> int:
    """Number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start_worker() -> None:
    """One thread per worker; the parent handles Ctrl-C; no worker outlives a parent that was killed."""
    os.environ["POLARS_MAX_THREADS"] = "1"
    _keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def leave_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()


def _warm_up(warm_up: Callable[[], object] | None) -> None:
    gc.disable()  # what is imported stays to the end: no collection needs to walk through it, nor does the exit
    if warm_up is not None:
        warm_up()
    gc.freeze()
    gc.enable()


def _keep_freed_memory() -> None:
    """Make malloc reuse large blocks instead of returning them to the system, which would zero their
    pages again for every temporary array: a third of a worker's system time. glibc only."""
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, 1 << 30)
