"""What a simulation looks like: counts of a block of rows, and the summary of all blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.records import Record
from pipeline.simulate.schedule import RTT_QUANTILES, Schedule

MARGINALS = {
    "ipv4": 0.577,
    "failed": 0.035,
    **{f"rtt_p{percent}_ms": rtt for percent, rtt in RTT_QUANTILES.items()},
    "gap_p50_s": 60.0,
    "gap_p90_s": 180.0,
    "gap_p99_s": 600.0,
}
"""Marginals of the corpus that the simulated Internet imitates; it matches them to within 15 %."""

_RTT_EDGES = np.geomspace(0.01, 1e6, 2001)  # ms, 0.9 % apart
_MAX_GAP = 2000  # seconds that gaps are counted up to


@dataclass(frozen=True)
class Rows:
    """A block of rows, each field (rows,)."""

    source: NDArray[np.int64]  # host index, see `Schedule`
    target: NDArray[np.int64]
    time: NDArray[np.int64]  # Unix seconds
    one_off: NDArray[np.bool_]


class BlockCounts(Record, frozen=True):
    """Counts of a block of rows, which add up over blocks."""

    ipv4: int
    failed: int
    rtt: list[int]
    """Answers by `_RTT_EDGES`."""
    gap: list[int]
    """Gaps within a source, by seconds."""
    early_pairs: list[int]
    """Distinct pairs before the last tenth of the time."""
    late_pairs: list[int]
    """Distinct pairs in the last tenth of the time."""


def count_block(
    schedule: Schedule, rows: Rows, rtt: NDArray[np.float64], last_tenth: float
) -> BlockCounts:
    """Count a block of rows with `rtt` (rows,) in ms, negative for a failed ping.

    `last_tenth` is the Unix time at which the last tenth of the time begins.
    """
    gaps = np.diff(rows.time)[rows.source[1:] == rows.source[:-1]]
    pair = rows.source * len(schedule.targets.text) + rows.target
    early = rows.time < last_tenth
    return BlockCounts(
        ipv4=int((~schedule.sources.ipv6[rows.source]).sum()),
        failed=int((rtt < 0).sum()),
        rtt=np.histogram(rtt[rtt >= 0], _RTT_EDGES)[0].tolist(),
        gap=np.bincount(np.minimum(gaps, _MAX_GAP), minlength=_MAX_GAP + 1).tolist(),
        early_pairs=np.unique(pair[early]).tolist(),
        late_pairs=np.unique(pair[~early]).tolist(),
    )


def distinct_pairs(
    counts: Sequence[BlockCounts],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Distinct pairs before the last tenth of the time, and in it, over all blocks; ascending."""
    early = np.concatenate([np.array(block.early_pairs, np.int64) for block in counts])
    late = np.concatenate([np.array(block.late_pairs, np.int64) for block in counts])
    return np.unique(early), np.unique(late)


def sum_marginals(counts: Sequence[BlockCounts]) -> dict[str, float]:
    """The marginals that `MARGINALS` names, from the counts of all blocks."""
    rtt = np.sum([block.rtt for block in counts], axis=0)
    gap = np.sum([block.gap for block in counts], axis=0)
    failed = sum(block.failed for block in counts)
    rows = failed + rtt.sum()
    marginals = {"ipv4": sum(block.ipv4 for block in counts) / rows, "failed": failed / rows}
    for name in list(MARGINALS)[2:]:
        kind, percent, _ = name.split("_")
        histogram, values = (rtt, _RTT_EDGES) if kind == "rtt" else (gap, np.arange(len(gap) + 1))
        marginals[name] = _percentile(histogram, values, float(percent[1:]))
    return {name: float(value) for name, value in marginals.items()}


def _percentile(histogram: NDArray[np.int64], edges: NDArray[Any], percent: float) -> float:
    """Lower edge of the bin that holds the percentile; 0 where nothing was counted."""
    total = np.cumsum(histogram)
    return float(edges[np.searchsorted(total, total[-1] * percent / 100)]) if total[-1] else 0.0
