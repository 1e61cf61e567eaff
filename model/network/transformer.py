"""The decoder: RMSNorm before each sublayer, rotary positions, causal attention, GELU MLP, no biases."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from model.config import ModelConfig
from model.network.attention import Implementation, LayerCache, attend
from model.network.dropout import dropout
from model.network.lookups import LookupRows, Lookups, lookup_rows
from model.network.nearness import Nearness
from model.network.placement import Placement, at_tokens, placement_loss
from model.network.slots import read_slots

ROPE_BASE = 10_000.0
VOCABULARY_ALIGNMENT = 64  # matrix units are fastest on multiples of it
NORM_EPSILON = 1e-6

Angles = tuple[jax.Array, jax.Array]
"""Cosines and sines of the tokens' positions, each (1 or B, T or 1, 1, D/2)."""


class RMSNorm(nnx.Module):
    """x / rms(x) · scale over the channels, in float32 (Zhang and Sennrich 2019, arXiv:1910.07467)."""

    def __init__(self, width: int):
        self.scale = nnx.Param(jnp.ones(width, jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        mean_square = jnp.mean(wide * wide, axis=-1, keepdims=True)
        scale = self.scale[...][None, None]  # (1, 1, C)
        return (wide * lax.rsqrt(mean_square + NORM_EPSILON) * scale).astype(x.dtype)


class Attention(nnx.Module):
    """Multi-head causal self-attention with rotary positions."""

    def __init__(
        self,
        config: ModelConfig,
        dtype: jnp.dtype[Any],
        implementation: Implementation,
        rngs: nnx.Rngs,
    ) -> None:
        self.heads = config.heads
        self.implementation = implementation
        self.query_key_value = _linear(config.width, 3 * config.width, 1.0, dtype, rngs)
        self.out = _linear(config.width, config.width, _residual_gain(config), dtype, rngs)

    def __call__(
        self, x: jax.Array, angles: Angles, cache: LayerCache | None
    ) -> tuple[jax.Array, Any]:
        """(B, T, C) to (B, T, C), and what the cache keeps of `x`; `None` without a cache."""
        batch, length, width = x.shape
        split = (batch, length, 3, self.heads, width // self.heads)
        qkv = self.query_key_value(x).reshape(split)  # (B, T, 3, H, D)
        query, key, value = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        query, key = rotate(query, angles), rotate(key, angles)
        if cache is None:
            attended, kept = attend(query, key, value, self.implementation), None
        else:
            attended, kept = cache.attend(query, key, value, self.implementation)
        return self.out(attended.reshape(x.shape)), kept


class Block(nnx.Module):
    """One layer: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(
        self,
        config: ModelConfig,
        dtype: jnp.dtype[Any],
        implementation: Implementation,
        rngs: nnx.Rngs,
    ) -> None:
        self.dropout = config.dropout
        self.attention_norm = RMSNorm(config.width)
        self.attention = Attention(config, dtype, implementation, rngs)
        self.mlp_norm = RMSNorm(config.width)
        self.mlp_in = _linear(config.width, config.mlp, 1.0, dtype, rngs)
        self.mlp_out = _linear(config.mlp, config.width, _residual_gain(config), dtype, rngs)

    def __call__(
        self, x: jax.Array, angles: Angles, keys: jax.Array | None, cache: LayerCache | None
    ) -> tuple[jax.Array, Any]:
        """(B, T, C) to (B, T, C), and what the cache keeps of `x`; `None` without a cache.

        `keys` are (2, 2) uint32, one dropout key for each sublayer; `None` drops nothing.
        """
        first, second = (None, None) if keys is None else (keys[0], keys[1])
        attended, kept = self.attention(self.attention_norm(x), angles, cache)
        x = x + dropout(attended, self.dropout, first)
        fed = self.mlp_out(jax.nn.gelu(self.mlp_in(self.mlp_norm(x))))  # inside: (B, T, M)
        return x + dropout(fed, self.dropout, second), kept


class Transformer(nnx.Module):
    """Tokens to next-token logits.

    Weights and logits are float32, activations `dtype`. The embeddings and the head are not tied.
    """

    def __init__(
        self,
        config: ModelConfig,
        dtype: jnp.dtype[Any],
        implementation: Implementation,
        rngs: nnx.Rngs,
    ) -> None:
        self.config = config
        self.dtype = dtype
        normal = nnx.initializers.normal
        shape = (config.vocabulary, config.width)
        self.embedding = nnx.Param(normal(1.0)(rngs.params(), shape, jnp.float32))
        self.blocks = nnx.List(
            Block(config, dtype, implementation, rngs) for _ in range(config.layers)
        )
        self.layers_are_stacked = False  # if True, `blocks` has one entry with all layers' weights
        self.final_norm = RMSNorm(config.width)
        # Small, so that training starts from nearly uniform predictions.
        self.head = nnx.Param(
            normal(0.1 * config.width**-0.5)(rngs.params(), shape[::-1], jnp.float32)
        )
        self.lookups = nnx.data(Lookups(config, rngs) if config.prefix_rows else None)
        self.nearness = nnx.data(Nearness(config) if config.nearness and config.recalls else None)
        self.placement = nnx.data(Placement(config) if config.places else None)

    def __call__(
        self,
        tokens: jax.Array,
        keys: jax.Array | None = None,
        looked_up: LookupRows | None = None,
    ) -> jax.Array:
        """(B, T) integer tokens to (B, T, vocabulary) float32 logits.

        `keys` are `dropout_sites(config)` keys from `dropout_keys`; without them nothing is dropped.
        `looked_up` replaces what `lookup_rows` gives for the tokens.
        """
        angles = rotary_angles(tokens.shape[1], self.config.head_size, self.dtype)
        rows = self.look_up(tokens, looked_up)
        return self.logits(self.hidden(tokens, rows, angles, keys)[0], rows)

    def look_up(self, tokens: jax.Array, rows: LookupRows | None = None) -> LookupRows | None:
        """What each of the tokens (B, T) of whole windows looks up, and what the placement expects at it; `None`
        without tables. `rows` replace what `lookup_rows` gives for the tokens."""
        if not self.config.prefix_rows:
            return None
        tokens = tokens.astype(jnp.int32)
        rows = rows or lookup_rows(tokens, self.config.prefix_rows)
        if self.placement is None:
            return rows
        slots = read_slots(tokens, rows.placed)
        number = jnp.arange(slots.answered.shape[1])
        earlier = number[None, None, :] < number[None, :, None]
        prior = self.placement.prior(slots)
        expectation = self.placement.expect(self.placement.place(prior), prior, earlier)
        expected = at_tokens(expectation, tokens, rows.rtt_so_far)
        return rows._replace(expected=lax.stop_gradient(expected))

    def placement_loss(self, tokens: jax.Array, looked_up: LookupRows | None = None) -> jax.Array:
        """What the placement, if there is one, is to learn from the windows (B, T), () float32."""
        if self.placement is None:
            return jnp.zeros(())
        tokens = tokens.astype(jnp.int32)
        rows = looked_up or lookup_rows(tokens, self.config.prefix_rows)
        return placement_loss(self.placement, read_slots(tokens, rows.placed))

    def hidden(
        self,
        tokens: jax.Array,
        rows: LookupRows | None,
        angles: Angles,
        keys: jax.Array | None = None,
        cache: LayerCache | None = None,
    ) -> tuple[jax.Array, Any]:
        """(B, T) integer tokens to the residual (B, T, C) after the last block, for `logits`.

        `rows` are what the tokens look up, as `look_up` gives it for whole windows; `angles` are those of
        the tokens' positions. With a `cache`, whose arrays have a leading axis of layers, it decides what
        the tokens attend to, and the second result is what it keeps of them, stacked the same way; without
        one, they attend to each other, and the second result is `None`.
        """
        keys = keys if self.config.dropout > 0 else None
        x = self._embed(tokens, rows)
        x = dropout(x, self.config.dropout, None if keys is None else keys[0])
        block_keys = None if keys is None else keys[1:].reshape(self.config.layers, 2, 2)
        return self._run_blocks(x, angles, block_keys, cache)

    def logits(self, x: jax.Array, rows: LookupRows | None) -> jax.Array:
        """Residual (B, T, C), and what its tokens look up, to (B, T, vocabulary) float32: the final norm
        and the head.

        The padding is cut off again before anyone sees it, so no probability can land there.
        """
        x = self.final_norm(x)
        head = self.head[...].astype(self.dtype)
        if jax.default_backend() != "cpu":  # where the padding would only cost
            head = _pad_to_multiple(head, 1)
        flat = x.reshape(-1, x.shape[-1])  # as in `Linear`
        logits = jnp.matmul(flat, head, preferred_element_type=jnp.float32)
        logits = logits.reshape(*x.shape[:-1], -1)[..., : self.config.vocabulary]
        for of_numbers in (self.nearness, self.placement):
            if of_numbers is not None:
                assert rows is not None
                logits += of_numbers(x, rows)
        return logits

    def with_stacked_layers(self) -> Transformer:
        """The same model for a scan over the layers, with their weights stacked once and for all.

        `self` stays as it is. Costs a second copy of the layers' weights while both are in use.
        """
        copy = nnx.merge(*nnx.split(self))
        graph, weights = self._split_blocks()
        copy.blocks = nnx.List([nnx.merge(graph, _stack(weights))])
        copy.layers_are_stacked = True
        return copy

    def _embed(self, tokens: jax.Array, rows: LookupRows | None) -> jax.Array:
        """(B, T) tokens to (B, T, C): their embeddings, and what they look up.

        On accelerators, the embeddings are a product with one-hot rows: its gradient is a product too,
        whereas that of a look-up is a scatter, which is slow and not deterministic on GPUs.
        """
        if jax.default_backend() == "cpu":
            x = self.embedding[...].astype(self.dtype)[tokens]
        else:
            padded = _pad_to_multiple(self.embedding[...], 0).astype(self.dtype)
            x = (
                jax.nn.one_hot(tokens, padded.shape[0], dtype=self.dtype) @ padded
            )  # (B, T, V padded)
        if self.lookups is None:
            return x
        assert rows is not None
        x += self.lookups(rows).astype(self.dtype)
        if self.placement is None:
            return x
        return x + self.placement.embed(rows).astype(self.dtype)

    def _split_blocks(self) -> tuple[Any, list[Any]]:
        """The graph that all blocks share, and the weights of each entry of `blocks`."""
        graphs, weights = zip(*(nnx.split(block) for block in self.blocks), strict=True)
        return graphs[0], list(weights)

    def _run_blocks(
        self, x: jax.Array, angles: Angles, keys: jax.Array | None, cache: LayerCache | None
    ) -> tuple[jax.Array, Any]:
        """All layers, unrolled or as a scan over their stacked weights."""
        graph, weights = self._split_blocks()

        def run(x: jax.Array, layer: tuple[Any, Any, Any]) -> tuple[jax.Array, Any]:
            block: Block = nnx.merge(graph, layer[0])
            return block(x, angles, *layer[1:])

        step = jax.checkpoint(run) if self.config.remat else run
        if self.config.scan or self.layers_are_stacked:
            stacked = weights[0] if self.layers_are_stacked else _stack(weights)
            scanned: tuple[jax.Array, Any] = lax.scan(step, x, (stacked, keys, cache))
            return scanned
        kept = []
        for index, layer in enumerate(weights):
            x, of_layer = step(x, (layer, *jax.tree.map(lambda a, at=index: a[at], (keys, cache))))
            kept.append(of_layer)
        return x, _stack(kept)


def dropout_sites(config: ModelConfig) -> int:
    """Number of places where dropout is applied: the embeddings, and two in every layer."""
    return 1 + 2 * config.layers


def rotary_angles(length: int, head_size: int, dtype: jnp.dtype[Any]) -> Angles:
    """Cosines and sines (1, T, 1, D/2) of rotary positions (Su et al. 2021, arXiv:2104.09864)."""
    frequency = ROPE_BASE ** (-np.arange(0, head_size, 2, dtype=np.float64) / head_size)
    angle = (np.arange(length)[:, None] * frequency)[None, :, None, :]
    return jnp.asarray(np.cos(angle), dtype), jnp.asarray(np.sin(angle), dtype)


def rotate(x: jax.Array, angles: Angles) -> jax.Array:
    """Rotate the channel pairs (i, i + D/2) of `x` (B, T, H, D) by the angles of their position."""
    cos, sin = angles
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


class Linear(nnx.Linear):
    """A matrix without bias, applied to (B, T, C) as to (B · T, C).

    The same numbers, but XLA multiplies the gradients of two axes on CPUs at twice the speed of those of three.
    """

    def __call__(self, x: jax.Array) -> jax.Array:  # type: ignore[override]
        """(B, T, C) to (B, T, outputs)."""
        flat: jax.Array = super().__call__(x.reshape(-1, x.shape[-1]))
        return flat.reshape(*x.shape[:-1], -1)


def _linear(
    fan_in: int, fan_out: int, gain: float, dtype: jnp.dtype[Any], rngs: nnx.Rngs
) -> Linear:
    """A matrix whose weights are normal with standard deviation gain / √fan_in."""
    init = nnx.initializers.normal(gain * fan_in**-0.5)
    return Linear(fan_in, fan_out, use_bias=False, dtype=dtype, kernel_init=init, rngs=rngs)


def _residual_gain(config: ModelConfig) -> float:
    """Keeps the variance of the residual independent of depth at the start of training (GPT-2)."""
    gain: float = (2 * config.layers) ** -0.5
    return gain


def _stack(trees: list[Any]) -> Any:
    """One tree with a leading axis on every array."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _pad_to_multiple(matrix: jax.Array, axis: int) -> jax.Array:
    padding = [(0, 0), (0, 0)]
    padding[axis] = (0, -matrix.shape[axis] % VOCABULARY_ALIGNMENT)
    return jnp.pad(matrix, padding)
