"""A model as predictor, its completions and its searches, against fake models whose answers are known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from model.evaluate.completions import (
    Completer,
    ModelCompleter,
    MostFrequent,
    choose_of_each_family,
    completion_report,
    prefix_text,
    top_shares,
)
from model.evaluate.intervals import of_share
from model.evaluate.predictors.trained import CHUNK, LEAST_PROBABILITY, ModelPredictor
from model.evaluate.questions import LEVELS, Queries
from model.evaluate.records import CompletionShares, SearchScores, TopShares
from model.evaluate.searches import (
    ByChance,
    MeasuredRtts,
    ModelSearcher,
    Searcher,
    WorldRtts,
    choose_searches,
    search_report,
)
from model.inference.prediction import Completion, RttPrediction, SampledAddress
from model.inference.query import CompletionQuery, RttQuery, SampleQuery
from stores.codec import Measurement, encode_rtt
from stores.rows import Rows, Words
from stores.truth import pack_addresses
from tests.model.evaluate.small_rows import Row, make_queries, make_rows

A, B, C, D, E = "192.0.2.1", "198.51.100.7", "198.51.100.8", "203.0.113.9", "198.51.101.1"
X, Y = "2001:db8::1", "2001:db8:7::9"
TIME = 1_700_000_000


class FakeModel:
    """Always the same answers; notes what it was asked."""

    def __init__(
        self, rtts: dict[float, float] | None = None, p_failed: float = 0.2, found: Any = ()
    ) -> None:
        shares = np.zeros(65536)
        for rtt_ms, share in (rtts or {}).items():
            shares[encode_rtt(rtt_ms)] = share
        self.prediction = RttPrediction(p_failed, shares)
        self.found = [ip_address(address) for address in found]
        self.asked: list[Any] = []

    def predict_rtt_batch(self, queries: Sequence[RttQuery]) -> list[RttPrediction]:
        self.asked += queries
        return [self.prediction] * len(queries)

    def complete_ip_batch(self, queries: Sequence[CompletionQuery]) -> list[list[Completion]]:
        self.asked += queries
        return [[Completion(a, 0.1, ()) for a in self.found[: query.k]] for query in queries]

    def sample_ips_batch(self, queries: Sequence[SampleQuery]) -> list[list[SampledAddress]]:
        self.asked += queries
        return [[SampledAddress(a, -1.0, 0.5) for a in self.found[: q.n]] for q in queries]


def questions(train: Sequence[Row], test: Sequence[Row]) -> tuple[Rows, Rows, Queries]:
    """Train rows, test rows, and the queries of these: the first has all train rows for context."""
    rows, asked = make_rows(train, test)
    return rows, asked, make_queries(asked, [rows])


CONTEXT: list[Row] = [(A, B, TIME, 12.5), (A, C, TIME + 60, None)]


# --- RTTs ---------------------------------------------------------------------------------------------


def test_a_query_reaches_the_model_with_its_context() -> None:
    _, _, queries = questions(CONTEXT, [(A, D, TIME + 120, 30.0), (X, Y, TIME, 5.0)])
    model = FakeModel({10.0: 1.0})
    ModelPredictor("fake", model).predict(queries)  # type: ignore[arg-type]
    first, second = model.asked
    assert (str(first.src), str(first.dst), first.time) == (A, D, TIME + 120)
    assert first.context == (
        Measurement(IPv4Address(A), IPv4Address(B), 12.5, TIME),
        Measurement(IPv4Address(A), IPv4Address(C), None, TIME + 60),
    )
    assert (second.src, second.dst, second.context) == (IPv6Address(X), IPv6Address(Y), ())


def test_a_forecast_is_the_exact_distribution() -> None:
    _, _, queries = questions(CONTEXT, [(A, D, TIME + 120, 30.0)] * (CHUNK + 3))
    told: list[int] = []
    model = FakeModel({10.0: 0.5, 20.0: 0.25, 40.0: 0.25}, p_failed=0.2)
    said = ModelPredictor("fake", model, told.append).predict(queries)  # type: ignore[arg-type]
    assert told == [CHUNK, 3]
    assert said.quantiles_ms is not None
    assert said.p_failed is not None
    assert said.median_ms == pytest.approx([10.0] * (CHUNK + 3))
    assert said.p_failed == pytest.approx([0.2] * (CHUNK + 3))
    assert said.quantiles_ms.shape == (CHUNK + 3, len(LEVELS))
    assert said.quantiles_ms[0, LEVELS <= 0.5] == pytest.approx(10.0)
    assert said.quantiles_ms[0, LEVELS > 0.76] == pytest.approx(40.0)


def test_nats_of_a_result_are_those_of_its_code_or_of_the_failure() -> None:
    test: list[Row] = [(A, D, TIME + 120, ms) for ms in (10.0, 20.0, None, 77.0)]
    _, asked, queries = questions(CONTEXT, test)
    model = FakeModel({10.0: 0.5, 20.0: 0.25, 40.0: 0.25}, p_failed=0.2)
    predictor = ModelPredictor("fake", model)  # type: ignore[arg-type]
    nats, median = predictor.result_nats(queries, asked.rtt_ms)
    shares = [0.8 * 0.5, 0.8 * 0.25, 0.2, LEAST_PROBABILITY]
    assert nats == pytest.approx([-math.log(share) for share in shares])
    assert median == pytest.approx([10.0] * 4)
    assert model.asked[0].time == TIME + 120


def test_a_model_asked_without_time_is_told_none() -> None:
    _, _, queries = questions(CONTEXT, [(A, D, TIME + 120, 10.0)])
    model = FakeModel({10.0: 1.0})
    predictor = ModelPredictor("fake", model, with_time=False)  # type: ignore[arg-type]
    assert predictor.name == "fake_without_time"
    predictor.predict(queries)
    (bare,) = model.asked
    assert bare.time is None
    assert [item.time for item in bare.context] == [None, None]
    assert [item.rtt_ms for item in bare.context] == [12.5, None]


# --- Completions --------------------------------------------------------------------------------------


def without_intervals(scores: TopShares) -> TopShares:
    return msgspec.structs.replace(scores, intervals={})


def test_shares_of_the_best_count_ranks_below() -> None:
    found = top_shares(np.array([0, 3, 4, 5, 9, 10, 10**6]))
    assert without_intervals(found) == TopShares(count=7, top_1=1 / 7, top_5=3 / 7, top_10=5 / 7)
    assert found.intervals["top_5"] == of_share(3, 7)
    assert top_shares(np.zeros(0, np.int64)).top_1 is None


def test_completions_are_ranked_by_family_length_and_context() -> None:
    """Of two IPv4 queries the first has its destination, second best, in the context."""
    _, _, queries = questions(CONTEXT, [(A, C, TIME, 1.0), (A, B, TIME, 1.0), (X, Y, TIME, 1.0)])
    model = FakeModel(found=[D, C, E])
    told: list[int] = []
    completer: Completer = ModelCompleter("fake", model, told.append)  # type: ignore[arg-type]
    report = completion_report(completer, queries, {4: (0, 3), 6: (8,)})
    assert set(report) == {"ipv4", "ipv6"}
    found = report["ipv4"]["3"]
    plain = msgspec.structs.replace(found, not_in_context=without_intervals(found.not_in_context))
    assert without_intervals(plain) == CompletionShares(
        count=2,
        top_1=0.0,
        top_5=0.5,
        top_10=0.5,
        not_in_context=TopShares(count=1, top_1=0.0, top_5=0.0, top_10=0.0),
    )
    assert report["ipv6"]["8"].count == 1
    assert told == [2, 2, 1]
    known = [bytes(query.known) for query in model.asked]
    assert known == [b"", b"", b"\xc6\x33\x64", b"\xc6\x33\x64", IPv6Address(Y).packed[:8]]
    assert [len(query.context) for query in model.asked] == [2, 0, 2, 0, 0]


def test_the_most_frequent_destinations_that_begin_alike_come_first() -> None:
    train: list[Row] = [(A, B, TIME, 1.0), *[(A, C, TIME, 1.0)] * 3, *[(A, E, TIME, 1.0)] * 2]
    train += [(X, Y, TIME, 1.0)] * 9
    rows, _, queries = questions(train, [(A, B, TIME, 1.0), (X, Y, TIME, 1.0)])
    best = MostFrequent(rows)
    assert [str(a) for a in best.complete(queries, 3)[0]] == [C, B]
    assert [str(a) for a in best.complete(queries, 2)[0]] == [C, E, B]
    assert [[str(a) for a in found] for found in best.complete(queries, 0)] == [[C, E, B], [Y]]


def test_as_many_of_each_family_are_chosen() -> None:
    test: list[Row] = [*[(A, B, TIME + at, 1.0) for at in range(20)], (X, Y, TIME, 1.0)]
    _, _, queries = questions(CONTEXT, test)
    chosen = choose_of_each_family(queries, 5, seed=0)
    assert len(chosen) == 6
    assert len(set(chosen.seconds.tolist())) >= 5
    again = choose_of_each_family(queries, 5, seed=0)
    assert chosen.seconds.tolist() == again.seconds.tolist()


def test_prefixes_are_whole_bytes() -> None:
    assert prefix_text(ip_address(B), 3) == "198.51.100.0/24"
    assert prefix_text(ip_address(Y), 0) == "::/0"
    assert prefix_text(ip_address(Y), 14) == "2001:db8:7::/112"


# --- Searches -----------------------------------------------------------------------------------------


class Ruler:
    """True RTTs: the last byte of the destination in ms; 203.0.113.0/24 is not known."""

    def __init__(self, every_pair: bool) -> None:
        self.every_pair = every_pair

    def rtt_ms(self, src: Words, dst: Words, seconds: NDArray[np.int64]) -> NDArray[np.float64]:
        unknown = dst[:, 1] >> np.uint64(8) == int(IPv4Address(D)) >> 8
        return np.where(unknown, np.nan, (dst[:, 1] & np.uint64(255)).astype(float))


def searched(found: list[str], truth: Any) -> SearchScores:
    """Report of a search from A at 8 ms, after a context of B and C, which train has."""
    rows, _, queries = questions(CONTEXT, [(A, E, TIME + 90, 8.0)])
    model = FakeModel(found=found)
    searcher: Searcher = ModelSearcher("fake", model)  # type: ignore[arg-type]
    report = search_report(searcher, queries, np.array([8.0]), 16, truth, rows, seed=3)
    asked = model.asked[0]
    assert (asked.target_rtt_ms, str(asked.src), asked.n, asked.seed) == (8.0, A, 16, 3)
    assert len(asked.context) == 2
    return report


def test_found_destinations_are_compared_with_the_truth() -> None:
    found = [B, C, "198.51.100.9", "198.51.100.10", D, "192.0.2.8"]  # 7, 8, 9, 10, unknown, 8 ms
    report = searched(found, Ruler(every_pair=True))
    assert (report.searches, report.found) == (1, 6)
    assert report.truth_known == pytest.approx(5 / 6)
    assert report.within_20_percent == pytest.approx(4 / 6)
    assert report.distinct == 1
    assert report.distinct_prefixes == pytest.approx(3 / 6)
    assert report.in_train_prefix == pytest.approx(4 / 6)
    assert report.in_train == report.in_context == pytest.approx(2 / 6)
    measured = searched(found, Ruler(every_pair=False))
    assert measured.within_20_percent == pytest.approx(4 / 5)


def test_a_search_that_finds_nothing_has_no_shares() -> None:
    report = searched([], Ruler(every_pair=True))
    assert (report.searches, report.found) == (1, 0)
    assert report.within_20_percent is report.distinct is report.in_train is None


def test_measured_rtts_are_medians_of_train_and_test() -> None:
    train: list[Row] = [(A, B, TIME, 10.0), (A, B, TIME, 30.0), (A, C, TIME, None)]
    rows, asked, _ = questions(train, [(A, B, TIME, 14.0), (A, D, TIME, 5.0)])
    truth = MeasuredRtts(rows, asked)
    dst = pack_addresses([B, C, D, E, A])
    found = truth.rtt_ms(np.repeat(pack_addresses([A]), 5, axis=0), dst, np.zeros(5, np.int64))
    np.testing.assert_array_equal(found, [14.0, np.nan, 5.0, np.nan, np.nan])
    stranger = truth.rtt_ms(pack_addresses([E]), pack_addresses([B]), np.zeros(1, np.int64))
    assert np.isnan(stranger).all()
    assert WorldRtts.every_pair > truth.every_pair


def test_chance_draws_destinations_of_the_sources_family_as_often_as_train_has_them() -> None:
    train: list[Row] = [*[(A, B, TIME, 1.0)] * 9, (A, C, TIME, 1.0)]
    rows, _, queries = questions(train, [(A, C, TIME, 1.0), (X, Y, TIME, 1.0)])
    ipv4, ipv6 = ByChance(rows).search(queries, np.ones(2), 200, seed=0)
    share = (ipv4 == pack_addresses([B])).all(axis=1).mean()
    assert 0.8 < share < 0.98
    assert len(ipv4) == 200
    assert len(ipv6) == 0  # train has no IPv6


def test_searches_are_for_rtts_that_were_answered() -> None:
    test: list[Row] = [(A, B, TIME + at, None if at % 2 else at + 1.0) for at in range(20)]
    _, asked, queries = questions(CONTEXT, test)
    chosen, targets_ms = choose_searches(queries, asked.rtt_ms, 6, seed=1)
    assert len(chosen) == 6
    assert (chosen.seconds - TIME + 1).tolist() == targets_ms.tolist()
    assert len(choose_searches(queries, asked.rtt_ms, 50, seed=1)[1]) == 10
