"""The decoder: RMSNorm before each sublayer, rotary positions, causal attention, GELU MLP, no biases."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from model.config import ModelConfig
from model.network.attention import Implementation, attend
from model.network.dropout import dropout

ROPE_BASE = 10_000.0
VOCABULARY_ALIGNMENT = 64  # matrix units like multiples of it
NORM_EPSILON = 1e-6


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
        self, config: ModelConfig, dtype: jnp.dtype, implementation: Implementation, rngs: nnx.Rngs
    ):
        self.heads = config.heads
        self.implementation = implementation
        self.query_key_value = _linear(config.width, 3 * config.width, 1.0, dtype, rngs)
        self.out = _linear(config.width, config.width, _residual_gain(config), dtype, rngs)

    def __call__(self, x: jax.Array, angles: tuple[jax.Array, jax.Array]) -> jax.Array:
        query, key, value = self.project(x, angles)
        return self.out(attend(query, key, value, self.implementation).reshape(x.shape))

    def project(
        self, x: jax.Array, angles: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(B, T, C) to query, key and value, (B, T, H, D) each, the first two turned by `angles`."""
        batch, length, width = x.shape
        split = (batch, length, 3, self.heads, width // self.heads)
        qkv = self.query_key_value(x).reshape(split)  # (B, T, 3, H, D)
        query, key, value = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        return rotate(query, angles), rotate(key, angles), value


class Block(nnx.Module):
    """One layer: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(
        self, config: ModelConfig, dtype: jnp.dtype, implementation: Implementation, rngs: nnx.Rngs
    ):
        self.dropout = config.dropout
        self.attention_norm = RMSNorm(config.width)
        self.attention = Attention(config, dtype, implementation, rngs)
        self.mlp_norm = RMSNorm(config.width)
        self.mlp_in = _linear(config.width, config.mlp, 1.0, dtype, rngs)
        self.mlp_out = _linear(config.mlp, config.width, _residual_gain(config), dtype, rngs)

    def __call__(
        self, x: jax.Array, angles: tuple[jax.Array, jax.Array], keys: jax.Array | None
    ) -> jax.Array:
        """`x` is (B, T, C); `keys` (2, 2) uint32, one dropout key a sublayer."""
        first, second = (None, None) if keys is None else (keys[0], keys[1])
        x = x + dropout(self.attention(self.attention_norm(x), angles), self.dropout, first)
        return x + dropout(self.feed_forward(x), self.dropout, second)

    def feed_forward(self, x: jax.Array) -> jax.Array:
        """The MLP sublayer, before it is added: (B, T, C) to (B, T, C)."""
        return self.mlp_out(jax.nn.gelu(self.mlp_in(self.mlp_norm(x))))  # inside: (B, T, M)


class Transformer(nnx.Module):
    """Tokens to next-token logits.

    Weights are float32; activations are of `dtype`, logits float32. Embeddings and head are untied.
    """

    def __init__(
        self, config: ModelConfig, dtype: jnp.dtype, implementation: Implementation, rngs: nnx.Rngs
    ) -> None:
        self.config = config
        self.dtype = dtype
        normal = nnx.initializers.normal
        shape = (config.vocabulary, config.width)
        self.embedding = nnx.Param(normal(1.0)(rngs.params(), shape, jnp.float32))
        self.blocks = nnx.List(
            Block(config, dtype, implementation, rngs) for _ in range(config.layers)
        )
        self.final_norm = RMSNorm(config.width)
        # Small, so that training starts from nearly uniform predictions.
        self.head = nnx.Param(
            normal(0.1 * config.width**-0.5)(rngs.params(), shape[::-1], jnp.float32)
        )

    def __call__(self, tokens: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """(B, T) integer tokens to (B, T, vocabulary) float32 logits.

        `keys` are `dropout_sites(config)` keys of `dropout_keys`; without them nothing is dropped.
        """
        keys = keys if self.config.dropout > 0 else None
        x = dropout(self.embed(tokens), self.config.dropout, None if keys is None else keys[0])
        angles = rotary_angles(tokens.shape[1], self.config.head_size, self.dtype)
        block_keys = None if keys is None else keys[1:].reshape(self.config.layers, 2, 2)
        x = self._run_blocks(x, angles, block_keys)
        return self.logits(self.final_norm(x))

    def embed(self, tokens: jax.Array) -> jax.Array:
        """(B, T) tokens to (B, T, C). By a product with one-hot rows: its gradient is a product too,
        where that of a look-up is a scatter, slow on GPUs and not deterministic there."""
        padded = _pad_to_multiple(self.embedding[...], 0).astype(self.dtype)
        one_hot = jax.nn.one_hot(tokens, padded.shape[0], dtype=self.dtype)  # (B, T, V padded)
        return one_hot @ padded

    def logits(self, x: jax.Array) -> jax.Array:
        """(B, T, C) to (B, T, vocabulary) float32. The padding is cut off again before anyone sees it,
        so no probability can land there."""
        padded = _pad_to_multiple(self.head[...], 1).astype(self.dtype)
        return jnp.matmul(x, padded, preferred_element_type=jnp.float32)[
            ..., : self.config.vocabulary
        ]

    def _run_blocks(self, x: jax.Array, angles: Any, keys: jax.Array | None) -> jax.Array:
        """All layers, unrolled or as a scan over their stacked weights."""
        graphs, weights = zip(*(nnx.split(block) for block in self.blocks), strict=True)

        def run(x: jax.Array, layer: tuple[Any, jax.Array | None]) -> tuple[jax.Array, None]:
            return nnx.merge(graphs[0], layer[0])(x, angles, layer[1]), None

        step = jax.checkpoint(run) if self.config.remat else run
        if self.config.scan:
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *weights)
            return lax.scan(step, x, (stacked, keys))[0]
        for index, layer in enumerate(weights):
            x, _ = step(x, (layer, None if keys is None else keys[index]))
        return x


def dropout_sites(config: ModelConfig) -> int:
    """Places that dropout is applied at: the embeddings, and two in every layer."""
    return 1 + 2 * config.layers


def rotary_angles(length: int, head_size: int, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines (1, T, 1, D/2) of rotary positions (Su et al. 2021, arXiv:2104.09864)."""
    frequency = ROPE_BASE ** (-np.arange(0, head_size, 2, dtype=np.float64) / head_size)
    angle = (np.arange(length)[:, None] * frequency)[None, :, None, :]
    return jnp.asarray(np.cos(angle), dtype), jnp.asarray(np.sin(angle), dtype)


def rotate(x: jax.Array, angles: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Turn channel pairs (i, i + D/2) of `x` (B, T, H, D) by their position's angles."""
    cos, sin = angles
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _linear(fan_in: int, fan_out: int, gain: float, dtype: jnp.dtype, rngs: nnx.Rngs) -> nnx.Linear:
    """A matrix without bias: normal weights of deviation gain / √fan_in."""
    init = nnx.initializers.normal(gain * fan_in**-0.5)
    return nnx.Linear(fan_in, fan_out, use_bias=False, dtype=dtype, kernel_init=init, rngs=rngs)


def _residual_gain(config: ModelConfig) -> float:
    """Keeps the residual's variance independent of depth at the start (GPT-2)."""
    return (2 * config.layers) ** -0.5


def _pad_to_multiple(matrix: jax.Array, axis: int) -> jax.Array:
    padding = [(0, 0), (0, 0)]
    padding[axis] = (0, -matrix.shape[axis] % VOCABULARY_ALIGNMENT)
    return jnp.pad(matrix, padding)
