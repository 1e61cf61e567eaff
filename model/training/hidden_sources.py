"""Windows under false source addresses: what a new vantage point is, made from the ones that are known.

A model that knows its sources by their addresses need not look at the context, so it never learns what
a few measurements say about a place that it does not know. In a share of the windows, the bytes of the
source addresses are therefore replaced, over the whole window alike, from a byte on that is drawn: what
is kept of the front is what a known network tells. No prefix that holds a false byte looks up anything,
as if the training data had never had it.

The placement (`model.network.placement`) is told no more of the source in any window: it is there for
vantage points that nobody knows, and with the others it would learn their RTTs by heart.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from model.config import ModelConfig
from model.network.lookups import LookupRows, lookup_rows
from model.network.token_places import MAX_PAYLOAD, take, token_places
from stores.vocabulary import BYTE0, PAYLOAD_BYTES, SRC_IPV4, SRC_IPV6

QUARTERS = 4  # a false address keeps 0 to 3 quarters of its bytes
WHOLE = 3  # none is drawn as often as the other three together


class Disguise(NamedTuple):
    """What is drawn for each window of a batch."""

    hidden: jax.Array  # (B,) bool
    quarters: jax.Array  # (B,) int32, of each address that are kept
    masks: jax.Array  # (B, 17) int32, what the byte at each place is XORed with; 1 … 255


OF_BATCH, OF_SOURCES = 1, 2
"""What is drawn for: keep these draws apart from each other, and from those of dropout."""


def draw_disguise(
    seed: int, step: jax.Array, windows: int, share: float, what: int = OF_BATCH
) -> Disguise:
    """The disguise of a training step; a pure function of its arguments."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    first, second, third = jax.random.split(jax.random.fold_in(key, what), 3)
    return Disguise(
        jax.random.bernoulli(first, share, (windows,)),
        jnp.maximum(jax.random.randint(second, (windows,), 1 - WHOLE, QUARTERS), 0),
        jax.random.randint(third, (windows, MAX_PAYLOAD + 1), 1, 256),
    )


def hide_sources(
    tokens: jax.Array, disguise: Disguise, config: ModelConfig
) -> tuple[jax.Array, LookupRows | None]:
    """Windows (B, T) int32 under their disguise, and what they look up; `None` if the model has no tables.

    Of all windows, hidden or not, the placement looks up only the quarters that are kept.
    """
    role, distance = token_places(tokens)
    size = jnp.asarray(PAYLOAD_BYTES, jnp.int32)[role]
    kept = size // QUARTERS * disguise.quarters[:, None]
    is_source = ((role == SRC_IPV4) | (role == SRC_IPV6)) & (tokens >= BYTE0)
    dropped = is_source & (distance > kept)
    false = dropped & disguise.hidden[:, None]
    byte = (tokens - BYTE0) ^ take(disguise.masks, distance)
    tokens = jnp.where(false, BYTE0 + byte, tokens)
    if not config.prefix_rows:
        return tokens, None
    rows = lookup_rows(tokens, config.prefix_rows)
    return tokens, rows._replace(
        prefix=jnp.where(false, -1, rows.prefix),
        placed=jnp.where(dropped, -1, rows.placed),
        source=jnp.where(disguise.hidden[:, None], -1, rows.source),
    )
