"""The transformer with its past kept: a prompt is read once, then N branches grow from it.

The branches of a prompt share its keys and values and have only their own few tokens beside them, so
256 continuations of a full window cost 256 tokens, not 256 windows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from model.network.attention import attend
from model.network.transformer import Transformer, rotary_angles


class Past(NamedTuple):
    """What B prompts leave behind: keys and values (L, B, T, H, D), and their `lengths` (B,) int32."""

    keys: jax.Array
    values: jax.Array
    lengths: jax.Array


class Branches(NamedTuple):
    """Keys and values (L, B, N, S, H, D) of what N branches of each prompt have grown by, at most S."""

    keys: jax.Array
    values: jax.Array


class CachedTransformer:
    """The same weights and the same logits as `Transformer`, for use under `jax.jit`.

    Takes over `model`: its layers are stacked, so that a scan compiles one for all.
    """

    def __init__(self, model: Transformer):
        graphs, layers = zip(*(nnx.split(block) for block in model.blocks), strict=True)
        self.block = graphs[0]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
        model.blocks = nnx.List([])
        self.rest, rest = nnx.split(model)
        self.weights = (stacked, rest)
        self.config = model.config
        self.dtype = model.dtype

    def read(self, weights: Any, tokens: jax.Array, lengths: jax.Array) -> tuple[jax.Array, Past]:
        """Prompts (B, T) int32 of `lengths` (B,) to logits (B, 2, V) at their last two tokens, and
        their past. What lies behind a prompt's length is never looked at."""
        layers, rest = weights
        model = nnx.merge(self.rest, rest)
        angles = rotary_angles(tokens.shape[1], self.config.head_size, self.dtype)

        def layer(x: jax.Array, state: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            block = nnx.merge(self.block, state)
            query, key, value = block.attention.project(block.attention_norm(x), angles)
            seen = attend(query, key, value, block.attention.implementation)
            x = x + block.attention.out(seen.reshape(x.shape))
            return x + block.feed_forward(x), (key, value)

        x, (keys, values) = lax.scan(layer, model.embed(tokens), layers)
        last_two = lengths[:, None] + jnp.array([-2, -1], jnp.int32)[None]  # (B, 2)
        x = jnp.take_along_axis(x, last_two[..., None], axis=1)  # (B, 2, C)
        return model.logits(model.final_norm(x)), Past(keys, values, lengths)

    def no_branches(self, past: Past, branches: int, tokens: int) -> Branches:
        """Room for `branches` of each prompt to grow by `tokens`."""
        layers, batch, _, *head = past.keys.shape
        empty = jnp.zeros((layers, batch, branches, tokens, *head), past.keys.dtype)
        return Branches(empty, empty)

    def grow(
        self, weights: Any, past: Past, branches: Branches, tokens: jax.Array, grown: jax.Array
    ) -> tuple[jax.Array, Branches]:
        """One token more (B, N) int32 for each branch, which all have `grown` () int32 so far, to
        logits (B, N, V) and the branches with it."""
        layers, rest = weights
        model = nnx.merge(self.rest, rest)
        table = rotary_angles(self.config.context, self.config.head_size, self.dtype)
        place = past.lengths + grown  # (B,), the same for all branches of a prompt
        cos, sin = (angles[0][place][:, None] for angles in table)  # (B, 1, 1, D/2)
        in_past = jnp.arange(past.keys.shape[2])[None] < past.lengths[:, None]  # (B, T)
        in_branch = jnp.arange(branches.keys.shape[3]) <= grown  # (S,)

        def layer(
            x: jax.Array, inputs: tuple[Any, jax.Array, jax.Array, Branches]
        ) -> tuple[jax.Array, Branches]:
            state, keys, values, own = inputs
            block = nnx.merge(self.block, state)
            query, key, value = block.attention.project(block.attention_norm(x), (cos, sin))
            own = Branches(
                lax.dynamic_update_slice_in_dim(own.keys, key[:, :, None], grown, 2),
                lax.dynamic_update_slice_in_dim(own.values, value[:, :, None], grown, 2),
            )
            seen = _attend_both(query, keys, values, in_past, own, in_branch)
            x = x + block.attention.out(seen.reshape(x.shape))
            return x + block.feed_forward(x), own

        x, branches = lax.scan(
            layer, model.embed(tokens), (layers, past.keys, past.values, branches)
        )
        return model.logits(model.final_norm(x)), branches


def _attend_both(
    query: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    in_past: jax.Array,
    own: Branches,
    in_branch: jax.Array,
) -> jax.Array:
    """Attention of (B, N, H, D) queries to the prompt's (B, T, H, D) and to the branch's own
    (B, N, S, H, D) keys and values, as one softmax, in float32."""
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
