"""Dropout from a keyed hash of the position: a pure function of (seed, step, site, element).

The mask is computed where it is used and fuses into the multiplication around it, so it costs no
memory traffic. It is the same on every backend and for any number of devices, unlike the hardware
generators behind `rbg` keys, which follow the sharding. Threefry (`jax.random.bernoulli`) has all that
too but needs more arithmetic: in a `tiny` step on two CPU cores it made the step 6 % longer.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax


def dropout_keys(seed: int, step: jax.Array, sites: int) -> jax.Array:
    """The (sites, 2) uint32 keys of one training step."""
    return jax.random.bits(jax.random.fold_in(jax.random.key(seed), step), (sites, 2), jnp.uint32)


def keep_mask(key: jax.Array, shape: tuple[int, ...], rate: float) -> jax.Array:
    """Boolean mask of `shape` (below 2³² elements), each True with probability 1 - rate.

    `key` is (2,) uint32. The hash is Wellons' lowbias32 with one key word mixed in before its two
    multiplications and one between them, so that two keys give unrelated masks and not shifted copies
    of the same one.
    """
    index = jnp.zeros(shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(len(shape))):
        index = index + lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride)
        stride *= shape[axis]
    x = index ^ lax.broadcast(key[0], shape)
    x = (x ^ (x >> jnp.uint32(16))) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> jnp.uint32(15))) + lax.broadcast(key[1], shape)
    x = x * jnp.uint32(0x846CA68B)
    x = x ^ (x >> jnp.uint32(16))
    kept: jax.Array = x >= jnp.uint32(round(rate * 2**32))
    return kept


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """`x` with a share `rate` of its elements zeroed and the rest scaled up to keep the mean; `x` itself
    without a key."""
    if key is None or rate == 0:
        return x
    scale = jnp.asarray(1 / (1 - rate), x.dtype)
    return jnp.where(keep_mask(key, x.shape, rate), x * scale, jnp.zeros((), x.dtype))
