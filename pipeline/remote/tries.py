"""How often what failed is tried again, and when."""

from __future__ import annotations

import random
import time

from stores.errors import RemoteError, TransientError

TRIES = 8
FIRST_PAUSE = 0.2  # seconds, doubled with every failure in a row: 25 s in all
LONGEST_WAIT = 300.0  # seconds that a server may ask to wait
PROGRESS = 1 << 20  # bytes after which failures are not in a row


class Tries:
    """Failures in a row of one thing that is read."""

    def __init__(self) -> None:
        self._failed = 0
        self._read = 0

    def progressed(self, size: int) -> None:
        """`size` bytes arrived that had not arrived before."""
        self._read += size
        if self._read >= PROGRESS:
            self._failed, self._read = 0, 0

    def failed(self, error: TransientError) -> None:
        """Wait before the next try, at least as long as the server asks for. Raises `RemoteError` when
        there are to be no more, or the server asks for more than 5 minutes."""
        self._failed += 1
        if error.wait > LONGEST_WAIT:
            raise RemoteError(f"{error} (it asks to wait {error.wait:.0f} s)") from None
        if self._failed == TRIES:
            raise RemoteError(f"{error} ({TRIES} tries)") from None
        pause = FIRST_PAUSE * 2 ** (self._failed - 1)
        time.sleep(max(error.wait, pause * random.uniform(0.5, 1.0)))
