"""Claiming a folder for one process: nothing foreign is overwritten, and no two processes work in it."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stores.errors import ConfigError, OutputError


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
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{path}: {busy}") from None
        except OSError as error:
            raise OutputError(f"{path}: cannot be locked: {error.strerror}") from error
        yield
