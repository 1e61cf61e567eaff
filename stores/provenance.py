"""What a model knows of the data that it was trained on: simulated or real, how much, and of which networks.

A model answers for any pair of addresses. Whether the answer means anything depends on what it was trained on, so
a `Provenance` goes wherever its weights go. The tables of a model do not tell which prefixes it has met: they are
hashed, and a prefix that training never had shares a row with one that it had. So the prefixes are listed.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stores.manifest import Manifest
from stores.progress import Progress
from stores.rows import Words, is_ipv4, number_words, row_blocks
from stores.union import Store

MOST_IPV6 = 1 << 15
"""Prefixes of IPv6 that are listed: those of the Internet of 2025 fit, and a list stays below 200 KB."""
PREFIX_BITS = {4: 16, 6: 32}

Address = IPv4Address | IPv6Address


@dataclass(frozen=True)
class Prefixes:
    """The prefixes that the addresses of one field have. Raises `ValueError` for text that is not such a list."""

    ipv4_16: str
    """Base64 of the /16s of IPv4, ascending, as big-endian 16-bit numbers."""
    ipv6_32: str | None
    """Base64 of the /32s of IPv6, ascending, as big-endian 32-bit numbers; `None`: more than `MOST_IPV6`."""

    def __post_init__(self) -> None:
        for text, size in ((self.ipv4_16, 2), (self.ipv6_32 or "", 4)):
            try:
                packed = base64.b64decode(text, validate=True)
            except binascii.Error as error:
                raise ValueError(f"a list of prefixes is not base64 ({error})") from None
            if len(packed) % size:
                raise ValueError(f"a list of prefixes has {len(packed)} bytes, not {size} for each")

    def __or__(self, other: Prefixes) -> Prefixes:
        """These and the others."""
        ipv4 = np.union1d(_numbers(self.ipv4_16, ">u2"), _numbers(other.ipv4_16, ">u2"))
        if self.ipv6_32 is None or other.ipv6_32 is None:
            return Prefixes(_base64(ipv4, ">u2"), None)
        ipv6 = np.union1d(_numbers(self.ipv6_32, ">u4"), _numbers(other.ipv6_32, ">u4"))
        return _listed(ipv4, ipv6)

    def unmet(self, address: Address) -> str | None:
        """The prefix of an address, as in "192.0.0.0/16", if it is not among these; `None` if it is, or if
        nobody knows."""
        bits = PREFIX_BITS[address.version]
        known = self._known[address.version]
        if known is None or int.from_bytes(address.packed[: bits // 8]) in known:
            return None
        return str(ip_network((address, bits), strict=False))

    @cached_property
    def _known(self) -> dict[int, frozenset[int] | None]:
        """By family, the prefixes as numbers."""
        lists = {4: (self.ipv4_16, ">u2"), 6: (self.ipv6_32, ">u4")}
        return {
            family: None if text is None else frozenset(_numbers(text, dtype).tolist())
            for family, (text, dtype) in lists.items()
        }


@dataclass(frozen=True)
class Provenance:
    """The train split of a store, of several taken together, or of all that a model was trained on in turn."""

    data: Literal["simulated", "real", "mixed"]
    store_digest: str
    """Of what came last."""
    rows: int
    sources: int
    """Distinct ones; those of several stores in turn are added up."""
    destinations: int
    first_second: int | None
    """Unix time of the earliest row; `None` without any."""
    last_second: int | None
    source_prefixes: Prefixes
    destination_prefixes: Prefixes

    def prefixes(self, field: Literal["src", "dst"]) -> Prefixes:
        """Those of sources or of destinations."""
        return self.source_prefixes if field == "src" else self.destination_prefixes


def in_turn(first: Provenance, then: Provenance) -> Provenance:
    """Of a model that was trained on one thing, and then on another."""
    seconds = [p.first_second for p in (first, then) if p.first_second is not None]
    last_seconds = [p.last_second for p in (first, then) if p.last_second is not None]
    return Provenance(
        data=first.data if first.data == then.data else "mixed",
        store_digest=then.store_digest,
        rows=first.rows + then.rows,
        sources=first.sources + then.sources,
        destinations=first.destinations + then.destinations,
        first_second=min(seconds, default=None),
        last_second=max(last_seconds, default=None),
        source_prefixes=first.source_prefixes | then.source_prefixes,
        destination_prefixes=first.destination_prefixes | then.destination_prefixes,
    )


def summary(provenance: Provenance | None) -> dict[str, Any] | None:
    """A provenance for people: JSON-able, without the lists of prefixes, times in ISO 8601."""
    if provenance is None:
        return None
    times = (provenance.first_second, provenance.last_second)
    first, last = (None if t is None else datetime.fromtimestamp(t, UTC).isoformat() for t in times)
    return {
        "data": provenance.data,
        "rows": provenance.rows,
        "sources": provenance.sources,
        "destinations": provenance.destinations,
        "first_time": first,
        "last_time": last,
        "store_digest": provenance.store_digest,
    }


def is_simulated(manifest: Manifest) -> bool:
    """Whether a store holds simulated pings: made by `prepare` without input, or from a file that `simulate`
    wrote and marked."""
    stages = manifest.configuration
    return "simulate" in stages or stages.get("split", {}).get("simulated") is True


def survey(store: Store, progress: Progress = lambda done, total: None) -> Provenance:
    """Read the train split of a store, or of several: about a second per million rows, and 32 bytes for each
    address in it.

    Raises `DamagedStoreError` for a window that breaks the grammar, and what `progress(done, total)` raises.
    """
    done, total = 0, store.windows("train", "full")
    sources, destinations = _Distinct(), _Distinct()
    times: list[int] = []
    for part in store.parts:
        for windows, rows in row_blocks(part, "train"):
            sources.add(rows.addresses[np.unique(rows.src)])
            destinations.add(rows.addresses[np.unique(rows.dst)])
            times = [min([*times, int(rows.seconds.min())]), max([*times, int(rows.seconds.max())])]
            done += windows
            progress(done, total)
    first, last = times or (None, None)
    manifests = [part.manifest for part in store.parts]
    simulated = {is_simulated(manifest) for manifest in manifests}
    return Provenance(
        data="mixed" if len(simulated) == 2 else "simulated" if True in simulated else "real",
        store_digest=store.digest,
        rows=sum(m.arrays["train/full"].measurements // m.passes for m in manifests),
        sources=len(sources.words()),
        destinations=len(destinations.words()),
        first_second=first,
        last_second=last,
        source_prefixes=_prefixes(sources.words()),
        destination_prefixes=_prefixes(destinations.words()),
    )


class _Distinct:
    """Distinct packed addresses. New ones are kept aside until they are as many as those already sorted, so that
    sorting costs little however many blocks there are."""

    def __init__(self) -> None:
        self._sorted: Words = np.zeros((0, 2), np.uint64)
        self._new: list[Words] = []
        self._waiting = 0

    def add(self, words: Words) -> None:
        self._new.append(words)
        self._waiting += len(words)
        if self._waiting > len(self._sorted):
            self.words()

    def words(self) -> Words:
        """All of them (n, 2), sorted."""
        if self._waiting:
            self._sorted, _ = number_words(np.concatenate([self._sorted, *self._new]))
            self._new, self._waiting = [], 0
        return self._sorted


def _prefixes(words: Words) -> Prefixes:
    ipv4 = is_ipv4(words)
    short = np.unique(words[ipv4, 1] >> np.uint64(16))
    long = np.unique(words[~ipv4, 0] >> np.uint64(32))
    return _listed(short, long)


def _listed(ipv4: NDArray[Any], ipv6: NDArray[Any]) -> Prefixes:
    """The prefixes with these numbers, ascending."""
    return Prefixes(_base64(ipv4, ">u2"), _base64(ipv6, ">u4") if len(ipv6) <= MOST_IPV6 else None)


def _base64(numbers: NDArray[Any], dtype: str) -> str:
    return base64.b64encode(numbers.astype(dtype).tobytes()).decode()


def _numbers(text: str, dtype: str) -> NDArray[Any]:
    return np.frombuffer(base64.b64decode(text), dtype)
