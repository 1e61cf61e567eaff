"""How good predictions are: errors of points, calibration of distributions, ranking of failures.

Every function takes arrays of n predictions with their outcomes; numbers that so few predictions leave
undefined are `None`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model.evaluate import intervals
from model.evaluate.records import Calibration, FailureScores, RttErrors

Floats = NDArray[np.float64]

PIT_BINS = 20


def rtt_metrics(
    predicted_ms: Floats, rtt_ms: Floats, fell_back: NDArray[np.bool_] | None = None
) -> RttErrors:
    """Errors of point predictions of answered RTTs, both (n,) in ms, with their 95 % intervals.

    `fell_back` (n,) says which of them are those of the predictor's fall-back.
    """
    if not len(rtt_ms):
        return RttErrors(0, None, None, None, None, None, None)
    error = np.sort(np.abs(predicted_ms - rtt_ms))
    relative = np.sort(np.abs(predicted_ms - rtt_ms) / rtt_ms)
    percentiles = {f"relative_error_p{p}": p for p in (50, 75, 90, 95)}
    return RttErrors(
        count=len(error),
        median_abs_error_ms=float(np.median(error)),
        mae_ms=float(error.mean()),
        **{name: float(np.percentile(relative, p)) for name, p in percentiles.items()},
        fell_back=0.0 if fell_back is None else float(fell_back.mean()),
        intervals={
            "median_abs_error_ms": intervals.of_quantile(error, 0.5),
            "mae_ms": intervals.of_mean(error),
            **{name: intervals.of_quantile(relative, p / 100) for name, p in percentiles.items()},
        },
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

    scores = 2 * (shortfall * (levels - (shortfall < 0))).mean(axis=1)

    def coverage(percent: int) -> float:
        low = int(np.argmin(np.abs(levels - (0.5 - percent / 200))))
        inside = (quantiles_ms[:, low] <= rtt_ms) & (rtt_ms <= quantiles_ms[:, -1 - low])
        return float(inside.mean())

    coverages = {f"coverage_{percent}": coverage(percent) for percent in (50, 80, 95)}
    return Calibration(
        count=count,
        crps_ms=float(scores.mean()),
        **coverages,
        pit_histogram=histogram.tolist(),
        intervals={
            "crps_ms": intervals.of_mean(scores),
            **{name: intervals.of_share(share * count, count) for name, share in coverages.items()},
        },
    )


def failure_metrics(p_failed: Floats, failed: NDArray[np.bool_]) -> FailureScores:
    """Scores of predicted probabilities of no answer (n,): the area under the ROC curve, where ties count
    half, and the Brier score, which is the mean squared error of the probability."""
    count, bad = len(failed), int(failed.sum())
    square = (p_failed - failed) ** 2
    told: dict[str, intervals.Interval] = {}
    if count:
        told["brier"] = intervals.of_mean(square)
    if 0 < bad < count:
        told["auc"] = intervals.of_auc(p_failed, failed)
    return FailureScores(
        count=count,
        failed=bad,
        auc=_auc(p_failed, failed) if 0 < bad < count else None,
        brier=float(square.mean()) if count else None,
        intervals=told,
    )


def _auc(score: Floats, positive: NDArray[np.bool_]) -> float:
    """Probability that a positive has a higher score than a negative (Mann and Whitney 1947)."""
    _, value, counts = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[value]  # mean rank of ties, from 1
    positives = int(positive.sum())
    above = rank[positive].sum() - positives * (positives + 1) / 2
    return float(above / (positives * (len(score) - positives)))
