"""How sure a measured number is: 95 % intervals by the bootstrap, of rows that could have been others.

The bootstrap (Efron 1979) draws as many rows with replacement, many times, and looks where the number falls. For
a quantile of the rows that can be computed exactly: how many draws lie below is binomial, so the interval
ends at two of the sorted values. For a share, Wilson's interval (1927) is better where few rows are hits.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Interval = list[float]
"""Lower and upper end."""

Z = 1.959964  # of the normal distribution: 95 % lie within as many standard deviations
DRAWS = 400
SEED = 0x95


def of_quantile(ordered: Floats, share: float) -> Interval:
    """Of the quantile `share` of values that are sorted and at least one."""
    count = len(ordered)
    middle, spread = count * share, Z * np.sqrt(count * share * (1 - share))
    low, high = int(np.floor(middle - spread)) - 1, int(np.ceil(middle + spread))
    return [float(ordered[max(low, 0)]), float(ordered[min(high, count - 1)])]


def of_mean(values: Floats) -> Interval:
    """Of the mean of at least one value."""
    return _middle(resamples(len(values)) @ values / len(values))


def of_share(hits: float, count: int) -> Interval:
    """Of a share of `hits` among `count` rows, at least one."""
    share, square = hits / count, Z * Z / count
    middle = share + square / 2
    spread = Z * np.sqrt(share * (1 - share) / count + square / count / 4)
    low, high = (middle - spread) / (1 + square), (middle + spread) / (1 + square)
    return [float(low) if hits else 0.0, float(high) if hits < count else 1.0]


def of_ratio(parts: Floats, wholes: Floats) -> Interval:
    """Of sum(parts) / sum(wholes) over groups of rows (n,) that are drawn whole: what one search found."""
    weights = resamples(len(parts))
    return _middle(weights @ parts / np.maximum(weights @ wholes, 1e-12))


def of_auc(score: Floats, positive: NDArray[np.bool_]) -> Interval:
    """Of the area under the ROC curve, with positives and negatives both drawn anew; at least one of each."""
    value, at = np.unique(score, return_inverse=True)
    areas = []
    for drawn in resamples(len(score)):
        good, bad = (np.bincount(at, drawn * side, len(value)) for side in (positive, ~positive))
        if good.any() and bad.any():
            below = np.cumsum(bad) - bad / 2  # ties count half
            areas.append((good @ below) / (good.sum() * bad.sum()))
    return _middle(np.array(areas))


@lru_cache(maxsize=8)
def resamples(count: int) -> NDArray[np.float32]:
    """How often each of `count` rows is drawn, (400, count); always the same draws."""
    random = np.random.default_rng((SEED, count))
    draws = (np.bincount(random.integers(0, count, count), minlength=count) for _ in range(DRAWS))
    return np.stack([draw.astype(np.float32) for draw in draws])


def _middle(drawn: Floats) -> Interval:
    low, high = np.quantile(drawn, (0.025, 0.975))
    return [float(low), float(high)]
