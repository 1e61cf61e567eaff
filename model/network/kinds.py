"""Kinds of vantage points: each has RTTs of its own, and a source's measurements say which of them it is.

Sources of one network measure much the same, and nothing in between two networks exists. A regression, whose
coefficients are normally distributed, cannot say that; a mixture can: each kind has a mean for every
destination, the sum over the prefixes of its address, and the regression of `model.network.placement` is left
what the kind does not explain. All kinds share its covariance, so one Cholesky factor serves them all.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from model.config import ModelConfig
from model.network.lookups import look_up, mix
from model.network.slots import Slots

KEYS = 8
"""Numbers that the prefixes of a source's address add up to, by which some kinds are likely from the start."""
START = 0.04
"""Size of the means of a prefix at the start."""
LEVEL_START, KEY_START = 0.3, 0.3
"""Standard deviations of the means of all RTTs of a kind, and of its key, at the start."""


class Kinds(nnx.Module):
    """K kinds, with means for destinations and log weights for sources."""

    def __init__(self, config: ModelConfig) -> None:
        rows, kinds = config.prefix_rows, config.source_kinds
        random = np.random.default_rng(0)
        self.queries = nnx.Param(jnp.zeros((rows, KEYS), jnp.float32))
        self.table = nnx.Param(jnp.zeros((rows, kinds), jnp.float32))
        level = random.normal(0, LEVEL_START, kinds)
        self.level = nnx.Param(jnp.asarray(level, jnp.float32))
        key = random.normal(0, KEY_START, (KEYS, kinds))
        self.key = nnx.Param(jnp.asarray(key, jnp.float32))
        self.share = nnx.Param(jnp.zeros(kinds, jnp.float32))
        # The logarithm of what log likelihoods are multiplied by: measurements of one source err together.
        self.trust = nnx.Param(jnp.zeros(1, jnp.float32))

    def means(self, slots: Slots) -> jax.Array:
        """What each kind adds to the mean of the roots of RTTs of slots (B, M), (B, M, K) float32."""
        table = self.table[...]
        table += START * signs(*table.shape)
        level = self.level[...][None, None]
        return look_up(table, slots.destination_prefixes).sum(2) + level

    def log_weights(self, slots: Slots, fit: jax.Array) -> jax.Array:
        """Of each kind, for the sources of slots (B, M), whose measurements so far have the log likelihoods
        `fit` (B, M, K): (B, M, K) float32."""
        query = look_up(self.queries[...], slots.source_prefixes).sum(2)  # (B, M, KEYS)
        prior = jnp.einsum("bmd,dk->bmk", query, self.key[...]) + self.share[...][None, None]
        return jax.nn.log_softmax(prior + jnp.exp(self.trust[...][0]) * fit, axis=-1)


def signs(rows: int, columns: int) -> jax.Array:
    """-1 or 1 for each cell of a table (rows, columns) float32, by a hash of the row's number. What started at
    the same value in all columns would stay so."""
    column = jnp.arange(columns, dtype=jnp.uint32)[None]
    row = jnp.arange(rows, dtype=jnp.uint32)[:, None]
    number = mix(row + np.uint32(rows) * (column // np.uint32(32)))
    bit = (number >> (column % np.uint32(32))) & np.uint32(1)
    return 2 * bit.astype(jnp.float32) - 1
