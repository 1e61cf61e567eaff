"""Causal self-attention: cuDNN's fused kernel asked for by name, or the plain form."""

from __future__ import annotations

import functools
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp

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


def attend(
    query: jax.Array, key: jax.Array, value: jax.Array, implementation: Implementation
) -> jax.Array:
    """Softmax(QKᵀ / √D) V over the positions up to each one; all (B, T, H, D), softmax in float32.

    `implementation` is "cudnn" (bfloat16 on an NVIDIA GPU) or "xla" (anywhere). Never left to JAX:
    its default is silently the plain form.
    """
    with jax.numpy_dtype_promotion("standard"):  # its own arithmetic mixes bfloat16 and float32
        return jax.nn.dot_product_attention(
            query, key, value, is_causal=True, implementation=implementation
        )


def choose_attention(config: ModelConfig, dtype: jnp.dtype) -> tuple[Implementation, str | None]:
    """The implementation to use on this process's device, and a line to print when it is a fallback.

    Raises `ConfigError` when `config.attention` names cuDNN and it does not work here.
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
    """Why cuDNN attention fails here, forward or backward; `None` when it works. Once a process."""
    if jax.default_backend() != "gpu":
        return f"it needs a GPU, this is {jax.default_backend()}"

    def total(x: jax.Array) -> jax.Array:
        return attend(x, x, x, "cudnn").astype(jnp.float32).sum()

    try:
        x = jnp.ones((1, 128, heads, head_size), jnp.dtype(dtype))
        jax.block_until_ready(jax.jit(jax.grad(total))(x))
    except Exception as error:
        # Whatever the build, driver or shape raises: the caller falls back, loudly.
        return f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
    return None
