"""What an answer rests on: the data that the model was trained on, and whether they had the asked addresses."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Literal

from model.inference.query import ADDRESS_BYTES, CompletionQuery, RttQuery, SampleQuery
from stores.codec import Address
from stores.provenance import PREFIX_BITS, Provenance

Data = Literal["simulated", "real", "mixed", "unknown"]
NOTES = {
    "simulated": "from a model of a simulated Internet",
    "mixed": "from a model trained in part on a simulated Internet",
    "unknown": "from a model trained on unknown data",
}
NAMES = {"src": "source", "dst": "destination"}


@dataclass(frozen=True)
class Grounds:
    """What the answer to one query rests on."""

    data: Data
    """What the model was trained on; "unknown" if nobody noted it."""
    unmet_prefixes: dict[str, str]
    """By field of the query, the /16 (IPv6: /32) of its address, if no address of that field in training had it."""
    notes: tuple[str, ...]
    """The same in words, for whoever reads the answer; none if it rests on real pings to known networks."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form, which every answer includes."""
        return {**vars(self), "notes": list(self.notes)}


def data_of(provenance: Provenance | None) -> Data:
    """What a model of this provenance was trained on."""
    return "unknown" if provenance is None else provenance.data


def find_grounds(
    provenance: Provenance | None, query: RttQuery | CompletionQuery | SampleQuery
) -> Grounds:
    """What the answer of a model of this provenance to a query rests on."""
    data = data_of(provenance)
    notes = [NOTES[data]] if data in NOTES else []
    unmet = {}
    for name, field, address in _asked(query):
        prefix = provenance.prefixes(field).unmet(address) if provenance else None
        if prefix is not None:
            unmet[name] = prefix
            role = NAMES[field]
            notes.append(
                f"{role} {getattr(query, name)}: the training data have no {role} in {prefix}"
            )
    return Grounds(data, unmet, tuple(notes))


def _asked(
    query: RttQuery | CompletionQuery | SampleQuery,
) -> list[tuple[str, Literal["src", "dst"], Address]]:
    """The addresses that a query asks about: the name of its field, the role of the address, the address. Of a
    prefix, its first address, unless it is too short to tell."""
    if isinstance(query, RttQuery):
        return [("src", "src", query.src), ("dst", "dst", query.dst)]
    if isinstance(query, SampleQuery):
        return [("src", "src", query.src)]
    if 8 * len(query.known) < PREFIX_BITS[query.family]:
        return []
    first = query.known.ljust(ADDRESS_BYTES[query.family], b"\0")
    return [("prefix", query.field, ip_address(first))]
