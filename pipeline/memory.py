"""How much memory the workers may take together."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_CONTROL_GROUPS = Path("/sys/fs/cgroup")


def available_memory(proc: Path = Path("/proc"), groups: Path = _CONTROL_GROUPS) -> int:
    """Bytes that are free in the machine, or that this process's container is limited to if that is less."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with suppress(OSError, ValueError, StopIteration):
        lines = (proc / "meminfo").read_text().splitlines()
        free = next(line for line in lines if line.startswith("MemAvailable:"))
        found.append(int(free.split()[1]) * 1024)
    limits = [groups / "memory.max", groups / "memory/memory.limit_in_bytes"]
    with suppress(OSError):
        for line in (proc / "self/cgroup").read_text().splitlines():
            _, kind, path = line.split(":", 2)
            if kind == "":
                limits.append(groups / path.lstrip("/") / "memory.max")
            elif "memory" in kind.split(","):
                limits.append(groups / "memory" / path.lstrip("/") / "memory.limit_in_bytes")
    for limit in limits:
        with suppress(OSError, ValueError):  # version 2 says "max" where there is none
            found.append(int(limit.read_text()))
    return min(found)
