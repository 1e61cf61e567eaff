"""Statistics of a store's tokens, from one pass over the windows in NumPy."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from stores.codec import decode_rtts
from stores.errors import DamagedStoreError
from stores.grammar import NO_TIME, ORDER_NAMES, Parsed, parse_windows
from stores.layout import MODES
from stores.manifest import LedgerTotals
from stores.overlap import OverlapCounts
from stores.progress import Progress
from stores.reader import TokenStore
from stores.vocabulary import (
    CONTEXT,
    MEASUREMENT_START,
    ROLE_NAMES,
    TIMESTAMP_ABS,
    TIMESTAMP_DELTA1,
    TIMESTAMP_DELTA4,
)

DELTA_WIDTHS = {
    "absolute": TIMESTAMP_ABS,
    "delta1": TIMESTAMP_DELTA1,
    "delta4": TIMESTAMP_DELTA4,
    "none": NO_TIME,
}
PERCENTILES = (1, 10, 25, 50, 75, 90, 99)
RTT_EDGES_MS = tuple(float(f"{10 ** (step / 10):.4g}") for step in range(-10, 41))
"""Edges of the RTT histogram: ten bins per decade from 0.1 ms to 10 s, and an open bin at each end."""

_ROWS = 2048
_FILL_BINS = 100


@dataclass(frozen=True)
class RttStatistics:
    """RTTs of one array, exact to the precision of their code."""

    answered: int
    failed: int
    percentiles_ms: dict[str, float]
    """By name, "p50"; empty without any answer."""
    edges_ms: list[float]
    counts: list[int]
    """Measurements by bin: one more than edges, as both ends are open."""


@dataclass(frozen=True)
class FillHistogram:
    """Windows by the share of their 1,024 tokens that is in use."""

    edges: list[float]
    windows: list[int]
    """One fewer than edges."""


@dataclass(frozen=True)
class ArrayStatistics:
    """What the windows of one array hold. A ratio is `None` where it would divide by zero."""

    windows: int
    measurements: int
    tokens: int
    """Without the tails of the windows."""
    fill: float | None
    """Share of the windows' room that tokens take, 0 to 1."""
    tokens_per_measurement: float | None
    measurements_per_window: float | None
    sources_per_window: float | None
    token_types: dict[str, int]
    """Tokens by the name of their role; those of payload are `BYTE`."""
    address_families: dict[str, int]
    """Measurements: `ipv4`, `ipv6`."""
    delta_widths: dict[str, int]
    """Measurements by how their time is written, as in `DELTA_WIDTHS`."""
    field_orders: dict[str, int]
    """Measurements by field order, "src dst result time"; orders that do not occur are left out."""
    rtt: RttStatistics
    fill_histogram: FillHistogram


@dataclass(frozen=True)
class StoreReport:
    """What `inspect_store` counted, and what made the store."""

    path: str
    digest: str
    bytes: int
    """Size of all chunk files."""
    files: int
    inputs: int
    """Number of input files."""
    ledger: LedgerTotals
    configuration: dict[str, dict[str, Any]]
    format_version: int
    vocabulary_version: int
    splits: dict[str, dict[str, ArrayStatistics]]
    """By split, then by mode."""
    overlap: dict[str, OverlapCounts]
    """By "sources", "destinations" and "pairs"; empty for a store of an earlier version."""
    new_sources: str | None
    """A warning where many of the sources that are held out are not in train."""

    def as_json(self) -> dict[str, Any]:
        """The same names and values as JSON-able dicts."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        return fields


def inspect_store(
    path: str | os.PathLike[str],
    splits: Sequence[str] | None = None,
    modes: Sequence[str] = MODES,
    progress: Progress = lambda done, total: None,
) -> StoreReport:
    """Count what the windows of these splits (all that the store has, by default) and modes hold.

    Raises what `TokenStore.open` raises, and `DamagedStoreError` for a window that breaks the grammar.
    About 2 M measurements/s; memory is a few blocks of 4 MiB.
    """
    store = TokenStore.open(path)
    splits = store.splits if splits is None else splits
    total = sum(store.windows(split, mode) for split in splits for mode in modes)
    done = 0
    result: dict[str, dict[str, ArrayStatistics]] = {}
    for split in splits:
        result[split] = {}
        for mode in modes:
            counts = _Counts()
            for first, tokens, lengths in store.blocks(split, mode, _ROWS):
                parsed = parse_windows(tokens, lengths)
                if parsed.bad.size:
                    raise DamagedStoreError(
                        f"{store.path}: window {first + parsed.bad[0]} of {split}/{mode} breaks the "
                        "grammar: run verify-store to see where"
                    )
                counts.add(parsed, lengths)
                done += len(tokens)
                progress(done, total)
            result[split][mode] = counts.report()
    manifest = store.manifest
    return StoreReport(
        path=str(store.path),
        digest=store.digest,
        bytes=sum(file.size for file in manifest.files.values()),
        files=len(manifest.files),
        inputs=len(manifest.inputs),
        ledger=manifest.ledger,
        configuration=manifest.configuration,
        format_version=manifest.format_version,
        vocabulary_version=manifest.vocabulary_version,
        splits=result,
        overlap=manifest.overlap,
        new_sources=manifest.new_sources,
    )


class _Counts:
    """Running counts over the windows of one array."""

    def __init__(self) -> None:
        self.windows = 0
        self.tokens = 0
        self.sources = 0
        self.failed = 0
        self.ipv4 = 0
        self.roles = np.zeros(len(ROLE_NAMES), np.int64)
        self.orders = np.zeros(len(ORDER_NAMES), np.int64)
        self.time_roles = np.zeros(len(ROLE_NAMES), np.int64)
        self.rtt_codes = np.zeros(1 << 16, np.int64)
        self.fills = np.zeros(_FILL_BINS, np.int64)

    def add(self, parsed: Parsed, lengths: NDArray[np.uint16]) -> None:
        self.windows += len(lengths)
        self.tokens += int(lengths.sum(dtype=np.int64))
        self.sources += _distinct_pairs(parsed.window, parsed.source)
        self.failed += int(parsed.failed.sum())
        self.ipv4 += int(parsed.ipv4.sum())
        self.roles += parsed.role_counts
        self.orders += np.bincount(parsed.order, minlength=len(ORDER_NAMES))
        self.time_roles += np.bincount(parsed.time_role, minlength=len(ROLE_NAMES))
        self.rtt_codes += np.bincount(parsed.rtt_code, minlength=1 << 16)
        bins = (lengths.astype(np.int64) - 1) * _FILL_BINS // CONTEXT
        self.fills += np.bincount(bins, minlength=_FILL_BINS)

    def report(self) -> ArrayStatistics:
        measurements = int(self.roles[MEASUREMENT_START])
        token_types = dict(zip(ROLE_NAMES, self.roles.tolist(), strict=True))
        token_types["BYTE"] = self.tokens - int(self.roles.sum())
        return ArrayStatistics(
            windows=self.windows,
            measurements=measurements,
            tokens=self.tokens,
            fill=_ratio(self.tokens, self.windows * CONTEXT),
            tokens_per_measurement=_ratio(self.tokens, measurements),
            measurements_per_window=_ratio(measurements, self.windows),
            sources_per_window=_ratio(self.sources, self.windows),
            token_types=token_types,
            address_families={"ipv4": self.ipv4, "ipv6": measurements - self.ipv4},
            delta_widths={name: int(self.time_roles[role]) for name, role in DELTA_WIDTHS.items()},
            field_orders={
                name: count
                for name, count in zip(ORDER_NAMES, self.orders.tolist(), strict=True)
                if count
            },
            rtt=self._rtt(),
            fill_histogram=FillHistogram(
                edges=[edge / _FILL_BINS for edge in range(_FILL_BINS + 1)],
                windows=self.fills.tolist(),
            ),
        )

    def _rtt(self) -> RttStatistics:
        """Failures, percentiles and histogram of the RTTs, exact to the code's precision."""
        codes = np.flatnonzero(self.rtt_codes)
        ms = decode_rtts(codes.astype(np.uint16))
        by_value = np.argsort(ms, kind="stable")
        ms, counts = ms[by_value], self.rtt_codes[codes][by_value]
        answered = int(counts.sum())
        percentiles = {}
        if answered:
            below = np.cumsum(counts)
            at = [np.searchsorted(below, answered * p / 100) for p in PERCENTILES]
            percentiles = {f"p{p}": float(ms[i]) for p, i in zip(PERCENTILES, at, strict=True)}
        bins = np.searchsorted(RTT_EDGES_MS, ms, side="right")
        histogram = np.bincount(bins, weights=counts, minlength=len(RTT_EDGES_MS) + 1)
        return RttStatistics(
            answered=answered,
            failed=self.failed,
            percentiles_ms=percentiles,
            edges_ms=list(RTT_EDGES_MS),
            counts=histogram.astype(np.int64).tolist(),
        )


def _distinct_pairs(window: NDArray[np.int64], source: NDArray[np.uint64]) -> int:
    """Distinct (window, source) pairs; `window` is sorted."""
    if not len(window):
        return 0
    order = np.lexsort((source, window))
    window, source = window[order], source[order]
    return 1 + int(((np.diff(window) != 0) | (source[1:] != source[:-1])).sum())


def _ratio(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None
