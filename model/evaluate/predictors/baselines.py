"""The list of baselines that every evaluation asks."""

from __future__ import annotations

import numpy as np

from model.evaluate.predictors.coordinates import Dmfsgd, Vivaldi, pair_medians
from model.evaluate.predictors.histories import fit_histories
from model.evaluate.predictors.vantage_points import NearestVantagePoints
from model.evaluate.questions import Predictor
from stores.rows import Rows

MAX_FIT_ROWS = 20_000_000
"""Of a larger train split, baselines are fitted on a uniform sample; their medians hardly change."""


def fit_baselines(train: Rows, seed: int = 0) -> list[Predictor]:
    """Every baseline, fitted on `train`. Takes a few seconds for a million rows of a thousand sources."""
    if len(train) > MAX_FIT_ROWS:
        sample = np.random.default_rng(seed).choice(len(train), MAX_FIT_ROWS, replace=False)
        train = train.take(np.sort(sample))
    histories = fit_histories(train)
    by_destination = next(p for p in histories if p.name == "destination_median")
    pairs, addresses = pair_medians(train), len(train.addresses)
    return [
        *histories,
        Vivaldi(pairs, addresses, by_destination, seed=seed),
        Dmfsgd(pairs, addresses, by_destination, seed=seed),
        NearestVantagePoints(pairs, addresses, by_destination),
    ]
