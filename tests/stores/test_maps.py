"""Reading windows ahead of when they are gathered."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from stores.maps import ROW_BYTES, WindowMaps

WINDOWS = 2048


def cached(file: Path) -> set[int]:
    """The windows of a file whose pages are in the page cache. Looking reads nothing."""
    with open(file, "rb") as opened:
        mapped = np.frombuffer(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    pages = np.zeros(-(-mapped.size // mmap.PAGESIZE), np.uint8)
    address, size = ctypes.c_void_p(mapped.ctypes.data), ctypes.c_size_t(mapped.size)
    assert ctypes.CDLL(None).mincore(address, size, ctypes.c_void_p(pages.ctypes.data)) == 0
    return {window for window in range(WINDOWS) if pages[window * ROW_BYTES // mmap.PAGESIZE] & 1}


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what its page cache holds")
def test_what_is_read_ahead_is_in_the_page_cache_and_the_rest_is_not(tmp_path: Path) -> None:
    file = tmp_path / "0"
    tokens = np.random.default_rng(0).integers(0, 267, (WINDOWS, ROW_BYTES // 2)).astype("<u2")
    tokens.tofile(file)
    maps = WindowMaps([file], [tokens.nbytes], 1 << 30)
    wanted = [5, 700, 1024, 2046]
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
    if cached(file):
        pytest.skip("this file system keeps its files in memory")
    offsets = [window * ROW_BYTES for window in wanted]
    maps.read_ahead([0] * len(wanted), offsets)
    until = time.monotonic() + 20
    while not cached(file) >= set(wanted):
        assert time.monotonic() < until, "they were never read"
        time.sleep(0.01)
    assert len(cached(file)) < 32
    assert (maps.gather_at([0] * len(wanted), offsets) == tokens[wanted]).all()
