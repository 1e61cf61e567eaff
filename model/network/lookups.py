"""Learned vectors that a token looks up by what it stands for, beside the embedding of the token itself.

A byte of an address says little; the bytes before it make it a network, and all of them together a host.
Here each address byte looks up a vector of its **prefix** (the address's bytes up to this one), so that
the last byte carries what the model knows of the host, and the earlier ones what it knows of the /8, the
/16 and so on, which is what is left for an address never seen. And each token looks up vectors of what its
measurement has **carried** to it: the source, the destination and the result that are complete by now.
Without that, every prediction must first gather them by attention, and every recall match them by it.

Of the earlier measurements, a token looks up one (`recall`): what the **last** one of its own pair in the
window said, as soon as both addresses are there. It is what attention would have to find, and what a few
million tokens do not teach it to.

How well a source and a destination go together is hard to learn for a small MLP (Rendle et al.,
arXiv:2005.09683), so **factors** of both, short vectors of the same kind, are multiplied element by element,
as a matrix factorization of RTTs would do it.

Prefixes are hashed into a table of fixed size, as the n-grams of the Byte Latent Transformer
(arXiv:2412.09871); two that share a row share its vector.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from model.config import ModelConfig
from model.network.token_places import (
    MAX_PAYLOAD,
    last_position,
    positions_of,
    take,
    token_places,
)
from stores.vocabulary import (
    BYTE0,
    DST_IPV4,
    DST_IPV6,
    FAILED,
    MEASUREMENT_START,
    PAYLOAD_BYTES,
    RTT_START,
    SRC_IPV4,
    SRC_IPV6,
)

LONGEST_MEASUREMENT = 47
"""Tokens; what a token looks up depends on no more tokens than that, including itself."""
BYTES = 256
RESULT_ROWS = 2 * BYTES + 1
"""Rows of the table of results: first bytes of RTTs, second bytes, no answer."""
NO_BYTE_YET = BYTES


class Expected(NamedTuple):
    """What `model.network.placement` expects of an RTT, each with the shape of the tokens first."""

    mass: jax.Array
    """The probability of each byte, (…, 256) float32: of the first one, or behind it, of the second."""
    known: jax.Array
    """Whether there is anything to expect: both addresses are complete, and the RTT is not."""


class LookupRows(NamedTuple):
    """Row numbers in the tables, int32, each with the shape of the tokens; -1 looks up nothing."""

    prefix: jax.Array
    placed: jax.Array
    """The same for `model.network.placement`, which may be told less of a source."""
    source: jax.Array
    """In the same numbering as `prefix`: the whole address."""
    destination: jax.Array
    first: jax.Array
    """First byte of a complete RTT, or no answer, in the table of results."""
    second: jax.Array
    last_first: jax.Array
    """The same of the pair's last measurement in the window, in the table of last results."""
    last_second: jax.Array
    rtt_so_far: jax.Array
    """Where an RTT's byte comes next: its first byte, or `NO_BYTE_YET`."""
    expected: Expected | None = None
    """`None` without a placement."""


class Closed(NamedTuple):
    """The measurements of windows (B, T) that have both addresses and a result, where they are complete."""

    here: jax.Array  # (B, T) bool, at the token that completes it
    pair: jax.Array  # (B, T) uint32, a hash of both addresses
    first: jax.Array  # (B, T) int32, as in `LookupRows`
    second: jax.Array


class Lookups(nnx.Module):
    """The tables. What they add starts at 0: a model begins as if it had none."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        shape = (config.prefix_rows, config.width)
        self.prefix = nnx.Param(jnp.zeros(shape, jnp.float32))
        self.carried = nnx.Param(jnp.zeros(shape, jnp.float32))
        self.result = nnx.Param(jnp.zeros((RESULT_ROWS, config.width), jnp.float32))
        last = nnx.Param(jnp.zeros((RESULT_ROWS, config.width), jnp.float32))
        self.last = nnx.data(last if config.recall else None)
        self.factors = nnx.Param(jnp.zeros((config.prefix_rows, config.factors), jnp.float32))
        normal = nnx.initializers.normal(config.factors**-0.5)
        shape = (config.factors, config.width)
        self.of_factors = nnx.Param(normal(rngs.params(), shape, jnp.float32))

    def __call__(self, rows: LookupRows) -> jax.Array:
        """The sum (…, C) float32 of all that each token looks up."""
        source = look_up(self.factors[...], rows.source)  # (…, F)
        destination = look_up(self.factors[...], rows.destination)
        # (1 + s)(1 + d) - 1: alive though all factors start at 0, and neutral where one is unknown.
        pair = source + destination + source * destination
        flat = pair.reshape(-1, pair.shape[-1])  # as in `model.network.transformer.Linear`
        x = (
            (flat @ self.of_factors[...]).reshape(*pair.shape[:-1], -1)
            + look_up(self.prefix[...], rows.prefix)
            + look_up(self.carried[...], rows.source)
            + look_up(self.carried[...], rows.destination)
            + look_up(self.result[...], rows.first)
            + look_up(self.result[...], rows.second)
        )
        if self.last is None:
            return x
        last = self.last[...]
        return x + look_up(last, rows.last_first) + look_up(last, rows.last_second)


def lookup_rows(tokens: jax.Array, table_rows: int) -> LookupRows:
    """What each token of windows (B, T) int32 looks up in tables of `table_rows` rows.

    Depends only on the tokens up to itself; but for the last result of the pair, only on those of its own
    measurement. Costs some integer operations a token, and T comparisons.
    """
    rows, pair, closed = read_measurements(tokens, table_rows)
    begun = last_position(tokens == MEASUREMENT_START)
    place = positions_of(tokens)
    earlier = place[:, None, :] < begun[:, :, None]  # (B, T, T)
    return recall(rows, pair, closed, earlier)


class Ends(NamedTuple):
    """Where the fields of each token's measurement ended, int32 (B, T); -1: not complete by now."""

    source: jax.Array
    destination: jax.Array
    rtt: jax.Array
    failed: jax.Array


def field_ends(tokens: jax.Array) -> Ends:
    """Of windows (B, T) int32."""
    role, distance = token_places(tokens)
    begun = last_position(tokens == MEASUREMENT_START)
    complete = distance == jnp.asarray(PAYLOAD_BYTES, jnp.int32)[role]

    def end(of_field: jax.Array) -> jax.Array:
        place = last_position(of_field & complete)
        return jnp.where(place > begun, place, -1)

    return Ends(
        end((role == SRC_IPV4) | (role == SRC_IPV6)),
        end((role == DST_IPV4) | (role == DST_IPV6)),
        end(role == RTT_START),
        end(role == FAILED),
    )


def prefix_hashes(tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A hash (B, T) uint32 of the prefix that each token ends, and whether it is a byte of an address."""
    role, distance = token_places(tokens)
    is_address = (role >= SRC_IPV4) & (role <= DST_IPV6) & (distance > 0)
    return _hash_prefixes(tokens, role, distance), is_address


def read_measurements(tokens: jax.Array, table_rows: int) -> tuple[LookupRows, jax.Array, Closed]:
    """What each token of windows (B, T) looks up of its own measurement, the hash (B, T) uint32 of its pair
    (0: not complete), and the measurements for others to recall."""
    tokens = tokens.astype(jnp.int32)
    hashed, is_address = prefix_hashes(tokens)
    prefix = jnp.where(is_address, (hashed % np.uint32(table_rows)).astype(jnp.int32), -1)
    ends = field_ends(tokens)
    has_rtt = ends.rtt >= 0

    def at(values: jax.Array, place: jax.Array) -> jax.Array:
        return jnp.where(place >= 0, take(values, jnp.maximum(place, 0)), -1)

    first = take(tokens, jnp.maximum(ends.rtt - 1, 0)) - BYTE0
    nothing = jnp.full_like(tokens, -1)
    role, distance = token_places(tokens)
    so_far = jnp.where(distance == 0, NO_BYTE_YET, jnp.where(distance == 1, tokens - BYTE0, -1))
    rows = LookupRows(
        prefix=prefix,
        placed=prefix,
        source=at(prefix, ends.source),
        destination=at(prefix, ends.destination),
        first=jnp.where(has_rtt, first, jnp.where(ends.failed >= 0, 2 * BYTES, -1)),
        second=jnp.where(has_rtt, take(tokens, jnp.maximum(ends.rtt, 0)) - BYTE0 + BYTES, -1),
        last_first=nothing,
        last_second=nothing,
        rtt_so_far=jnp.where(role == RTT_START, so_far, -1),
    )
    both = (ends.source >= 0) & (ends.destination >= 0)
    pair = mix(take(hashed, jnp.maximum(ends.source, 0)))
    pair += take(hashed, jnp.maximum(ends.destination, 0))
    pair = jnp.where(both, jnp.maximum(pair, np.uint32(1)), np.uint32(0))
    result_end = jnp.maximum(ends.rtt, ends.failed)
    end = jnp.maximum(jnp.maximum(ends.source, ends.destination), result_end)
    here = both & (result_end >= 0) & (positions_of(tokens) == end)
    return rows, pair, Closed(here, pair, rows.first, rows.second)


def recall(rows: LookupRows, pair: jax.Array, closed: Closed, earlier: jax.Array) -> LookupRows:
    """The rows with the last result of each token's pair, among the closed measurements of its window.

    `pair` (B, N) are the hashes of N tokens, `closed` is (B, T), and `earlier` (B or 1, N, T) says which of
    them come before the token's own measurement.
    """
    same = (closed.pair[:, None, :] == pair[:, :, None]) & closed.here[:, None, :] & earlier
    place = jnp.arange(closed.pair.shape[1], dtype=jnp.int32)[None, None]
    found = jnp.where(same, place, -1).max(axis=2)  # (B, N)
    at = jnp.maximum(found, 0)
    known = (found >= 0) & (pair > 0)
    return rows._replace(
        last_first=jnp.where(known, take(closed.first, at), -1),
        last_second=jnp.where(known, take(closed.second, at), -1),
    )


def _hash_prefixes(tokens: jax.Array, role: jax.Array, distance: jax.Array) -> jax.Array:
    """A hash (B, T) uint32 for each address byte, of its field and the bytes up to itself.

    Each byte is mixed with its place, the mixed values are added up over the field, and the sum is mixed
    again: an addition commutes, so one running sum over the row serves all fields in it.
    """
    place = (role * (MAX_PAYLOAD + 1) + distance).astype(jnp.uint32)
    mixed = mix(tokens.astype(jnp.uint32) + place * np.uint32(512))
    running = jnp.cumsum(mixed, axis=1, dtype=jnp.uint32)
    start = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None] - distance
    total = running - take(running, start) + role.astype(jnp.uint32)
    return mix(total ^ (distance.astype(jnp.uint32) << np.uint32(24)))


def mix(x: jax.Array) -> jax.Array:
    """Wellons' lowbias32, an invertible mix of 32 bits."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def look_up(table: jax.Array, rows: jax.Array) -> jax.Array:
    """Rows of a table (R, C), and zeros for -1."""
    found = table.at[jnp.maximum(rows, 0)].get(mode="promise_in_bounds")
    return jnp.where((rows >= 0)[..., None], found, 0.0)
