"""Intervals hold what they promise, and marks in the tables say what numbers rest on."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import numpy as np
import pytest

from model.evaluate.comparison import compare
from model.evaluate.intervals import Interval, of_auc, of_mean, of_quantile, of_ratio, of_share
from model.evaluate.metrics import rtt_metrics
from model.evaluate.predictors.baselines import fit_baselines
from model.evaluate.predictors.definitions import DEFINITIONS
from model.evaluate.questions import choose_questions
from tests.model.evaluate.small_rows import make_rows

WORLDS = 300
A, B, X, Y = (ip_address(f"192.0.2.{host}") for host in (1, 2, 3, 4))


def share_that_holds(intervals: list[Interval], truth: float) -> float:
    return float(np.mean([low <= truth <= high for low, high in intervals]))


def test_intervals_hold_the_truth_in_95_of_100_samples() -> None:
    random = np.random.default_rng(0)
    drawn = [np.sort(random.exponential(10, 200)) for _ in range(WORLDS)]
    hits = random.binomial(200, 0.1, WORLDS)
    for intervals, truth in (
        ([of_quantile(values, 0.5) for values in drawn], 10 * np.log(2)),
        ([of_quantile(values, 0.9) for values in drawn], 10 * np.log(10)),
        ([of_mean(values) for values in drawn], 10.0),
        ([of_share(count, 200) for count in hits.tolist()], 0.1),
    ):
        assert 0.91 <= share_that_holds(intervals, truth) <= 0.99


def test_the_interval_of_an_area_holds_the_truth() -> None:
    random = np.random.default_rng(1)
    positive = np.arange(200) < 60
    scores = [random.normal(positive.astype(float), 1.0) for _ in range(60)]
    found = [of_auc(score, positive) for score in scores]
    assert share_that_holds(found, 0.76025) >= 0.88  # that of normals a deviation apart
    assert of_auc(np.zeros(10), np.arange(10) < 5) == [0.5, 0.5]


def test_what_one_search_finds_counts_as_one_draw() -> None:
    """Ten searches of a hundred finds each, all right or all wrong, say as much as ten coins."""
    right = np.repeat([100.0, 0.0], 5)
    low, high = of_ratio(right, np.full(10, 100.0))
    assert low < 0.25
    assert high > 0.75


def test_intervals_surround_their_number_and_need_no_more_than_one_row() -> None:
    for count in (1, 2, 3, 10, 1001):
        random = np.random.default_rng(count)
        rtt_ms, predicted = random.uniform(1, 100, count), random.uniform(1, 100, count)
        found = rtt_metrics(predicted, rtt_ms)
        for field, (low, high) in found.intervals.items():
            assert low <= getattr(found, field) <= high
        assert len(found.intervals) == 6
    assert rtt_metrics(np.zeros(0), np.zeros(0)).intervals == {}


@pytest.mark.parametrize(("hits", "count"), [(0, 1), (1, 1), (0, 24), (24, 24)])
def test_a_share_of_none_or_of_all_is_not_certain(hits: int, count: int) -> None:
    low, high = of_share(hits, count)
    assert 0 <= low <= hits / count <= high <= 1
    assert high - low > 0.1


def test_every_baseline_says_when_its_fallback_answers() -> None:
    """Of A everything is known, but not its pair with Y; of Y only what B measured."""
    rows = [(A, X, 1, 5.0), (A, X, 2, 6.0), (B, X, 3, 9.0), (B, Y, 4, 20.0)]
    train, test = make_rows(rows, [(A, X, 10, 5.0), (A, Y, 11, 20.0)])
    questions = choose_questions(train, test, None)
    for predictor in fit_baselines(train):
        forecast = predictor.predict(questions.queries)
        assert forecast.fell_back is not None
        of_pair = predictor.name.startswith("pair")
        assert forecast.fell_back.tolist() == [False, of_pair], predictor.name
    report = compare(questions, fit_baselines(train))
    assert report.rtt["pair_last"]["unseen_pairs"].fell_back == 1
    assert report.rtt["pair_last"]["seen_pairs"].fell_back == 0
    assert report.rtt["dmfsgd"]["all"].fell_back == 0


def test_every_predictor_is_defined_and_documented() -> None:
    train, _ = make_rows([(A, X, 1, 5.0)], [(A, X, 2, 5.0)])
    assert set(DEFINITIONS) == {p.name for p in fit_baselines(train)} | {"best_possible"}
    documented = Path("docs/evaluation.md").read_text()
    assert all(f"`{name}`" in documented for name in DEFINITIONS)
