"""Causal self-attention: cuDNN's fused kernel, requested by name, or the plain form."""

from __future__ import annotations

import functools
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from model.config import ModelConfig
from stores.errors import ConfigError

Implementation = Literal["cudnn", "xla"]


class LayerCache(Protocol):
    """Keys and values of earlier tokens, for one layer; `model.network.kv_cache` has the kinds.

    A pytree, so that a scan can hand each layer its own.
    """

    def attend(
        self, query: jax.Array, key: jax.Array, value: jax.Array, implementation: Implementation
    ) -> tuple[jax.Array, Any]:
        """Attention of new tokens, all (B, T, H, D), and a pytree of what to keep of them."""


BLOCKS = 4


def attend(
    query: jax.Array, key: jax.Array, value: jax.Array, implementation: Implementation
) -> jax.Array:
    """Softmax(QKᵀ / √D) V over the positions up to and including each one; all (B, T, H, D). The
    softmax is in float32.

    `implementation` is "cudnn" (bfloat16 on an NVIDIA GPU) or "xla" (anywhere). The choice is not left
    to JAX, whose default is silently the plain form.
    """
    if implementation == "xla":
        return _attend_in_blocks(query, key, value)
    with jax.numpy_dtype_promotion("standard"):  # JAX's own code mixes bfloat16 and float32
        return jax.nn.dot_product_attention(
            query, key, value, is_causal=True, implementation=implementation
        )


def _attend_in_blocks(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """The plain form of `attend`, which does not look at most of what lies ahead: `BLOCKS` parts of the queries,
    each on the keys up to its end. With its gradient it takes 0.43 of the time of `jax.nn.dot_product_attention`
    (8 windows of 256 tokens, two heads of 64 channels, one CPU core).
    """
    batch, length, heads, size = query.shape
    query, key, value = (
        x.swapaxes(1, 2).reshape(-1, length, size) for x in (query * size**-0.5, key, value)
    )  # (B · H, T, D)
    step = -(-length // BLOCKS)
    blocks = []
    for start in range(0, length, step):
        stop = min(start + step, length)
        scores = jnp.einsum(
            "ntd,nsd->nts",
            query[:, start:stop],
            key[:, :stop],
            preferred_element_type=jnp.float32,
        )
        past = np.arange(stop) <= np.arange(start, stop)[:, None]
        weights = jax.nn.softmax(jnp.where(past, scores, -jnp.inf), axis=-1)
        blocks.append(weights.astype(value.dtype) @ value[:, :stop])
    attended = jnp.concatenate(blocks, axis=1).reshape(batch, heads, length, size)
    return attended.swapaxes(1, 2)


def choose_attention(
    config: ModelConfig, dtype: jnp.dtype[Any]
) -> tuple[Implementation, str | None]:
    """The implementation to use on this process's device, and a line to print if it is a fallback.

    Raises `ConfigError` if `config.attention` is "cudnn" and cuDNN does not work here.
    """
    wanted = config.attention
    if wanted == "xla" or (wanted == "auto" and jax.default_backend() != "gpu"):
        return "xla", None
    problem = probe_cudnn(config.heads, config.head_size, dtype.name)
    if problem is None:
        return "cudnn", None
    if wanted == "cudnn":
        raise ConfigError(f"attention cudnn: not on this device ({problem}): use attention=xla")
    return "xla", f"cuDNN attention does not work here ({problem}): SLOW plain attention instead"


@functools.cache
def probe_cudnn(heads: int, head_size: int, dtype: str) -> str | None:
    """Why cuDNN attention fails here, forward or backward; `None` if it works. Runs once per process."""
    if jax.default_backend() != "gpu":
        return f"it needs a GPU, this is {jax.default_backend()}"

    def total(x: jax.Array) -> jax.Array:
        return attend(x, x, x, "cudnn").astype(jnp.float32).sum()

    try:
        x = jnp.ones((1, 128, heads, head_size), jnp.dtype(dtype))
        jax.jit(jax.grad(total))(x).block_until_ready()
    except Exception as error:
        # The build, the driver or the shape may raise anything; the caller falls back, loudly.
        return f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
    return None
