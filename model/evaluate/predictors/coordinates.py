"""Network coordinates: nodes are placed by the pairs that were measured, and places give the other RTTs.

Vivaldi (Dabek, Cox, Kaashoek, Morris: SIGCOMM 2004) puts nodes into a Euclidean space with heights; DMFSGD
(Liao, Du, Geurts, Leduc: IEEE/ACM ToN 2013) factors the matrix of RTTs. Both are decentralized: a node
meets one neighbour at a time and moves. Here this happens in rounds: in each, all nodes at once meet one
random neighbour each; the gain falls to zero over the rounds, so that the places settle.

Both learn from the median RTT of each pair of train. A source that train does not have joins by the same
moves, with its context as neighbours, while all others stay in place. If the destination is unknown, or
the context has no known destination, they answer what `fallback` answers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.evaluate.questions import Floats, Forecast, Mask, Predictor, Queries
from stores.rows import Rows, pair_key

Nodes = NDArray[np.int32]

ROUNDS = 3000
JOIN_ROUNDS = 500


@dataclass(frozen=True)
class Pairs:
    """Pairs that ever answered, each array (pairs,), sorted by source and destination."""

    src: Nodes
    dst: Nodes
    rtt_ms: Floats
    """Median of the answered rows."""

    def find(self, src: Nodes, dst: Nodes) -> Floats:
        """(n,) medians of these pairs; NaN: never answered."""
        keys, wanted = pair_key(self.src, self.dst), pair_key(src, dst)
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.where(keys[at] == wanted, self.rtt_ms[at], np.nan)


def pair_medians(rows: Rows) -> Pairs:
    """The pairs of `rows` that ever answered, with their median RTT."""
    rows = rows.take(~rows.failed)
    order = np.lexsort((rows.rtt_ms, rows.pair))
    _, starts, counts = np.unique(rows.pair[order], return_index=True, return_counts=True)
    rtt_ms, first = rows.rtt_ms[order], order[starts]
    middle = (rtt_ms[starts + (counts - 1) // 2] + rtt_ms[starts + counts // 2]) / 2
    return Pairs(rows.src[first], rows.dst[first], middle)


class Neighbours:
    """The neighbours of each node that has any, and the RTTs to them."""

    def __init__(self, node: NDArray[np.integer], neighbour: Nodes, rtt_ms: Floats) -> None:
        """One entry for each (node, neighbour), all (n,)."""
        order = np.argsort(node, kind="stable")
        self.nodes, self._starts, self._counts = np.unique(
            node[order], return_index=True, return_counts=True
        )
        self._neighbour, self._rtt_ms = neighbour[order], rtt_ms[order]

    @classmethod
    def in_context(cls, queries: Queries, known: Mask) -> Neighbours:
        """Of each query: the answered destinations in its context that are `known` (addresses,)."""
        usable = (queries.context_dst >= 0) & ~np.isnan(queries.context_rtt_ms)
        usable &= known[queries.context_dst]
        query, _ = np.nonzero(usable)
        return cls(query, queries.context_dst[usable], queries.context_rtt_ms[usable])

    def meet(self, rng: np.random.Generator) -> tuple[Nodes, Floats]:
        """For each of `nodes` a random neighbour, and the RTT to it."""
        at = self._starts + rng.integers(self._counts)
        return self._neighbour[at], self._rtt_ms[at]

    def nearest(self) -> Nodes:
        """For each of `nodes` the neighbour of the least RTT."""
        group = np.repeat(np.arange(len(self.nodes)), self._counts)
        return self._neighbour[np.lexsort((self._rtt_ms, group))[self._starts]]


class Embedding(ABC):
    """What Vivaldi and DMFSGD share: which nodes they know, and how new sources join."""

    name: str
    uses_context = True

    def __init__(self, pairs: Pairs, addresses: int, fallback: Predictor, seed: int) -> None:
        self.fallback = fallback
        self.rng = np.random.default_rng(seed)
        self.known_src = np.bincount(pairs.src, minlength=addresses) > 0
        self.known_dst = np.bincount(pairs.dst, minlength=addresses) > 0

    def predict(self, queries: Queries) -> Forecast:
        """Medians only: no distribution, and no failure probability."""
        rtt_ms = np.full(len(queries), np.nan)
        known = np.flatnonzero(self.known_src[queries.src] & self.known_dst[queries.dst])
        rtt_ms[known] = self.between(queries.src[known], queries.dst[known])
        new = np.flatnonzero(~self.known_src[queries.src] & self.known_dst[queries.dst])
        context = Neighbours.in_context(queries.take(new), self.known_dst)
        new = new[context.nodes]
        rtt_ms[new] = self.joining(context, queries.dst[new])
        fell_back = np.isnan(rtt_ms)
        missing = np.flatnonzero(fell_back)
        rtt_ms[missing] = self.fallback.predict(queries.take(missing)).median_ms
        return Forecast(rtt_ms, fell_back=fell_back)

    @abstractmethod
    def between(self, src: Nodes, dst: Nodes) -> Floats:
        """(n,) RTTs in ms of known sources to known destinations."""

    @abstractmethod
    def joining(self, context: Neighbours, dst: Nodes) -> Floats:
        """(n,) RTTs in ms of new nodes, known by their neighbours alone, to known destinations."""


# --- Vivaldi ----------------------------------------------------------------------------------------

GAIN = ERROR_GAIN = 0.25  # the paper's
MIN_HEIGHT_MS = 0.01
MIN_ERROR = 1e-3
DIMENSIONS = 8  # as in HashiCorp Serf; with two, errors are a fifth larger


class Coordinates(NamedTuple):
    """Vivaldi's state of n nodes."""

    position: Floats  # (n, dimensions) ms
    height: Floats  # (n,) ms: the access link, walked up and down by every path
    error: Floats  # (n,) relative error that the node expects of itself

    def take(self, nodes: NDArray[np.integer]) -> Coordinates:
        return Coordinates(*(values[nodes] for values in self))

    def put(self, nodes: NDArray[np.integer], values: Coordinates) -> None:
        for mine, new in zip(self, values, strict=True):
            mine[nodes] = new

    def rtt_ms(self, other: Coordinates) -> Floats:
        """(n,) distance to the others, node by node."""
        apart = np.sqrt(((self.position - other.position) ** 2).sum(1))
        rtt_ms: Floats = apart + self.height + other.height
        return rtt_ms

    def moved(self, other: Coordinates, rtt_ms: Floats, gain: float) -> Coordinates:
        """After a measurement of each node to its `other`: the algorithm of the paper's figure 3, with
        the height vectors of its section 5.4."""
        distance = self.rtt_ms(other)
        weight = self.error / (self.error + other.error)
        pull = gain * weight * (rtt_ms - distance) / distance
        off, mix = np.abs(rtt_ms - distance) / rtt_ms, ERROR_GAIN * weight
        return Coordinates(
            self.position + pull[:, None] * (self.position - other.position),
            np.maximum(self.height + pull * (self.height + other.height), MIN_HEIGHT_MS),
            np.clip(off * mix + self.error * (1 - mix), MIN_ERROR, 1),
        )


class Vivaldi(Embedding):
    """Vivaldi with heights, which stand for access links: RTT = distance of two positions + both heights."""

    name = "vivaldi"

    def __init__(
        self,
        pairs: Pairs,
        addresses: int,
        fallback: Predictor,
        *,
        dimensions: int = DIMENSIONS,
        rounds: int = ROUNDS,
        seed: int = 0,
    ) -> None:
        """Place the nodes of all pairs; `addresses` is how many there are. About 1 s for 1000 nodes."""
        super().__init__(pairs, addresses, fallback, seed)
        ends = np.append(pairs.src, pairs.dst), np.append(pairs.dst, pairs.src)
        graph = Neighbours(*ends, np.tile(pairs.rtt_ms, 2))
        self.nodes = self._scatter(np.zeros((addresses, dimensions)))
        for turn in range(rounds):
            other, rtt_ms = graph.meet(self.rng)
            here, there = self.nodes.take(graph.nodes), self.nodes.take(other)
            self.nodes.put(graph.nodes, here.moved(there, rtt_ms, GAIN * (1 - turn / rounds)))

    def between(self, src: Nodes, dst: Nodes) -> Floats:
        return self.nodes.take(src).rtt_ms(self.nodes.take(dst))

    def joining(self, context: Neighbours, dst: Nodes) -> Floats:
        here = self._scatter(self.nodes.position[context.nearest()])
        for turn in range(JOIN_ROUNDS):
            other, rtt_ms = context.meet(self.rng)
            here = here.moved(self.nodes.take(other), rtt_ms, GAIN * (1 - turn / JOIN_ROUNDS))
        return here.rtt_ms(self.nodes.take(dst))

    def _scatter(self, position: Floats) -> Coordinates:
        """New nodes within about a millisecond of these positions."""
        near = position + self.rng.normal(0, 1, position.shape)
        return Coordinates(near, np.full(len(near), MIN_HEIGHT_MS), np.ones(len(near)))


# --- DMFSGD -----------------------------------------------------------------------------------------

RANK = 20
LEARNING_RATE = 0.1
REGULARIZATION = 0.05


class Dmfsgd(Embedding):
    """Decentralized matrix factorization by stochastic gradient descent, with L1 loss and non-negative
    factors: RTT = u of the source · v of the destination."""

    name = "dmfsgd"

    def __init__(
        self,
        pairs: Pairs,
        addresses: int,
        fallback: Predictor,
        *,
        rank: int = RANK,
        rounds: int = ROUNDS,
        seed: int = 0,
    ) -> None:
        """Factor the matrix of all pairs; `addresses` is how many there are. About 1 s for 1000 nodes."""
        super().__init__(pairs, addresses, fallback, seed)
        self.unit_ms = float(np.median(pairs.rtt_ms))  # so that the gains fit any network
        self.u, self.v = self._scatter(addresses, rank), self._scatter(addresses, rank)
        sources = Neighbours(pairs.src, pairs.dst, pairs.rtt_ms)
        targets = Neighbours(pairs.dst, pairs.src, pairs.rtt_ms)
        for turn in range(rounds):
            for graph, mine, theirs in ((sources, self.u, self.v), (targets, self.v, self.u)):
                other, rtt_ms = graph.meet(self.rng)
                here = mine[graph.nodes]
                mine[graph.nodes] = self._moved(here, theirs[other], rtt_ms, 1 - turn / rounds)

    def between(self, src: Nodes, dst: Nodes) -> Floats:
        rtt_ms: Floats = (self.u[src] * self.v[dst]).sum(1) * self.unit_ms
        return rtt_ms

    def joining(self, context: Neighbours, dst: Nodes) -> Floats:
        here = self._scatter(len(dst), self.u.shape[1])
        for turn in range(JOIN_ROUNDS):
            other, rtt_ms = context.meet(self.rng)
            here = self._moved(here, self.v[other], rtt_ms, 1 - turn / JOIN_ROUNDS)
        joined_ms: Floats = (here * self.v[dst]).sum(1) * self.unit_ms
        return joined_ms

    def _scatter(self, count: int, rank: int) -> Floats:
        """(count, rank) factors whose products are about the unit."""
        return self.rng.uniform(0, 2 / np.sqrt(rank), (count, rank))

    def _moved(self, here: Floats, there: Floats, rtt_ms: Floats, pace: float) -> Floats:
        """After a measurement of each node: one subgradient step of |error| + regularization."""
        side = np.sign(rtt_ms / self.unit_ms - (here * there).sum(1))
        step = LEARNING_RATE * pace
        moved = (1 - step * REGULARIZATION) * here + step * side[:, None] * there
        positive: Floats = np.maximum(moved, 0)
        return positive
