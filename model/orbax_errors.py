"""What Orbax prints and raises when a disk is full or a file is damaged, made short enough to read."""

from __future__ import annotations

import functools
import logging
import sys


@functools.cache
def quiet_orbax() -> None:
    """Let Orbax print nothing about failures: it raises them as well.

    It logs them, and when one of its reads or writes fails, it closes its event loop, and every other
    one that fails later in TensorStore's threads prints a traceback about that.
    """
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    print_exception = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            print_exception(unraisable)

    sys.unraisablehook = hook


def reason(error: Exception) -> str:
    """The system's words out of a long TensorStore message, or the start of it."""
    text = " ".join(str(error).split())
    for words in ("No space left on device", "File too large", "Permission denied", "Read-only"):
        if words in text:
            return words
    return f"{type(error).__name__}: {text[:200]}"
