"""Predictors side by side on the same test rows: errors of RTTs, calibration, failures."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.evaluate.metrics import calibration_metrics, error_cdf, failure_metrics, rtt_metrics
from model.evaluate.predictors.coordinates import Dmfsgd, Vivaldi, pair_medians
from model.evaluate.predictors.histories import fit_histories
from model.evaluate.predictors.vantage_points import NearestVantagePoints
from model.evaluate.questions import LEVELS, Forecast, Predictor, Questions
from stores.errors import ConfigError
from stores.rows import Rows, is_ipv4

Progress = Callable[[str, int, int], None]
"""Called as progress(what is going on, done, in all)."""

CONTEXT_SIZES = (0, 1, 2, 5, 10, 30)
WHOLE_CONTEXT = "as_many_as_fit"
RTT_RANGES_MS = (0, 10, 30, 100, 300)
MAX_FIT_ROWS = 20_000_000
"""Baselines are fitted on a uniform sample of a larger train split: medians do not feel it."""

Mask = NDArray[np.bool_]


def fit_baselines(train: Rows, seed: int = 0) -> list[Predictor]:
    """Every baseline, fitted. A few seconds for a million rows of a thousand sources."""
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


def compare(
    questions: Questions,
    predictors: Sequence[Predictor],
    progress: Progress = lambda what, done, total: None,
) -> dict[str, Any]:
    """Metrics of every predictor by group of questions, as `evaluate` reports them.

    Raises `ConfigError` where two have one name."""
    names = [predictor.name for predictor in predictors]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two predictors are named {name}: rename the folder of the model")
    groups = questions.groups()
    tables: dict[str, dict[str, Any]] = {}
    for done, predictor in enumerate(predictors):
        progress(predictor.name, done, len(predictors))
        start = time.perf_counter()
        forecast = predictor.predict(questions.queries)
        seconds = time.perf_counter() - start
        tables_of = {
            "rtt": _rtt(questions, forecast, groups),
            "rtt_by_family": _rtt(questions, forecast, _families(questions)),
            "rtt_by_range": _rtt(questions, forecast, _ranges(questions)),
            "rtt_by_context": _by_context(questions, predictor, forecast),
            "error_cdf": _error_cdf(questions, forecast, groups),
            "calibration": _calibration(questions, forecast, groups),
            "failure": _failure(questions, forecast, groups),
            "seconds": seconds,
        }
        for table, values in tables_of.items():
            if values is not None:
                tables.setdefault(table, {})[predictor.name] = values
    progress("", len(predictors), len(predictors))
    return {
        "questions": {
            "asked": len(questions.rtt_ms),
            "of": questions.candidates,
            "failed": int(np.isnan(questions.rtt_ms).sum()),
            "context_rows": questions.queries.context_dst.shape[1],
            "groups": {name: int(mask.sum()) for name, mask in groups.items()},
        },
        **tables,
    }


def _rtt(questions: Questions, forecast: Forecast, groups: dict[str, Mask]) -> dict[str, Any]:
    answered = ~np.isnan(questions.rtt_ms)
    return {
        name: rtt_metrics(forecast.median_ms[mask & answered], questions.rtt_ms[mask & answered])
        for name, mask in groups.items()
    }


def _families(questions: Questions) -> dict[str, Mask]:
    ipv4 = is_ipv4(questions.queries.addresses)[questions.queries.src]
    return {"ipv4": ipv4, "ipv6": ~ipv4}


def _ranges(questions: Questions) -> dict[str, Mask]:
    """By true RTT in ms; the last range is open."""
    place = np.searchsorted(RTT_RANGES_MS, questions.rtt_ms, side="right") - 1
    names = [f"{low}_to_{high}_ms" for low, high in pairwise(RTT_RANGES_MS)]
    return {name: place == at for at, name in enumerate([*names, f"over_{RTT_RANGES_MS[-1]}_ms"])}


def _by_context(questions: Questions, predictor: Predictor, forecast: Forecast) -> dict[str, Any]:
    """The `rtt` table again with only so many rows of context; `forecast` is the one with all."""
    tables = {WHOLE_CONTEXT: _rtt(questions, forecast, questions.groups())}
    for size in CONTEXT_SIZES:
        queries = questions.queries.with_context(size)
        said = predictor.predict(queries) if predictor.uses_context else forecast
        tables[str(size)] = _rtt(questions, said, questions.groups(queries))
    return tables


def _error_cdf(questions: Questions, forecast: Forecast, groups: dict[str, Mask]) -> dict[str, Any]:
    answered = ~np.isnan(questions.rtt_ms)
    return {
        name: error_cdf(forecast.median_ms[mask & answered], questions.rtt_ms[mask & answered])
        for name, mask in groups.items()
    }


def _calibration(
    questions: Questions, forecast: Forecast, groups: dict[str, Mask]
) -> dict[str, Any] | None:
    if forecast.quantiles_ms is None:
        return None
    answered = ~np.isnan(questions.rtt_ms)
    return {
        name: calibration_metrics(
            forecast.quantiles_ms[mask & answered], LEVELS, questions.rtt_ms[mask & answered]
        )
        for name, mask in groups.items()
    }


def _failure(
    questions: Questions, forecast: Forecast, groups: dict[str, Mask]
) -> dict[str, Any] | None:
    if forecast.p_failed is None:
        return None
    failed = np.isnan(questions.rtt_ms)
    return {
        name: failure_metrics(forecast.p_failed[mask], failed[mask])
        for name, mask in groups.items()
    }
