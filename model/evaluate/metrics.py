"""How good predictions are: errors of points, calibration of distributions, ranking of failures.

Every function takes arrays of n predictions with their outcomes; numbers that so few predictions leave
undefined are `None`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model.evaluate.records import Calibration, FailureScores, RttErrors

Floats = NDArray[np.float64]

PIT_BINS = 20


def rtt_metrics(predicted_ms: Floats, rtt_ms: Floats) -> RttErrors:
    """Errors of point predictions of answered RTTs, both (n,) in ms."""
    if not len(rtt_ms):
        return RttErrors(0, None, None, None, None, None, None)
    error = np.abs(predicted_ms - rtt_ms)
    relative = error / rtt_ms
    return RttErrors(
        count=len(error),
        median_abs_error_ms=float(np.median(error)),
        mae_ms=float(error.mean()),
        relative_error_p50=float(np.percentile(relative, 50)),
        relative_error_p75=float(np.percentile(relative, 75)),
        relative_error_p90=float(np.percentile(relative, 90)),
        relative_error_p95=float(np.percentile(relative, 95)),
    )


def error_cdf(predicted_ms: Floats, rtt_ms: Floats) -> list[float]:
    """Absolute errors in ms that 1, 2, … 99 % of the predictions stay under; [] of none."""
    if not len(rtt_ms):
        return []
    quantiles: list[float] = np.percentile(np.abs(predicted_ms - rtt_ms), range(1, 100)).tolist()
    return quantiles


def calibration_metrics(quantiles_ms: Floats, levels: Floats, rtt_ms: Floats) -> Calibration:
    """Calibration of predicted quantiles (n, Q) at evenly spaced `levels` (Q,), on answered RTTs (n,).

    The PIT histogram (probability integral transform) counts the outcomes whose predicted CDF lies in each
    of 20 bins; it is flat if the forecasts are calibrated. The CRPS (continuous ranked probability score)
    is twice the mean pinball loss over the levels (Gneiting and Raftery 2007), in ms; for a point forecast
    it is the MAE.
    """
    count = len(rtt_ms)
    if not count:
        return Calibration(0, None, None, None, None, [])
    below = quantiles_ms < rtt_ms[:, None]
    touched = quantiles_ms <= rtt_ms[:, None]
    pit = (below.sum(1) + touched.sum(1) + 1) / 2 / (len(levels) + 1)  # ties: their middle
    histogram = np.histogram(pit, PIT_BINS, (0, 1))[0] / count
    shortfall = rtt_ms[:, None] - quantiles_ms

    def coverage(percent: int) -> float:
        low = int(np.argmin(np.abs(levels - (0.5 - percent / 200))))
        inside = (quantiles_ms[:, low] <= rtt_ms) & (rtt_ms <= quantiles_ms[:, -1 - low])
        return float(inside.mean())

    return Calibration(
        count=count,
        crps_ms=float(2 * np.mean(shortfall * (levels - (shortfall < 0)))),
        coverage_50=coverage(50),
        coverage_80=coverage(80),
        coverage_95=coverage(95),
        pit_histogram=histogram.tolist(),
    )


def failure_metrics(p_failed: Floats, failed: NDArray[np.bool_]) -> FailureScores:
    """Scores of predicted probabilities of no answer (n,): the area under the ROC curve, where ties count
    half, and the Brier score, which is the mean squared error of the probability."""
    count, bad = len(failed), int(failed.sum())
    return FailureScores(
        count=count,
        failed=bad,
        auc=_auc(p_failed, failed) if 0 < bad < count else None,
        brier=float(np.mean((p_failed - failed) ** 2)) if count else None,
    )


def _auc(score: Floats, positive: NDArray[np.bool_]) -> float:
    """Probability that a positive has a higher score than a negative (Mann and Whitney 1947)."""
    _, value, counts = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[value]  # mean rank of ties, from 1
    positives = int(positive.sum())
    above = rank[positive].sum() - positives * (positives + 1) / 2
    return float(above / (positives * (len(score) - positives)))
