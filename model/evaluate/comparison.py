"""Predictors side by side on the same test rows: RTT errors, calibration and failures."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from model.evaluate.metrics import calibration_metrics, error_cdf, failure_metrics, rtt_metrics
from model.evaluate.questions import LEVELS, Forecast, Predictor, Questions
from model.evaluate.records import (
    ByGroup,
    Calibration,
    Comparison,
    FailureScores,
    QuestionCounts,
    RttErrors,
)
from stores.errors import ConfigError
from stores.rows import is_ipv4

Progress = Callable[[str, int, int], None]
"""Called as progress(what is going on, done, total)."""

CONTEXT_SIZES = (0, 1, 2, 5, 10, 30)
WHOLE_CONTEXT = "as_many_as_fit"
RTT_RANGES_MS = (0, 10, 30, 100, 300)

Mask = NDArray[np.bool_]


def compare(
    questions: Questions,
    predictors: Sequence[Predictor],
    progress: Progress = lambda what, done, total: None,
) -> Comparison:
    """Ask every predictor all questions, and score the answers by group of questions.

    Raises `ConfigError` if two predictors have the same name."""
    names = [predictor.name for predictor in predictors]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two predictors are named {name}: rename the folder of the model")
    groups = questions.groups()
    scores = {}
    for done, predictor in enumerate(predictors):
        progress(predictor.name, done, len(predictors))
        scores[predictor.name] = _score(questions, predictor, groups)
    progress("", len(predictors), len(predictors))
    return Comparison(
        questions=QuestionCounts(
            asked=len(questions.rtt_ms),
            of=questions.candidates,
            failed=int(np.isnan(questions.rtt_ms).sum()),
            context_rows=questions.queries.context_dst.shape[1],
            groups={name: int(mask.sum()) for name, mask in groups.items()},
        ),
        rtt={name: of.rtt for name, of in scores.items()},
        rtt_by_family={name: of.rtt_by_family for name, of in scores.items()},
        rtt_by_range={name: of.rtt_by_range for name, of in scores.items()},
        rtt_by_context={name: of.rtt_by_context for name, of in scores.items()},
        error_cdf={name: of.error_cdf for name, of in scores.items()},
        seconds={name: of.seconds for name, of in scores.items()},
        calibration={name: of.calibration for name, of in scores.items() if of.calibration},
        failure={name: of.failure for name, of in scores.items() if of.failure},
    )


@dataclass(frozen=True)
class _Scores:
    """One predictor's part of each table of a `Comparison`."""

    rtt: ByGroup
    rtt_by_family: ByGroup
    rtt_by_range: ByGroup
    rtt_by_context: dict[str, ByGroup]
    error_cdf: dict[str, list[float]]
    calibration: dict[str, Calibration] | None
    failure: dict[str, FailureScores] | None
    seconds: float


def _score(questions: Questions, predictor: Predictor, groups: dict[str, Mask]) -> _Scores:
    start = time.perf_counter()
    forecast = predictor.predict(questions.queries)
    seconds = time.perf_counter() - start
    return _Scores(
        rtt=_rtt(questions, forecast, groups),
        rtt_by_family=_rtt(questions, forecast, _families(questions)),
        rtt_by_range=_rtt(questions, forecast, _ranges(questions)),
        rtt_by_context=_by_context(questions, predictor, forecast),
        error_cdf=_error_cdf(questions, forecast, groups),
        calibration=_calibration(questions, forecast, groups),
        failure=_failure(questions, forecast, groups),
        seconds=seconds,
    )


def _rtt(questions: Questions, forecast: Forecast, groups: dict[str, Mask]) -> ByGroup:
    answered = ~np.isnan(questions.rtt_ms)
    fell_back = forecast.fell_back

    def errors(rows: Mask) -> RttErrors:
        return rtt_metrics(
            forecast.median_ms[rows],
            questions.rtt_ms[rows],
            None if fell_back is None else fell_back[rows],
        )

    return {name: errors(mask & answered) for name, mask in groups.items()}


def _families(questions: Questions) -> dict[str, Mask]:
    ipv4 = is_ipv4(questions.queries.addresses)[questions.queries.src]
    return {"ipv4": ipv4, "ipv6": ~ipv4}


def _ranges(questions: Questions) -> dict[str, Mask]:
    """Questions by true RTT in ms; the last range has no upper end."""
    place = np.searchsorted(RTT_RANGES_MS, questions.rtt_ms, side="right") - 1
    names = [f"{low}_to_{high}_ms" for low, high in pairwise(RTT_RANGES_MS)]
    return {name: place == at for at, name in enumerate([*names, f"over_{RTT_RANGES_MS[-1]}_ms"])}


def _by_context(
    questions: Questions, predictor: Predictor, forecast: Forecast
) -> dict[str, ByGroup]:
    """The `rtt` table for each size of context; `forecast` is the one with the whole context."""
    tables = {WHOLE_CONTEXT: _rtt(questions, forecast, questions.groups())}
    for size in CONTEXT_SIZES:
        queries = questions.queries.with_context(size)
        said = predictor.predict(queries) if predictor.uses_context else forecast
        tables[str(size)] = _rtt(questions, said, questions.groups(queries))
    return tables


def _error_cdf(
    questions: Questions, forecast: Forecast, groups: dict[str, Mask]
) -> dict[str, list[float]]:
    answered = ~np.isnan(questions.rtt_ms)
    return {
        name: error_cdf(forecast.median_ms[mask & answered], questions.rtt_ms[mask & answered])
        for name, mask in groups.items()
    }


def _calibration(
    questions: Questions, forecast: Forecast, groups: dict[str, Mask]
) -> dict[str, Calibration] | None:
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
) -> dict[str, FailureScores] | None:
    if forecast.p_failed is None:
        return None
    failed = np.isnan(questions.rtt_ms)
    return {
        name: failure_metrics(forecast.p_failed[mask], failed[mask])
        for name, mask in groups.items()
    }
