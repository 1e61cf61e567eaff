"""How often a model's completions of a test destination contain the right one, by how many bytes are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_network
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from model.evaluate.intervals import of_share
from model.evaluate.predictors.trained import Addresses, context_of
from model.evaluate.questions import Queries
from model.evaluate.records import CompletionShares, TopShares
from model.inference.ping_model import PingModel
from model.inference.query import CompletionQuery
from stores.codec import Address
from stores.rows import Rows, Words, is_ipv4

BEST = 10  # completions asked for
ABSENT = 10**6  # rank of a destination that is not among the best


class Completer(Protocol):
    """Anything that completes destinations."""

    name: str

    def complete(self, queries: Queries, known: int) -> list[list[Address]]:
        """For each query, all of one family, the best guesses at its destination, of which the first
        `known` bytes are given; at most 10, best first."""
        ...


class ModelCompleter:
    """A trained model that continues the query's context: which destination does this source ping next?"""

    def __init__(
        self, name: str, model: PingModel, answered: Callable[[int], None] = lambda count: None
    ) -> None:
        self.name = name
        self.model = model
        self.answered = answered

    def complete(self, queries: Queries, known: int) -> list[list[Address]]:
        addresses = Addresses(queries)
        asked = [
            CompletionQuery(
                prefix_text(addresses[queries.dst[at]], known),
                BEST,
                context_of(queries, at, addresses),
                allow_private=True,
            )
            for at in range(len(queries))
        ]
        found = self.model.complete_ip_batch(asked)
        self.answered(len(asked))
        return [[completion.address for completion in best] for best in found]


class MostFrequent:
    """Destinations of the training split with the same first bytes, those with the most rows first."""

    name = "most_frequent"

    def __init__(self, train: Rows) -> None:
        numbers, rows = np.unique(train.dst, return_counts=True)
        self.numbers = numbers[np.argsort(-rows, kind="stable")]
        self.bytes = address_bytes(train.addresses[self.numbers])
        self.ipv4 = is_ipv4(train.addresses[self.numbers])

    def complete(self, queries: Queries, known: int) -> list[list[Address]]:
        addresses = Addresses(queries)
        told = address_bytes(queries.addresses[queries.dst])
        result = []
        for right, ipv4 in zip(told, is_ipv4(queries.addresses[queries.dst]), strict=True):
            length = 12 + known if ipv4 else known
            alike = (self.ipv4 == ipv4) & (self.bytes[:, :length] == right[:length]).all(axis=1)
            best = np.flatnonzero(alike)[:BEST]
            result.append([addresses[number] for number in self.numbers[best]])
        return result


def completion_report(
    completer: Completer, queries: Queries, known: Mapping[int, Sequence[int]]
) -> dict[str, dict[str, CompletionShares]]:
    """How often the destinations of `queries` are found, by family (`ipv4`, `ipv6`) and known bytes.

    `known` has the numbers of known bytes to ask with, by address family (4, 6).
    """
    ipv4 = is_ipv4(queries.addresses)[queries.dst]
    report: dict[str, dict[str, CompletionShares]] = {}
    for family, chosen in ((4, ipv4), (6, ~ipv4)):
        asked = queries.take(chosen)
        lengths = known[family] if len(asked) else ()
        for length in lengths:
            ranks = _ranks(completer.complete(asked, length), asked)
            report.setdefault(f"ipv{family}", {})[str(length)] = CompletionShares(
                **msgspec.structs.asdict(top_shares(ranks)),
                not_in_context=top_shares(ranks[~asked.context_has_pair]),
            )
    return report


def choose_of_each_family(queries: Queries, count: int, seed: int) -> Queries:
    """At most `count` queries of each address family, drawn uniformly, in their order."""
    ipv4 = is_ipv4(queries.addresses)[queries.dst]
    random = np.random.default_rng((seed, 1))
    chosen = []
    for family in (ipv4, ~ipv4):
        members = np.flatnonzero(family)
        chosen.append(random.choice(members, min(count, len(members)), replace=False))
    return queries.take(np.sort(np.concatenate(chosen)))


def top_shares(ranks: NDArray[np.int64]) -> TopShares:
    """Shares of ranks (n,), counted from 0, among the best 1, 5 and 10."""
    shares = {f"top_{best}": _share_below(ranks, best) for best in (1, 5, 10)}
    return TopShares(
        count=len(ranks),
        **shares,
        intervals={
            name: of_share(share * len(ranks), len(ranks))
            for name, share in shares.items()
            if share is not None
        },
    )


def _share_below(ranks: NDArray[np.int64], top: int) -> float | None:
    return float((ranks < top).mean()) if len(ranks) else None


def prefix_text(address: Address, known: int) -> str:
    """The first `known` bytes of an address, as a CIDR."""
    return str(ip_network((address, known * 8), strict=False))


def address_bytes(words: Words) -> NDArray[np.uint8]:
    """(n, 16) of packed addresses (n, 2); the four of IPv4 are the last."""
    return words.astype(">u8").view(np.uint8).reshape(len(words), 16)


def _ranks(found: list[list[Address]], queries: Queries) -> NDArray[np.int64]:
    """(n,) place of each query's destination among its completions, or `ABSENT`."""
    addresses = Addresses(queries)
    right = [addresses[number] for number in queries.dst]
    places = [
        best.index(answer) if answer in best else ABSENT
        for best, answer in zip(found, right, strict=True)
    ]
    return np.array(places, np.int64)
