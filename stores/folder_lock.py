"""Claiming a folder for one process: nothing foreign is overwritten, and no two processes work in it.

A lock is one of the system's (`flock`): it ends with the process that holds it, however that ends.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from stores.errors import ConfigError, OutputError

PATIENCE = 1800.0
"""Seconds without a sign of life after which nobody waits for the holder of a lock any longer."""
POLL = 0.5  # seconds between two looks at a lock


@contextmanager
def claim_folder(path: Path, *, marker: str, lock: str, foreign: str, busy: str) -> Iterator[None]:
    """Make or reopen the folder `path` and hold its lock for the whole block.

    The folder is ours if it does not exist yet, holds nothing but the lock file, or holds `marker`.
    `marker` and `lock` (a file, made with its parent folders) are paths relative to it. Raises
    `OutputError` saying `foreign` when it holds something else, and when it cannot be made or locked;
    `ConfigError` saying `busy` when another process holds the lock.
    """
    lock_file = path / lock
    try:
        ours = (
            not path.exists()
            or (path / marker).exists()
            or (path.is_dir() and all(child == lock_file for child in path.iterdir()))
        )
        if not ours:
            raise OutputError(f"{path}: {foreign}")
        lock_file.parent.mkdir(parents=True, exist_ok=True)
        held = lock_file.open("w")
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"{path}: cannot be made or written: {error.strerror}") from error
    with held:
        if not _lock(held, path) or not _is_at(held, lock_file):
            raise ConfigError(f"{path}: {busy}")
        yield


@contextmanager
def take_turn(
    lock: Path, *, waiting: Callable[[str], object], patience: float = PATIENCE
) -> Iterator[Callable[[], None]]:
    """Hold a lock file, which stays where it is, for the whole block, after all who have it before.

    Yields what the holder calls now and then to show that it gets on. If another process holds the lock,
    `waiting` is called once with its name ("process 123 on node7"). When that ends, also by being killed, the next
    one has its turn; when it shows no sign of life for `patience` seconds, `ConfigError`. Raises `OutputError` when
    the file cannot be made or locked.
    """
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        held = lock.open("a+")
    except OSError as error:
        raise OutputError(f"{lock}: cannot be made or written: {error.strerror}") from error
    with held:
        seen, since, told = -1, 0.0, False
        while not _lock(held, lock):
            if (sign := os.fstat(held.fileno()).st_mtime_ns) != seen:
                seen, since = sign, time.monotonic()
            if time.monotonic() - since > patience:
                raise ConfigError(
                    f"{lock}: {_holder(held)} holds it, but has not got on for {patience / 60:.0f} minutes: "
                    "end that process, and run the same command again"
                )
            if not told:
                waiting(_holder(held))
                told = True
            time.sleep(POLL)
        held.truncate(0)
        held.write(f"process {os.getpid()} on {socket.gethostname()}")
        held.flush()
        yield lambda: os.utime(held.fileno())


def _lock(held: IO[str], where: Path) -> bool:
    """Lock an open file; whether nobody else has it. Raises `OutputError` naming `where`."""
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise OutputError(f"{where}: cannot be locked: {error.strerror}") from error
    return True


def _is_at(held: IO[str], path: Path) -> bool:
    """Whether the open file is the one that is there, and not one that its holder took away when it was done."""
    try:
        return os.path.samestat(os.fstat(held.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _holder(held: IO[str]) -> str:
    """Who wrote its name into a lock file."""
    held.seek(0)
    return held.read() or "another process"
