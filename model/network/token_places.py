"""Where each token stands in its measurement, computed from the tokens alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from stores.vocabulary import BYTE0, PAYLOAD_BYTES

MAX_PAYLOAD = max(PAYLOAD_BYTES)


def token_places(tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The role that each token of windows (B, T) int32 belongs to, and how many tokens after it (0 for
    the role itself); both (B, T) int32. Of bytes before any role: role 0, and at most 16 after it."""
    position = positions_of(tokens)
    is_role = tokens < BYTE0
    at_role = jax.lax.cummax(jnp.where(is_role, position, 0), axis=1)
    role = jnp.clip(take(tokens, at_role), 0, BYTE0 - 1)
    return role, jnp.clip(position - at_role, 0, MAX_PAYLOAD)


def last_position(found: jax.Array) -> jax.Array:
    """The last position up to each one where `found` (B, T) is true, (B, T) int32; -1: none."""
    return jax.lax.cummax(jnp.where(found, positions_of(found), -1), axis=1)


def take(values: jax.Array, positions: jax.Array) -> jax.Array:
    """`values` (B, T) at other positions (B, T) of the same row."""
    return jnp.take_along_axis(values, positions, axis=1)


def positions_of(tokens: jax.Array) -> jax.Array:
    """(B, T) int32, counted from 0 in each row."""
    return jax.lax.broadcasted_iota(jnp.int32, tokens.shape, 1)
