"""How good predictions are: errors of points, calibration of distributions, ranking of failures.

Every function takes arrays of n predictions with their outcomes and returns JSON-able numbers, `None`
where n leaves them undefined.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RELATIVE_PERCENTILES = (50, 75, 90, 95)
COVERAGES = (50, 80, 95)
PIT_BINS = 20


def rtt_metrics(predicted_ms: Floats, rtt_ms: Floats) -> dict[str, Any]:
    """Errors of point predictions of answered RTTs, (n,) each; the relative error is |p - r| / r."""
    error = np.abs(predicted_ms - rtt_ms)
    relative = error / rtt_ms
    count = len(error)
    metrics = {
        "count": count,
        "median_abs_error_ms": float(np.median(error)) if count else None,
        "mae_ms": float(error.mean()) if count else None,
    }
    for percentile in RELATIVE_PERCENTILES:
        value = float(np.percentile(relative, percentile)) if count else None
        metrics[f"relative_error_p{percentile}"] = value
    return metrics


def error_cdf(predicted_ms: Floats, rtt_ms: Floats) -> list[float]:
    """Absolute errors in ms that 1, 2, … 99 % of the predictions stay under; [] of none."""
    if not len(rtt_ms):
        return []
    quantiles: list[float] = np.percentile(np.abs(predicted_ms - rtt_ms), range(1, 100)).tolist()
    return quantiles


def calibration_metrics(quantiles_ms: Floats, levels: Floats, rtt_ms: Floats) -> dict[str, Any]:
    """Calibration of predicted quantiles (n, Q) at `levels` (Q,), evenly spaced, on answered RTTs (n,).

    `pit_histogram`: shares of outcomes whose predicted CDF lies in each of 20 bins, flat if calibrated.
    `coverage_50` …: share of outcomes inside the central interval of that probability.
    `crps_ms`: continuous ranked probability score, twice the mean pinball loss over the levels
    (Gneiting and Raftery 2007), in ms; of a point forecast it is the MAE.
    """
    count = len(rtt_ms)
    if not count:
        empty = {f"coverage_{percent}": None for percent in COVERAGES}
        return {"count": 0, "crps_ms": None, **empty, "pit_histogram": []}
    below = quantiles_ms < rtt_ms[:, None]
    touched = quantiles_ms <= rtt_ms[:, None]
    pit = (below.sum(1) + touched.sum(1) + 1) / 2 / (len(levels) + 1)  # ties: their middle
    histogram = np.histogram(pit, PIT_BINS, (0, 1))[0] / count
    metrics: dict[str, Any] = {"count": count}
    shortfall = rtt_ms[:, None] - quantiles_ms
    metrics["crps_ms"] = float(2 * np.mean(shortfall * (levels - (shortfall < 0))))
    for percent in COVERAGES:
        low = int(np.argmin(np.abs(levels - (0.5 - percent / 200))))
        inside = (quantiles_ms[:, low] <= rtt_ms) & (rtt_ms <= quantiles_ms[:, -1 - low])
        metrics[f"coverage_{percent}"] = float(inside.mean())
    return {**metrics, "pit_histogram": histogram.tolist()}


def failure_metrics(p_failed: Floats, failed: NDArray[np.bool_]) -> dict[str, Any]:
    """Of predicted probabilities of no answer (n,): `auc` (area under the ROC curve, ties count half)
    and `brier` (mean squared error of the probability)."""
    count, bad = len(failed), int(failed.sum())
    return {
        "count": count,
        "failed": bad,
        "auc": _auc(p_failed, failed) if 0 < bad < count else None,
        "brier": float(np.mean((p_failed - failed) ** 2)) if count else None,
    }


def _auc(score: Floats, positive: NDArray[np.bool_]) -> float:
    """Probability that a positive has a higher score than a negative (Mann and Whitney 1947)."""
    _, value, counts = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[value]  # mean rank of ties, from 1
    positives = int(positive.sum())
    above = rank[positive].sum() - positives * (positives + 1) / 2
    return float(above / (positives * (len(score) - positives)))
