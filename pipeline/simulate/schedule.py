"""Who measures what and when in the simulated Internet.

Every source address measures one target per period, in rotation over its own list; some rows are
one-offs instead. The lists are drawn such that all rows together have the RTT quantiles of the corpus
that the simulated Internet imitates: near targets occur more often than far ones (`_fit`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pipeline.simulate.world import Hosts, build_world, by_quota, place_probes, place_targets
from stores.truth import MAX_P_FAILED_OF_LIVE, P_FAILED_OF_DEAD, Paths, World

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

RTT_QUANTILES = {10: 12.5, 25: 25.8, 50: 50.3, 75: 120.7, 90: 239.0, 99: 343.0}
"""Percentiles of answered RTTs in ms of the corpus that the simulated Internet imitates."""
FAILED_SHARE = (0.023, 0.051)  # of IPv4 and IPv6 rows; 3.5 % of all
DEAD_TARGETS = (0.009, 0.022)  # share of IPv4 and of IPv6 targets that hardly ever answer

PERIODS = {60: 0.62, 120: 0.14, 180: 0.17, 240: 0.02, 300: 0.025, 600: 0.025}
"""Seconds between a source's measurements: share of all rows."""
TARGETS_PER_SOURCE = 64  # as many as fill a window with IPv4
CANDIDATES = 256  # targets that a source's list is drawn from, at most
ONE_OFF_SHARE = 0.08  # of rows
LATE_SHARE = 0.125  # of pairs: measured only in the last tenth of the time
EVENING_ON_AVERAGE = 0.25  # mean over a day of the evening's share of its jitter


@dataclass(frozen=True, eq=False)
class Schedule:
    """What each of S sources measures, as indices of targets, K on a list."""

    sources: Hosts
    targets: Hosts
    period: Ints  # (S,) seconds
    phase: Ints  # (S,) seconds, below the period
    rotation: Ints  # (S, K) targets measured in turn
    one_offs: Ints  # (S, K) targets measured occasionally
    early_rotation: Ints  # (S, K) the same before the last tenth of the time
    early_one_offs: Ints  # (S, K)

    def span(self, rows: int) -> float:
        """Seconds that all sources together need for that many rows."""
        return float(rows / (1 / self.period).sum())


@lru_cache(maxsize=2)
def build_internet(seed: int, networks: int, probes: int, targets: int) -> tuple[World, Schedule]:
    """World and schedule, a pure function of the arguments. About 0.5 s for the default size."""
    world = build_world(seed, networks)
    sources = place_probes(world, seed, probes)
    goals = place_targets(world, seed, targets)
    rng = np.random.default_rng([seed, 3])
    period = _periods(rng, sources.ipv6)
    candidates = _candidates(rng, sources, goals)
    everyone = np.arange(len(candidates))
    paths = pair_paths(world, sources, goals, everyone, candidates)
    typical_ms = paths.noise_free_ms + paths.quiet_jitter_ms
    typical_ms += EVENING_ON_AVERAGE * paths.evening_jitter_ms

    weight = _fit(typical_ms.reshape(candidates.shape), 1 / period, _list_length(goals))
    late = rng.random(candidates.shape) < LATE_SHARE
    lists = {}
    for name in ("rotation", "one_offs"):
        picks = _draw(rng, typical_ms.reshape(candidates.shape), weight, _list_length(goals))
        early = _without_late(rng, picks, np.take_along_axis(late, picks, axis=1))
        lists[name] = np.take_along_axis(candidates, picks, axis=1)
        lists[f"early_{name}"] = np.take_along_axis(candidates, early, axis=1)
    schedule = Schedule(sources, goals, period, phase=rng.integers(0, period), **lists)
    return _with_failures(rng, world, schedule), schedule


def pair_paths(world: World, sources: Hosts, targets: Hosts, rows: Ints, columns: Ints) -> Paths:
    """Paths from sources `rows` (n,) to their targets `columns` (n, m), flat: (n · m,)."""
    src = np.repeat(sources.packed[rows], columns.shape[1], axis=0)
    return world.paths(src, targets.packed[columns.ravel()])


def _periods(rng: np.random.Generator, ipv6: NDArray[np.bool_]) -> Ints:
    """(S,) periods, in the same proportions for both families."""
    period = np.empty(len(ipv6), np.int64)
    of_sources = [
        share * seconds for seconds, share in PERIODS.items()
    ]  # slow ones: fewer rows each
    for family in (ipv6, ~ipv6):
        chosen = by_quota(of_sources, int(family.sum()))
        period[family] = rng.permutation(np.array(list(PERIODS))[chosen])
    return period


def _candidates(rng: np.random.Generator, sources: Hosts, targets: Hosts) -> Ints:
    """(S, C) distinct targets of the source's family, in no order."""
    by_family = [np.flatnonzero(targets.ipv6 == family) for family in (False, True)]
    count = min(CANDIDATES, *map(len, by_family))
    rows = [rng.permutation(by_family[int(family)])[:count] for family in sources.ipv6]
    return np.array(rows)


def _list_length(targets: Hosts) -> int:
    """K: half the IPv6 targets of a small world, so that there is something to choose from."""
    return min(TARGETS_PER_SOURCE, int(targets.ipv6.sum()) // 2)


def _fit(typical_ms: Floats, rate: Floats, length: int) -> Floats:
    """(S, C) expected occurrences of each candidate on its source's list of `length`.

    Iterative proportional fitting (Deming and Stephan 1940): rows must sum to `length`, and the
    rows measured per second between two of `RTT_QUANTILES` to what lies between them.
    """
    band = np.searchsorted(list(RTT_QUANTILES.values()), typical_ms)
    wanted = np.diff([0, *RTT_QUANTILES, 100]) / 100 * rate.sum() * length
    weight = np.full(typical_ms.shape, length / typical_ms.shape[1])
    for _ in range(60):
        found = np.bincount(band.ravel(), (rate[:, None] * weight).ravel(), len(wanted))
        weight = np.minimum(weight * (wanted / np.maximum(found, 1e-9))[band], 1)
        weight *= length / weight.sum(axis=1, keepdims=True)
    return weight


def _draw(rng: np.random.Generator, typical_ms: Floats, weight: Floats, length: int) -> Ints:
    """(S, K) candidates, each as often as its weight says, in random order.

    Systematic sampling along the RTT: a list is as near or far as its expectation, without luck.
    """
    order = np.argsort(typical_ms, axis=1, kind="stable")
    total = np.cumsum(np.take_along_axis(weight, order, axis=1), axis=1)
    total[:, -1] = length
    steps = np.floor(total - rng.random((len(total), 1)))
    times = np.diff(steps, axis=1, prepend=-1).astype(np.int64)
    picks = np.repeat(order.ravel(), times.ravel()).reshape(-1, length)
    return rng.permuted(picks, axis=1)


def _without_late(rng: np.random.Generator, picks: Ints, late: NDArray[np.bool_]) -> Ints:
    """(S, K) `picks` with every late one replaced by another that is not."""
    early_first = np.argsort(late, axis=1, kind="stable")
    early_count = np.maximum((~late).sum(axis=1, keepdims=True), 1)
    other = np.take_along_axis(early_first, rng.integers(0, early_count, picks.shape), axis=1)
    return np.where(late, np.take_along_axis(picks, other, axis=1), picks)


def _with_failures(rng: np.random.Generator, world: World, schedule: Schedule) -> World:
    """The world with dead targets, and with failure rates that make `FAILED_SHARE` of rows fail."""
    targets, columns = schedule.targets, np.hstack([schedule.rotation, schedule.one_offs])
    length = schedule.rotation.shape[1]
    share = (
        np.repeat([1 - ONE_OFF_SHARE, ONE_OFF_SHARE], length) / length / schedule.period[:, None]
    )
    tiny = 1e-9
    paths = pair_paths(
        replace(world, failure_rate=np.full(2, tiny)),
        schedule.sources,
        targets,
        np.arange(len(columns)),
        columns,
    )
    relative = (paths.p_failed / tiny).reshape(columns.shape)  # to the rate of its family
    rates, dead = np.zeros(2), []
    for ipv6, wanted in enumerate(FAILED_SHARE):
        rows = schedule.sources.ipv6 == ipv6
        portion = share[rows] / share[rows].sum()
        portion_of = np.bincount(columns[rows].ravel(), portion.ravel(), len(targets.text))
        mortal = rng.permutation(np.flatnonzero((targets.ipv6 == ipv6) & ~targets.anycast))
        count = round(DEAD_TARGETS[ipv6] * np.sum(targets.ipv6 == ipv6))
        fits = np.cumsum(portion_of[mortal]) < wanted / 2  # the other half fails on live targets
        dead.append(mortal[:count][fits[:count]])
        live = ~np.isin(columns[rows], dead[-1])
        missing = wanted - P_FAILED_OF_DEAD * portion[~live].sum()
        rates[ipv6] = _rate(relative[rows][live], portion[live], missing)
    return replace(world, failure_rate=rates, dead_address=targets.packed[np.concatenate(dead)])


def _rate(relative: Floats, portion: Floats, wanted: float) -> float:
    """Rate at which min(rate · relative, its cap), weighted by `portion`, sums to `wanted`."""
    rate = wanted
    for _ in range(30):
        rate *= wanted / (np.minimum(rate * relative, MAX_P_FAILED_OF_LIVE) * portion).sum()
    return float(rate)
