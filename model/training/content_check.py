"""Compares a store with its digests while a run trains on it: a flipped bit changes what is learned, and may be
nothing that training stumbles over."""

from __future__ import annotations

import os
import sys
import threading
import time
from concurrent.futures import wait
from contextlib import suppress
from typing import Self

from model.training.background import Background
from model.training.progress import TrainingProgress
from model.training.run import Run
from stores.errors import DamagedStoreError
from stores.union import Store
from stores.verify import check_content

RATE = 100e6
"""Bytes per second at most while steps are taken: a fourteenth of a core, and more than any training reads."""
PATIENCE = 5.0
"""Seconds that a run which has taken its last step gives the check to end."""


class ContentCheck(Background[None]):
    """Does `check_content` in a thread that gives way to all others. Use this as a context manager: leaving it
    ends the thread, after the file that it is reading (16 MiB)."""

    def __init__(self, store: Store) -> None:
        super().__init__("content check")
        self._store = store
        self._hurry = threading.Event()
        self._done = self._total = 0
        self._since = 0.0

    def raise_damage(self) -> None:
        """Raise `DamagedStoreError` if damage has been found so far."""
        if self._result.done():
            self._result.result()

    def finish(self, progress: TrainingProgress) -> None:
        """`raise_damage` after the last step: wait for the rest of the check for as long as `PATIENCE`, and say
        so if that was not enough."""
        self._hurry.set()
        wait([self._result], PATIENCE)
        self.raise_damage()
        if not self._result.done():
            progress.note(
                f"only {self._done / 1e9:.1f} of {self._total / 1e9:.1f} GB of the store were compared with their "
                "digests before the run ended: the same command with --verify compares all"
            )

    def _find(self) -> None:
        if sys.platform == "linux":  # elsewhere, threads have no priorities of their own
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        self._since = time.monotonic()
        try:
            check_content(self._store, self._go_on)
        except DamagedStoreError as error:
            raise DamagedStoreError(
                f"{error}, then run the same command again: it continues from the last checkpoint"
            ) from None

    def _go_on(self, done: int, total: int) -> None:
        """Rest for as long as `RATE` demands."""
        rest = self._since + (done - self._done) / RATE - time.monotonic()
        self._done, self._total = done, total
        if rest > 0:
            self._hurry.wait(rest)
        self._since = time.monotonic()
        super()._go_on(done, total)

    def __exit__(self, *exception: object) -> None:
        self._left.set()
        self._hurry.set()
        super().__exit__(*exception)


class NoContentCheck(ContentCheck):
    """Reads nothing: another process does, or it has been done."""

    def __init__(self) -> None:
        pass

    def raise_damage(self) -> None:
        pass

    def finish(self, progress: TrainingProgress) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


def content_check_of(store: Store, run: Run, verified: bool) -> ContentCheck:
    """The part that this process of the run has in checking its store, which may have been `verified` before."""
    return NoContentCheck() if verified or run.peers.process else ContentCheck(store)
