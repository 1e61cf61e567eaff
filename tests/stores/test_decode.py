"""`decode_windows` on windows that no sound store of this century has."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from stores import TokenStore
from stores.codec import Measurement
from stores.decode import decode_windows
from stores.errors import TokenError
from stores.layout import MODES, SPLITS
from tests.helpers import break_window, build_store, windows_of_mode, write_store


def test_a_window_that_breaks_the_grammar_is_named_with_its_position(tmp_path: Path) -> None:
    path = build_store(tmp_path / "store.zarr", train=200, test=50)
    break_window(path, 2)
    store = TokenStore.open(path)
    assert len(decode_windows(store, "train", "full", 0, 2)) == 2
    with pytest.raises(TokenError, match=r"store.zarr: window 2 of train/full: .*position 0"):
        decode_windows(store, "train", "full", 2)


def test_a_time_beyond_the_year_9999_is_shown_in_seconds(tmp_path: Path) -> None:
    far = [
        Measurement(ip_address("192.0.2.1"), ip_address("192.0.2.2"), 5.0, time)
        for time in (1_750_000_000, 10**12)
    ]
    arrays = {(split, mode): windows_of_mode(far, mode) for split in SPLITS for mode in MODES}
    path = write_store(tmp_path / "store.zarr", arrays, dict.fromkeys(SPLITS, 2))
    (window,) = decode_windows(TokenStore.open(path), "train", "full", 0)
    shown = [measurement.time_utc for measurement in window.measurements]
    assert shown == ["2025-06-15 15:06:40", "1000000000000 s"]
