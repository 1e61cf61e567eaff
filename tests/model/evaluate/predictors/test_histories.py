"""Medians and histories on rows written by hand."""

from __future__ import annotations

import numpy as np
import pytest

from model.evaluate.predictors.histories import AVERAGE_GAIN, fit_histories, prefix_keys
from model.evaluate.questions import LEVELS, Forecast
from stores.truth import pack_addresses
from tests.model.evaluate.small_rows import Row, make_queries, make_rows

A, B, NEW = "192.0.2.1", "192.0.2.2", "192.0.2.99"
X, Y = "198.51.100.1", "198.51.100.2"
NEAR_X = "198.51.100.77"
NEAR_SLASH_16 = "198.51.7.7"
FAR = "203.0.113.9"

TRAIN: list[Row] = [
    (A, X, 10, 10.0),
    (A, X, 30, 14.0),
    (A, X, 20, 12.0),
    (A, X, 40, None),
    (A, Y, 11, 30.0),
    (B, Y, 12, 50.0),
    (B, Y, 13, None),
]


def ask(src: str, dst: str, context: list[Row] = ()) -> dict[str, Forecast]:  # type: ignore[assignment]
    """What each predictor, fitted on `TRAIN`, says to one query with a context."""
    train, rest = make_rows(TRAIN, [(src, dst, 100, 1.0), *context])
    queries = make_queries(rest.take(slice(1)), [rest.take(slice(1, None))])
    return {predictor.name: predictor.predict(queries) for predictor in fit_histories(train)}


def medians(src: str, dst: str, context: list[Row] = ()) -> dict[str, float]:  # type: ignore[assignment]
    return {name: forecast.median_ms[0] for name, forecast in ask(src, dst, context).items()}


def test_each_looks_at_its_own_rows() -> None:
    found = medians(A, X)
    assert found["global_median"] == 14
    assert found["source_median"] == 13
    assert found["destination_median"] == 12
    assert found["pair_median"] == 12
    assert found["pair_last"] == 14
    smoothed = 10 + AVERAGE_GAIN * 2
    assert found["pair_average"] == pytest.approx(smoothed + AVERAGE_GAIN * (14 - smoothed))


def test_an_unseen_pair_falls_back_to_the_destination() -> None:
    found = medians(B, X)
    for name in ("destination_median", "pair_median", "pair_last", "pair_average"):
        assert found[name] == 12
    assert found["source_median"] == 50


def test_an_unseen_destination_falls_back_to_ever_shorter_prefixes() -> None:
    assert medians(A, NEAR_X)["destination_median"] == 14  # of X and Y together
    assert medians(A, NEAR_SLASH_16)["destination_median"] == 14
    train, rest = make_rows([*TRAIN, (A, FAR, 1, 99.0)], [(A, "203.0.200.1", 9, 1.0)])
    by_destination = fit_histories(train)[2]
    assert by_destination.predict(make_queries(rest)).median_ms[0] == 99


def test_a_new_source_is_known_by_its_context() -> None:
    context: list[Row] = [
        (NEW, X, 1, 70.0),
        (NEW, X, 2, None),
        (NEW, X, 3, 78.0),
        (NEW, Y, 4, 20.0),
    ]
    found = medians(NEW, X, context)
    assert found["source_median"] == 70
    assert found["pair_median"] == 74
    assert found["pair_last"] == 78
    assert found["pair_average"] == 70 + AVERAGE_GAIN * 8
    assert medians(NEW, FAR, context)["pair_last"] == 14  # never measured: all rows
    assert medians(NEW, X)["source_median"] == 14


def test_distributions_are_those_of_the_rows() -> None:
    quantiles = ask(A, X)["pair_median"].quantiles_ms
    assert quantiles is not None
    np.testing.assert_allclose(quantiles[0], np.quantile([10.0, 12.0, 14.0], LEVELS))


def test_failure_rates_follow_the_rows_and_lean_on_coarser_ones() -> None:
    found = ask(B, Y)
    everything = found["global_median"].p_failed
    assert everything is not None
    assert everything[0] == 2 / 8  # of seven rows, and one row of a prior of 0
    pair = found["pair_median"].p_failed
    source = ask(A, X)["pair_median"].p_failed
    assert pair is not None
    assert source is not None
    assert 2 / 8 < pair[0] < 1 / 2
    assert abs(source[0] - 1 / 4) < 0.05


def test_the_exponential_average_is_that_of_a_plain_loop() -> None:
    rtts = np.random.default_rng(3).uniform(1, 100, 50)
    train, _ = make_rows([(A, X, at, rtt) for at, rtt in enumerate(rtts)])
    value = rtts[0]
    for rtt in rtts[1:]:
        value += AVERAGE_GAIN * (rtt - value)
    average = next(p for p in fit_histories(train) if p.name == "pair_average")
    assert average.predict(make_queries(train.take(slice(1)))).median_ms[0] == pytest.approx(value)


def test_prefixes_of_two_families_never_meet() -> None:
    addresses = pack_addresses(["32.1.13.184", "2001:db8::1", "2001:db8:ffff::1", "2001:db9::1"])
    for lengths in ((24, 48), (16, 32)):
        keys = prefix_keys(addresses, *lengths)
        assert keys[0] not in keys[1:]
    assert keys[1] == keys[2] != keys[3]
