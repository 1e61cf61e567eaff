"""Coordinates on networks that really are a plane with heights, or of low rank; neighbours that are twins."""

from __future__ import annotations

import numpy as np
import pytest

from model.evaluate.predictors.coordinates import Dmfsgd, Neighbours, Pairs, Vivaldi, pair_medians
from model.evaluate.predictors.vantage_points import NearestVantagePoints
from model.evaluate.questions import Queries
from tests.model.evaluate.small_rows import Constant, make_queries, make_rows

SOURCES, TARGETS, CONTEXT = 40, 60, 24
NODES = SOURCES + TARGETS
NEW = 5  # the last sources, which are not in train


def split_pairs(rtt_ms: np.ndarray, seed: int = 0) -> tuple[Pairs, Queries, np.ndarray]:
    """Half the pairs of all but the new sources to fit; queries of the rest, with what they should say.

    `rtt_ms` is (sources, targets). A new source has a context of some of its other targets.
    """
    rng = np.random.default_rng(seed)
    fitted = rng.random(rtt_ms.shape) < 0.5
    fitted[-NEW:] = False
    src, dst = np.nonzero(fitted)
    pairs = Pairs(src.astype(np.int32), (SOURCES + dst).astype(np.int32), rtt_ms[fitted])
    src, dst = np.nonzero(~fitted)
    context = np.full((len(src), CONTEXT), -1, np.int32)
    for row in np.flatnonzero(src >= SOURCES - NEW):
        others = np.setdiff1d(np.arange(TARGETS), dst[row])
        context[row] = SOURCES + rng.choice(others, CONTEXT, replace=False)
    seen = np.where(context >= 0, rtt_ms[src[:, None], context - SOURCES], np.nan)
    queries = Queries(
        np.zeros((NODES, 2), np.uint64),
        src.astype(np.int32),
        (SOURCES + dst).astype(np.int32),
        np.zeros(len(src), np.int64),
        context,
        np.zeros(context.shape, np.int64),
        seen,
    )
    return pairs, queries, rtt_ms[~fitted]


def relative_errors(predicted: np.ndarray, queries: Queries, rtt_ms: np.ndarray) -> tuple:
    """Median for unmeasured pairs of known sources, and for the new ones."""
    error, new = np.abs(predicted - rtt_ms) / rtt_ms, queries.src >= SOURCES - NEW
    return np.median(error[~new]), np.median(error[new])


def plane() -> np.ndarray:
    """RTTs (sources, targets) of points in a square of 100 ms with heights up to 20 ms."""
    rng = np.random.default_rng(1)
    at, height = rng.uniform(0, 100, (NODES, 2)), rng.uniform(1, 20, NODES)
    apart = np.linalg.norm(at[:SOURCES, None] - at[None, SOURCES:], axis=2)
    return apart + height[:SOURCES, None] + height[SOURCES:]


def low_rank() -> np.ndarray:
    """A positive matrix of rank 3 with entries around 100 ms."""
    rng = np.random.default_rng(2)
    return 100 * rng.uniform(0.1, 1, (SOURCES, 3)) @ rng.uniform(0.1, 1, (3, TARGETS))


def test_vivaldi_recovers_a_plane_with_heights() -> None:
    pairs, queries, rtt_ms = split_pairs(plane())
    vivaldi = Vivaldi(pairs, NODES, Constant(1e9), dimensions=2)
    known, new = relative_errors(vivaldi.predict(queries).median_ms, queries, rtt_ms)
    assert known < 0.02
    assert new < 0.03


def test_dmfsgd_recovers_a_matrix_of_low_rank() -> None:
    pairs, queries, rtt_ms = split_pairs(low_rank())
    dmfsgd = Dmfsgd(pairs, NODES, Constant(1e9), rank=3)
    known, new = relative_errors(dmfsgd.predict(queries).median_ms, queries, rtt_ms)
    assert known < 0.02
    assert new < 0.04


def test_nearest_vantage_points_find_the_twin() -> None:
    rtt_ms = np.random.default_rng(3).uniform(5, 300, (SOURCES // 4, TARGETS))
    pairs, queries, truth = split_pairs(np.tile(rtt_ms, (4, 1)))
    nearest = NearestVantagePoints(pairs, NODES, Constant(1e9))
    known, new = relative_errors(nearest.predict(queries).median_ms, queries, truth)
    assert known < 0.05
    assert new < 0.05


@pytest.mark.parametrize("make", [Vivaldi, Dmfsgd, NearestVantagePoints])
def test_what_nothing_is_known_about_is_left_to_the_fallback(make: type) -> None:
    a, x = "192.0.2.1", "198.51.100.1"
    train, rest = make_rows(
        [(a, x, 1, 10.0), (a, x, 1, 12.0)],
        [(a, "198.51.100.2", 5, 1.0), ("192.0.2.9", x, 5, 1.0), ("192.0.2.9", x, 6, 1.0)],
    )
    failed = rest.take([2])
    failed.rtt_ms[:] = np.nan  # a context without an answer places nobody
    asked = make_queries(rest, [failed, failed, failed])
    predictor = make(pair_medians(train), len(train.addresses), Constant(77.0))
    assert predictor.predict(asked).median_ms.tolist() == [77.0, 77.0, 77.0]


def test_pair_medians_are_numpy_medians() -> None:
    rng = np.random.default_rng(0)
    rows, _ = make_rows(
        [
            (f"192.0.2.{rng.integers(3)}", "198.51.100.1", 1, None if rng.random() < 0.2 else at)
            for at in rng.permutation(np.arange(1.0, 60.0))
        ]
    )
    pairs = pair_medians(rows)
    for src, dst, median in zip(pairs.src, pairs.dst, pairs.rtt_ms, strict=True):
        mine = (rows.src == src) & (rows.dst == dst) & ~rows.failed
        assert median == np.median(rows.rtt_ms[mine])
    assert np.isnan(pairs.find(pairs.dst[:1], pairs.src[:1]))[0]
    np.testing.assert_array_equal(pairs.find(pairs.src, pairs.dst), pairs.rtt_ms)


def test_neighbours_meet_only_their_own_and_all_of_them() -> None:
    graph = Neighbours(
        np.array([2, 0, 2]), np.array([5, 6, 7], np.int32), np.array([50.0, 60.0, 40.0])
    )
    assert graph.nodes.tolist() == [0, 2]
    assert graph.nearest().tolist() == [6, 7]
    rng = np.random.default_rng(0)
    met = {tuple(zip(*map(list, graph.meet(rng)), strict=True)) for _ in range(20)}
    assert met == {((6, 60.0), (5, 50.0)), ((6, 60.0), (7, 40.0))}


def test_the_same_seed_gives_the_same_fit() -> None:
    pairs, queries, _ = split_pairs(plane())
    for make in (Vivaldi, Dmfsgd):
        said = [
            make(pairs, NODES, Constant(1.0), rounds=50, seed=seed).predict(queries).median_ms
            for seed in (0, 0, 1)
        ]
        np.testing.assert_array_equal(said[0], said[1])
        assert not np.array_equal(said[0], said[2])
