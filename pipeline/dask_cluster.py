"""Units on the workers of a Dask cluster, which must share one file system; and what to say when it fails."""

from __future__ import annotations

import concurrent.futures
import logging
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from stores.errors import ConfigError, OutputError
from stores.files import TEMPORARY_SUFFIX, write_bytes

PATIENCE = 120.0
"""Seconds that a cluster may be without any worker, at the start and later."""
LOOK_SECONDS = 5.0  # between two looks at whether there are workers
CONNECT_SECONDS = 10
LOOKED_FOR = 50
"""Input files, about, that each worker looks for before work begins."""
_LOGGERS = ("distributed", "distributed.client", "tornado.application")

InputSizes = Sequence[tuple[str, int]]
"""Path and size of input files that every worker must see; some of many are looked for."""


class DaskExecutor(concurrent.futures.Executor):
    """Runs functions on the workers behind a client, each only where the worker sees the file `probe`."""

    def __init__(self, client: Any, address: str, probe: Path) -> None:
        self._client = client
        self._executor = client.get_executor(pure=False)
        self._address = address
        self._probe = probe
        self._looked = self._seen = time.monotonic()

    def submit(
        self, function: Callable[..., Any], /, *arguments: Any, **named: Any
    ) -> concurrent.futures.Future[Any]:
        """As every executor. Raises `OutputError` when the scheduler is gone."""
        if self._client.status != "running":
            raise self.lost()
        future: concurrent.futures.Future[Any] = self._executor.submit(
            _run_where_shared, self._probe, function, arguments, named
        )
        return future

    def check_workers(self) -> None:
        """Raise `OutputError` when there has been no worker for `PATIENCE` seconds. Often it does not even ask."""
        now = time.monotonic()
        if now < self._looked + LOOK_SECONDS or self._client.status != "running":
            return
        self._looked = now
        try:
            workers = self._client.nthreads()
        except OSError:
            return  # a scheduler that is gone cancels its futures
        if workers:
            self._seen = now
        elif now > self._seen + PATIENCE:
            raise OutputError(
                f"--scheduler {self._address}: for {PATIENCE:g} s it has had no worker: "
                "start workers, and run the same command again to continue"
            )

    def lost(self) -> OutputError:
        """What to raise when the scheduler no longer answers, or has cancelled the work."""
        return OutputError(
            f"--scheduler {self._address}: the connection to the Dask scheduler was lost: "
            "start scheduler and workers again, and run the same command again to continue"
        )


@contextmanager
def dask_executor(address: str, shared: Path, inputs: InputSizes = ()) -> Iterator[DaskExecutor]:
    """An executor of the workers of the Dask scheduler at `address`, all of which see the folder `shared` (made
    where it is missing) and the `inputs`.

    Waits for the first worker for `PATIENCE` seconds. Raises `ConfigError` when the scheduler cannot be
    reached, Dask is not installed, no worker comes, or one of them does not see the files or has no pinglm.
    """
    probe = shared / f".cluster-{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"
    with _quiet(), _connect(address) as client:
        _wait_for_worker(client, address)
        write_bytes(probe, b"")
        try:
            _check_shared(client, address, probe, inputs)
            yield DaskExecutor(client, address, probe)
        finally:
            probe.unlink(missing_ok=True)


def _connect(address: str) -> Any:
    try:
        from distributed import Client
    except ImportError:
        raise ConfigError(
            "--scheduler needs Dask, which is not installed: pip install 'pinglm[cluster]'"
        ) from None
    try:
        connect: Any = Client  # Dask has no type annotations
        return connect(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--scheduler {address}: no Dask scheduler answers at this address: {error}"
        ) from error


def _wait_for_worker(client: Any, address: str) -> None:
    if client.nthreads():
        return
    print(f"waiting for a worker of {address}", file=sys.stderr)
    try:
        client.wait_for_workers(1, timeout=PATIENCE)
    except TimeoutError:
        raise ConfigError(
            f"--scheduler {address}: no worker has come in {PATIENCE:g} s: "
            f"start one with `dask worker {address}`"
        ) from None


def _check_shared(client: Any, address: str, probe: Path, inputs: InputSizes) -> None:
    """Ask all present workers; raises `ConfigError` that names the first one in trouble."""
    some = inputs[:: 1 + len(inputs) // LOOKED_FOR]
    answers = client.run(_trouble, probe, some, on_error="return")
    troubled = {worker: answer for worker, answer in sorted(answers.items()) if answer is not None}
    if not troubled:
        return
    worker, answer = next(iter(troubled.items()))
    if isinstance(answer, ImportError):
        answer = f"cannot import this program ({answer}): install the same pinglm there"
    more = f" (and {len(troubled) - 1} more of {len(answers)})" if len(troubled) > 1 else ""
    raise ConfigError(f"--scheduler {address}: its worker {worker}{more} {answer}")


def _trouble(probe: Path, inputs: InputSizes) -> str | None:
    """On a worker: what keeps it from doing units, or `None`."""
    folder = str(probe.parent)
    where = f"on {socket.gethostname()}"
    if not probe.exists():
        return f"{where} does not see {folder}: expected a file system that all nodes share, at the same path"
    if not os.access(folder, os.W_OK):
        return f"{where} may not write to {folder}: run it as a user who may"
    for path, size in inputs:
        try:
            found = os.stat(path).st_size
        except OSError:
            return f"{where} does not see the input {path}: expected a file system that all nodes share"
        if found != size:
            return f"{where} sees another {path}: of {found} bytes, not {size}: expected the same file on all nodes"
    return None


def _run_where_shared(
    probe: Path, function: Callable[..., Any], arguments: Sequence[Any], named: dict[str, Any]
) -> Any:
    """On a worker: call the function, unless this worker came later than the check and sees other files."""
    trouble = _trouble(probe, ())
    if trouble is not None:
        raise ConfigError(f"a Dask worker {trouble}")
    return function(*arguments, **named)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the log of Dask's client, whose many lines would come before our one."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before: list[int] | None = None
    with suppress(ImportError):
        import distributed  # noqa: F401  (sets its own levels)

        before = [logger.level for logger in loggers]
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before or (), strict=False):
            logger.setLevel(level)
