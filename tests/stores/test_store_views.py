"""The terminal views say what the reports hold, in 80 or 100 columns."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from stores import TokenStore
from stores.decode import decode_windows
from stores.inspect import inspect_store
from stores.verify import VerifyReport, verify_store
from stores.views import decode_view, inspect_view, share, size_text, verify_view
from tests.helpers import build_store


def printed(view: RenderableType, width: int = 100) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(view)
    text = capture.get()
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    return text


def test_inspect_view_shows_every_array_and_table(store_path: Path) -> None:
    report = inspect_store(store_path)
    text = printed(inspect_view(report), width=80)
    assert report.digest in text
    assert "3,403 rows = 3,000 train + 400 test + 3 rejected (bad_rtt 3)" in text
    for title in ("Windows", "Fields,", "Token types,", "Field orders,", "RTT, ms"):
        assert f"\n{title}" in text
    for split, modes in report.splits.items():
        for mode, counts in modes.items():
            assert f"{split}/{mode}" in text
            assert f"{counts.tokens:,}" in text
            assert all(f"\n{name} " in text for name, count in counts.token_types.items() if count)
            assert f"{counts.rtt.percentiles_ms['p50']:.4g}" in text


def test_inspect_view_of_an_empty_split_has_dashes(tmp_path: Path) -> None:
    path = build_store(tmp_path / "store.zarr", train=50, test=0)
    text = printed(inspect_view(inspect_store(path, ["test"])))
    assert "test/full" in text
    assert "–" in text


def test_verify_view_is_one_verdict_and_a_line_for_each_problem(store_path: Path) -> None:
    report = verify_store(store_path)
    assert f"sound: digest {report.digest}"[:90] in printed(verify_view(report))
    one = printed(verify_view(VerifyReport("x", problems=["a is bad"])))
    assert "damaged: 1 problem\n  a is bad\n" in one
    two = printed(verify_view(VerifyReport("x", problems=["a is bad", "b is bad"])))
    assert "damaged: 2 problems\n  a is bad\n  b is bad\n" in two


def test_decode_view_has_a_line_for_each_measurement(store_path: Path) -> None:
    windows = decode_windows(TokenStore.open(store_path), "test", "mixed", 2, 2)
    text = printed(decode_view(windows))
    for window in windows:
        assert f"test/mixed window {window.index}: {window.length} of 1024 tokens" in text
        for measurement in window.measurements:
            assert f"to {measurement.dst}" in text
            assert (measurement.time_utc or "") in text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1500, "1.5 kB"), (16.8e6, "16.8 MB"), (2e12, "2 TB")]
)
def test_sizes_are_in_powers_of_1000(size: float, text: str) -> None:
    assert size_text(size) == text


def test_a_share_of_nothing_is_a_dash() -> None:
    assert share(0, 3) == share(0, 0) == "–"
    assert share(1, 3) == "33.3 %"
