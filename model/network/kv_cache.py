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
from model.network.lookups import (
    LONGEST_MEASUREMENT,
    NO_BYTE_YET,
    Closed,
    Expected,
    LookupRows,
    read_measurements,
    recall,
)
from model.network.placement import Placed
from model.network.slots import awaits_rtt, read_slots, slot_numbers
from model.network.token_places import take
from model.network.transformer import Transformer, rotary_angles
from stores.vocabulary import MEASUREMENT_START


class Past(NamedTuple):
    """What B prompts leave behind."""

    keys: jax.Array  # (L, B, T, H, D), as `values`
    values: jax.Array
    lengths: jax.Array  # (B,) int32
    tail: jax.Array  # (B, 46) int32, their last tokens: what a next one may look up
    closed: Closed | None  # (B, T) their measurements before the last one, to be recalled
    placed: Placed | None  # what these say of their sources
    slots: jax.Array  # (B,) int32, how many they are


class Branches(NamedTuple):
    """What N branches of each prompt have added to it, at most S tokens."""

    keys: jax.Array  # (L, B, N, S, H, D), as `values`
    values: jax.Array
    tokens: jax.Array  # (B, N, S) int32


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
    branch_keys: jax.Array  # (B, N, S, H, D), of the branches
    branch_values: jax.Array
    in_past: jax.Array  # (B, T) bool, what lies within the prompt
    grown: jax.Array  # () int32, tokens that each branch has already

    def attend(
        self, query: jax.Array, key: jax.Array, value: jax.Array, implementation: Implementation
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """All (B, N, H, D); keeps the keys and values of the branches with the new token. Always the
        plain implementation."""
        own = (
            lax.dynamic_update_slice_in_dim(self.branch_keys, key[:, :, None], self.grown, 2),
            lax.dynamic_update_slice_in_dim(self.branch_values, value[:, :, None], self.grown, 2),
        )
        in_branch = jnp.arange(own[0].shape[2]) <= self.grown  # (S,)
        attended = _attend_both(query, self.keys, self.values, self.in_past, *own, in_branch)
        return attended, own


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
        rows = model.look_up(tokens)
        x, (keys, values) = model.hidden(tokens, rows, angles, cache=ReadCache())
        last_two = lengths[:, None] + jnp.array([-2, -1], jnp.int32)[None]  # (B, 2)
        x = jnp.take_along_axis(x, last_two[..., None], axis=1)  # (B, 2, C)
        placed = None
        if model.placement is not None and rows is not None:
            prior = model.placement.prior(read_slots(tokens, rows.placed))
            placed = model.placement.place(prior)
        each = jnp.arange(len(tokens))[:, None]
        rows = jax.tree.map(lambda field: field[each, last_two], rows)
        at = lengths[:, None] - jnp.arange(LONGEST_MEASUREMENT - 1, 0, -1)[None]  # (B, 46)
        tail = jnp.where(at >= 0, jnp.take_along_axis(tokens, jnp.maximum(at, 0), axis=1), 0)
        open_slot = take(slot_numbers(tokens), lengths[:, None] - 1)[:, 0]
        return model.logits(x, rows), Past(
            keys,
            values,
            lengths,
            tail,
            self._close(tokens, lengths),
            placed,
            open_slot,
        )

    def _close(self, tokens: jax.Array, lengths: jax.Array) -> Closed | None:
        """The measurements of the prompts before their last one; `None` without tables."""
        if not self.config.prefix_rows:
            return None
        _, _, closed = read_measurements(tokens, self.config.prefix_rows)
        place = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
        starts = (tokens == MEASUREMENT_START) & (place < lengths[:, None])
        begun = jnp.where(starts, place, -1).max(axis=1, keepdims=True)
        return closed._replace(here=closed.here & (place < begun))

    def no_branches(self, past: Past, branches: int, tokens: int) -> Branches:
        """Room for `branches` of each prompt to grow by `tokens`."""
        layers, batch, _, *head = past.keys.shape
        empty = jnp.zeros((layers, batch, branches, tokens, *head), past.keys.dtype)
        return Branches(empty, empty, jnp.zeros((batch, branches, tokens), jnp.int32))

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
            branches.keys,
            branches.values,
            jnp.broadcast_to(in_past, (layers, *in_past.shape)),
            jnp.broadcast_to(grown, (layers,)),
        )
        all_tokens = lax.dynamic_update_slice_in_dim(
            branches.tokens, tokens[..., None], grown, axis=2
        )
        rows = self._look_up(model, past, all_tokens, grown)
        x, (keys, values) = model.hidden(tokens, rows, (cos, sin), cache=cache)
        return model.logits(x, rows), Branches(keys, values, all_tokens)

    def _look_up(
        self, model: Transformer, past: Past, tokens: jax.Array, grown: jax.Array
    ) -> LookupRows | None:
        """What the latest tokens of branches (B, N, S) look up, (B, N) each; `None` without tables."""
        if not self.config.prefix_rows:
            return None
        batch, branches, _ = tokens.shape
        tail = jnp.broadcast_to(past.tail[:, None], (batch, branches, past.tail.shape[1]))
        line = jnp.concatenate([tail, tokens], axis=2).reshape(batch * branches, -1)
        rows, pair, _ = read_measurements(line, self.config.prefix_rows)
        at = past.tail.shape[1] + grown

        def latest(of_line: jax.Array) -> jax.Array:
            one: jax.Array = lax.dynamic_index_in_dim(of_line, at, axis=1, keepdims=False)
            return one.reshape(batch, branches)

        assert past.closed is not None
        every = jnp.ones((1, 1, 1), bool)
        own = jax.tree.map(latest, rows)
        recalled = recall(own, latest(pair), past.closed, every)
        if model.placement is None or past.placed is None:
            return recalled
        slot = latest(slot_numbers(line)).reshape(-1)  # (B · N,)
        asked = jax.tree.map(
            lambda of_slot: of_slot[jnp.arange(len(slot)), slot].reshape(
                batch, branches, *of_slot.shape[2:]
            ),
            read_slots(line, rows.placed),
        )
        earlier = jnp.arange(past.placed.prior.slots.source.shape[1])[None] < past.slots[:, None]
        expectation = model.placement.expect(
            past.placed, model.placement.prior(asked), earlier[:, None]
        )
        known = latest(awaits_rtt(line))
        so_far = jnp.where(own.rtt_so_far >= 0, own.rtt_so_far, NO_BYTE_YET)
        return recalled._replace(expected=Expected(expectation.of_next(so_far), known))


def _attend_both(
    query: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    in_past: jax.Array,
    own_keys: jax.Array,
    own_values: jax.Array,
    in_branch: jax.Array,
) -> jax.Array:
    """Attention of (B, N, H, D) queries to the prompt's (B, T, H, D) and to the branch's own
    (B, N, S, H, D) keys and values, as one softmax in float32. `in_past` (B, T) and `in_branch` (S,)
    say which of them exist."""
    scale = query.shape[-1] ** -0.5
    wide = {"preferred_element_type": jnp.float32}
    shared = jnp.einsum("bnhd,bthd->bnht", query, keys, **wide) * scale
    private = jnp.einsum("bnhd,bnshd->bnhs", query, own_keys, **wide) * scale
    shared = jnp.where(in_past[:, None, None], shared, -jnp.inf)
    private = jnp.where(in_branch[None, None, None], private, -jnp.inf)
    share = jax.nn.softmax(jnp.concatenate([shared, private], axis=-1), axis=-1)
    share = share.astype(values.dtype)
    split = keys.shape[1]
    return jnp.einsum("bnht,bthd->bnhd", share[..., :split], values) + jnp.einsum(
        "bnhs,bnshd->bnhd", share[..., split:], own_values
    )
