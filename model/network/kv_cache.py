"""Keys and values that are kept: a prompt is read once, then N branches grow from it.

The branches of a prompt share its keys and values and add only their own few tokens, so 256
continuations of a full window cost 256 tokens, not 256 windows. How a layer is wired is written in
`model.network.transformer` alone; here is only what its attention looks at.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from model.network.attention import Implementation, attend
from model.network.transformer import Transformer, rotary_angles


class Past(NamedTuple):
    """What B prompts leave behind: keys and values (L, B, T, H, D), and their `lengths` (B,) int32."""

    keys: jax.Array
    values: jax.Array
    lengths: jax.Array


class Branches(NamedTuple):
    """Keys and values (L, B, N, S, H, D) that N branches of each prompt have added, at most S tokens."""

    keys: jax.Array
    values: jax.Array


class ReadCache(NamedTuple):
    """Nothing came before: the tokens attend to each other, and all their keys and values are kept."""

    def attend(
        self, query: jax.Array, key: jax.Array, value: jax.Array, implementation: Implementation
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """All (B, T, H, D); keeps (key, value)."""
        return attend(query, key, value, implementation), (key, value)


class GrowCache(NamedTuple):
    """The past of B prompts, shared by their N branches, which each add one token."""

    keys: jax.Array  # (B, T, H, D), of the prompts
    values: jax.Array
    branches: Branches  # (B, N, S, H, D)
    in_past: jax.Array  # (B, T) bool, what lies within the prompt
    grown: jax.Array  # () int32, tokens that each branch has already

    def attend(
        self, query: jax.Array, key: jax.Array, value: jax.Array, implementation: Implementation
    ) -> tuple[jax.Array, Branches]:
        """All (B, N, H, D); keeps the branches with the new token. Always the plain implementation."""
        branches = Branches(
            lax.dynamic_update_slice_in_dim(self.branches.keys, key[:, :, None], self.grown, 2),
            lax.dynamic_update_slice_in_dim(self.branches.values, value[:, :, None], self.grown, 2),
        )
        in_branch = jnp.arange(branches.keys.shape[2]) <= self.grown  # (S,)
        attended = _attend_both(query, self.keys, self.values, self.in_past, branches, in_branch)
        return attended, branches


class CachedTransformer:
    """The same weights and the same logits as `Transformer`, for use under `jax.jit`.

    `weights` are a pytree to pass to the methods. The layers are stacked, so that a scan compiles one
    for all; `model` stays as it is.
    """

    def __init__(self, model: Transformer) -> None:
        self.graph, self.weights = nnx.split(model.with_stacked_layers())
        self.config = model.config
        self.dtype = model.dtype

    def read(self, weights: Any, tokens: jax.Array, lengths: jax.Array) -> tuple[jax.Array, Past]:
        """Prompts (B, T) int32 of `lengths` (B,) to logits (B, 2, V) at their last two tokens, and
        their past. What lies behind a prompt's length is never looked at."""
        model = nnx.merge(self.graph, weights)
        angles = rotary_angles(tokens.shape[1], self.config.head_size, self.dtype)
        x, (keys, values) = model.hidden(tokens, angles, cache=ReadCache())
        last_two = lengths[:, None] + jnp.array([-2, -1], jnp.int32)[None]  # (B, 2)
        x = jnp.take_along_axis(x, last_two[..., None], axis=1)  # (B, 2, C)
        return model.logits(x), Past(keys, values, lengths)

    def no_branches(self, past: Past, branches: int, tokens: int) -> Branches:
        """Room for `branches` of each prompt to grow by `tokens`."""
        layers, batch, _, *head = past.keys.shape
        empty = jnp.zeros((layers, batch, branches, tokens, *head), past.keys.dtype)
        return Branches(empty, empty)

    def grow(
        self, weights: Any, past: Past, branches: Branches, tokens: jax.Array, grown: jax.Array
    ) -> tuple[jax.Array, Branches]:
        """One more token (B, N) int32 for each branch, all of which have `grown` () int32 so far, to
        logits (B, N, V) and the branches with it."""
        model = nnx.merge(self.graph, weights)
        table = rotary_angles(self.config.context, self.config.head_size, self.dtype)
        place = past.lengths + grown  # (B,), the same for all branches of a prompt
        cos, sin = (angles[0][place][:, None] for angles in table)  # (B, 1, 1, D/2)
        layers, _, length, *_ = past.keys.shape
        in_past = jnp.arange(length)[None] < past.lengths[:, None]  # (B, T)
        cache = GrowCache(
            past.keys,
            past.values,
            branches,
            jnp.broadcast_to(in_past, (layers, *in_past.shape)),
            jnp.broadcast_to(grown, (layers,)),
        )
        x, grown_branches = model.hidden(tokens, (cos, sin), cache=cache)
        return model.logits(x), grown_branches


def _attend_both(
    query: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    in_past: jax.Array,
    own: Branches,
    in_branch: jax.Array,
) -> jax.Array:
    """Attention of (B, N, H, D) queries to the prompt's (B, T, H, D) and to the branch's own
    (B, N, S, H, D) keys and values, as one softmax in float32. `in_past` (B, T) and `in_branch` (S,)
    say which of them exist."""
    scale = query.shape[-1] ** -0.5
    wide = {"preferred_element_type": jnp.float32}
    shared = jnp.einsum("bnhd,bthd->bnht", query, keys, **wide) * scale
    private = jnp.einsum("bnhd,bnshd->bnhs", query, own.keys, **wide) * scale
    shared = jnp.where(in_past[:, None, None], shared, -jnp.inf)
    private = jnp.where(in_branch[None, None, None], private, -jnp.inf)
    share = jax.nn.softmax(jnp.concatenate([shared, private], axis=-1), axis=-1)
    share = share.astype(values.dtype)
    split = keys.shape[1]
    return jnp.einsum("bnht,bthd->bnhd", share[..., :split], values) + jnp.einsum(
        "bnhs,bnshd->bnhd", share[..., split:], own.values
    )
