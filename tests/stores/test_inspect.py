"""inspect-store counts what the plain decoder sees."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from stores import TokenStore
from stores.codec import decode_window
from stores.errors import DamagedStoreError
from stores.inspect import StoreReport, inspect_store
from stores.layout import MODES, SPLITS
from stores.vocabulary import BYTE0, ROLE_NAMES
from tests.helpers import break_window, build_store


@pytest.fixture(scope="module")
def report(store_path: Path) -> StoreReport:
    return inspect_store(store_path)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("mode", MODES)
def test_counts_equal_those_of_the_plain_decoder(
    store_path: Path, report: StoreReport, split: str, mode: str
) -> None:
    store = TokenStore.open(store_path)
    found = report.splits[split][mode]
    types: Counter[str] = Counter()
    measurements, sources, tokens = [], 0, 0
    for _, windows, lengths in store.blocks(split, mode):
        for window, length in zip(windows, lengths.tolist(), strict=True):
            decoded = decode_window(window, length)
            measurements += decoded
            sources += len({measurement.src for measurement in decoded})
            tokens += length
            types.update(ROLE_NAMES[t] if t < BYTE0 else "BYTE" for t in window[:length].tolist())
    windows = store.windows(split, mode)
    assert found.windows == windows
    assert found.measurements == len(measurements)
    assert found.tokens == tokens
    assert found.fill == pytest.approx(tokens / (windows * 1024), abs=1e-6)
    assert found.tokens_per_measurement == pytest.approx(tokens / len(measurements), abs=1e-6)
    assert found.sources_per_window == pytest.approx(sources / windows, abs=1e-6)
    assert {name: n for name, n in found.token_types.items() if n} == types
    ipv4 = sum(measurement.src.version == 4 for measurement in measurements)
    assert found.address_families == {"ipv4": ipv4, "ipv6": len(measurements) - ipv4}
    assert found.delta_widths == {
        "absolute": types["TIMESTAMP_ABS"],
        "delta1": types["TIMESTAMP_DELTA1"],
        "delta4": types["TIMESTAMP_DELTA4"],
        "none": sum(measurement.time is None for measurement in measurements),
    }
    assert sum(found.field_orders.values()) == len(measurements)
    assert sum(found.fill_histogram.windows) == windows
    rtts = [measurement.rtt_ms for measurement in measurements if measurement.rtt_ms is not None]
    rtt = found.rtt
    assert (rtt.answered, rtt.failed) == (len(rtts), len(measurements) - len(rtts))
    edges = [0, *rtt.edges_ms, np.inf]
    assert rtt.counts == np.histogram(rtts, edges)[0].tolist()
    median = np.percentile(rtts, 50, method="inverted_cdf")
    assert rtt.percentiles_ms["p50"] == pytest.approx(median)


def test_field_orders_have_as_many_names_as_the_mode_allows(report: StoreReport) -> None:
    orders = {mode: report.splits["train"][mode].field_orders for mode in MODES}
    assert {mode: len(names) for mode, names in orders.items()} == {
        "full": 24,
        "none": 6,
        "mixed": 30,
    }
    assert "src dst result time" in orders["full"]


def test_report_is_json_and_names_its_store(store_path: Path, report: StoreReport) -> None:
    assert json.loads(json.dumps(report.as_json())) == report.as_json()
    assert report.digest == TokenStore.open(store_path).digest
    assert report.ledger.rows == 3403


def test_one_array_can_be_inspected_alone(store_path: Path, report: StoreReport) -> None:
    seen: list[tuple[int, int]] = []
    alone = inspect_store(
        store_path, ["test"], ["none"], lambda done, total: seen.append((done, total))
    )
    assert alone.splits == {"test": {"none": report.splits["test"]["none"]}}
    assert seen[-1] == (11, 11)


def test_bad_window_is_named(tmp_path: Path) -> None:
    path = build_store(tmp_path / "store.zarr", train=200, test=50)
    break_window(path, 2)
    with pytest.raises(DamagedStoreError, match="window 2 of train/full breaks the grammar"):
        inspect_store(path)
