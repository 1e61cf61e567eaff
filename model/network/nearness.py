"""What is added to the logits of an RTT's bytes because they are numbers: near ones are about as likely.

To the head of a transformer, the 256 bytes are names, and what it learns of one says nothing of the next.
So that it need not learn for each of 256 last results which ones follow it, a model with `nearness` has
bumps in its logits, exp(-distance / reach), centred on what the last measurement of the same pair in the
window said (see `model.network.lookups`). How high each bump is, it reads off the residual: little where it
knows better, nothing before it has learned to.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from model.config import ModelConfig
from model.network.lookups import BYTES, NO_BYTE_YET, LookupRows
from stores.vocabulary import BYTE0

REACHES = (0.5, 2.0, 8.0, 32.0, 128.0)
"""Of the bumps, in bytes: from the repetition of the first byte to a slope over all second bytes. Each is a
quarter of the next."""


class Nearness(nnx.Module):
    """The heights of the bumps, as a matrix from the residual; they start at 0."""

    def __init__(self, config: ModelConfig) -> None:
        self.vocabulary = config.vocabulary
        self.heights = nnx.Param(jnp.zeros((config.width, len(REACHES)), jnp.float32))

    def __call__(self, x: jax.Array, rows: LookupRows) -> jax.Array:
        """What to add (B, T, vocabulary) float32 to the logits of the residual (B, T, C) behind the norm."""
        heights = jnp.matmul(
            x, self.heights[...].astype(x.dtype), preferred_element_type=jnp.float32
        )
        centre, known = expected_bytes(rows)
        byte = jnp.arange(BYTES, dtype=jnp.float32)[None, None]
        distance = jnp.abs(byte - centre[..., None].astype(jnp.float32))  # (B, T, 256)
        bump = jnp.exp(-distance / REACHES[-1])
        bumps = heights[..., -1, None] * bump
        for reach in reversed(range(len(REACHES) - 1)):
            bump = bump**4  # cheaper than an exponential for each
            bumps += heights[..., reach, None] * bump
        added = jnp.where(known[..., None], bumps, 0.0)
        return jnp.pad(added, ((0, 0), (0, 0), (BYTE0, self.vocabulary - BYTE0 - BYTES)))


def expected_bytes(rows: LookupRows) -> tuple[jax.Array, jax.Array]:
    """The byte that would repeat the last RTT of each token's pair, (B, T) int32, and where there is one,
    (B, T) bool.

    Where the first byte is already another than the last one, the second that would repeat it lies outside
    of 0 … 255, by 256 for each step between the two.
    """
    last_second = rows.last_second - BYTES  # they follow the first bytes in their table
    second = (rows.last_first - rows.rtt_so_far) * BYTES + last_second
    known = (rows.rtt_so_far >= 0) & (last_second >= 0)
    return jnp.where(rows.rtt_so_far == NO_BYTE_YET, rows.last_first, second), known
