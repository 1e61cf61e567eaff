"""The measurements of a window by their number in it, where `model.network.lookups` has them by token."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from model.network.lookups import NO_BYTE_YET, field_ends, prefix_hashes
from model.network.token_places import positions_of, take, token_places
from stores.vocabulary import BYTE0, MEASUREMENT_START

LONGEST_ADDRESS = 16  # bytes
SHORTEST_MEASUREMENT = 12  # tokens


class Slots(NamedTuple):
    """Measurements of windows, each (B, M); what is not complete, or not there, is 0, or -1 in tables."""

    source: jax.Array
    """A hash, uint32."""
    destination: jax.Array
    source_prefixes: jax.Array
    """(B, M, 16) int32 rows of tables, the whole address first."""
    destination_prefixes: jax.Array
    first: jax.Array
    """Bytes of the RTT, int32."""
    second: jax.Array
    answered: jax.Array
    """Whether both addresses and an RTT are there, bool."""


def read_slots(tokens: jax.Array, prefix: jax.Array) -> Slots:
    """The measurements of windows (B, T) int32, as many as could fit into them. `prefix` (B, T) are the
    rows that their tokens look up. Costs T / 12 comparisons a token."""
    number = slot_numbers(tokens)
    slots = tokens.shape[1] // SHORTEST_MEASUREMENT + 1
    inside = number[:, None, :] == jnp.arange(slots, dtype=jnp.int32)[None, :, None]  # (B, M, T)
    last = jnp.where(inside, positions_of(tokens)[:, None, :], -1).max(2)  # (B, M)
    ends = [jnp.where(last >= 0, take(end, jnp.maximum(last, 0)), -1) for end in field_ends(tokens)]
    source, destination, rtt, _ = ends
    hashed, _ = prefix_hashes(tokens)
    _, distance = token_places(tokens)

    def at(values: jax.Array, place: jax.Array) -> jax.Array:
        return take(values, jnp.maximum(place, 0))

    def whole(end: jax.Array) -> jax.Array:
        return jnp.where(end >= 0, at(hashed, end), np.uint32(0))

    def prefixes(end: jax.Array) -> jax.Array:
        back = jnp.arange(LONGEST_ADDRESS, dtype=jnp.int32)[None, None]
        place = jnp.maximum(end[..., None] - back, 0).reshape(len(tokens), -1)
        rows = take(prefix, place).reshape(*end.shape, LONGEST_ADDRESS)
        return jnp.where((end >= 0)[..., None] & (back < at(distance, end)[..., None]), rows, -1)

    return Slots(
        source=whole(source),
        destination=whole(destination),
        source_prefixes=prefixes(source),
        destination_prefixes=prefixes(destination),
        first=at(tokens, rtt - 1) - BYTE0,
        second=at(tokens, rtt) - BYTE0,
        answered=(source >= 0) & (destination >= 0) & (rtt >= 0),
    )


def slot_numbers(tokens: jax.Array) -> jax.Array:
    """The number of each token's measurement in its window, (B, T) int32 from 0; -1 before the first."""
    return jnp.cumsum(tokens == MEASUREMENT_START, axis=1, dtype=jnp.int32) - 1


def awaits_rtt(tokens: jax.Array) -> jax.Array:
    """Whether both addresses of each token's measurement are complete and its result is not, (B, T) bool."""
    source, destination, rtt, failed = field_ends(tokens)
    return (source >= 0) & (destination >= 0) & (rtt < 0) & (failed < 0)


def first_bytes(tokens: jax.Array, rtt_so_far: jax.Array, slots: int) -> jax.Array:
    """The first byte of the RTT of each of the `slots` of windows (B, T), (B, slots) int32, though the second
    may not be there; `NO_BYTE_YET` without one. `rtt_so_far` (B, T) are those of `LookupRows`."""
    inside = slot_numbers(tokens)[:, None, :] == jnp.arange(slots, dtype=jnp.int32)[None, :, None]
    is_byte = (rtt_so_far >= 0) & (rtt_so_far < NO_BYTE_YET)
    found = jnp.where(inside & is_byte[:, None, :], rtt_so_far[:, None, :], -1).max(2)
    return jnp.where(found >= 0, found, NO_BYTE_YET)
