"""One forward with a cache or without, in every way of running the layers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from model.network.kv_cache import CachedTransformer, ReadCache
from model.network.transformer import Transformer, rotary_angles
from tests.model.conftest import small_config

TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 267, (2, 64)), jnp.int32)


def small_model(**overrides: object) -> Transformer:
    config = small_config(layers=2, **overrides).model
    return Transformer(config, jnp.dtype("float32"), "xla", nnx.Rngs(0))


@nnx.jit
def logits_of(model: Transformer) -> jax.Array:
    return model(TOKENS)


def test_the_model_that_a_cache_is_made_of_stays_whole() -> None:
    model = small_model()
    before = jax.tree.map(np.asarray, nnx.state(model))
    logits = logits_of(model)
    cached = CachedTransformer(model)
    after = nnx.state(model)
    jax.tree.map(np.testing.assert_array_equal, before, after)
    np.testing.assert_array_equal(logits_of(model), logits)
    lengths = jnp.full(2, 64, jnp.int32)
    last_two, _ = jax.jit(cached.read)(cached.weights, TOKENS, lengths)
    np.testing.assert_allclose(last_two, logits[:, -2:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("how", [{}, {"scan": True}, {"remat": True}])
def test_every_way_to_run_the_layers_keeps_the_same_past(how: dict[str, bool]) -> None:
    """The form with stacked layers, which answers questions, is the twin."""
    model = small_model(**how)
    angles = rotary_angles(64, model.config.head_size, model.dtype)
    plain, stacked = (
        nnx.jit(lambda m: m.hidden(TOKENS, m.look_up(TOKENS), angles, cache=ReadCache()))(m)
        for m in (model, model.with_stacked_layers())
    )
    keys = plain[1][0]
    assert keys.shape == (2, 2, 64, model.config.heads, model.config.head_size)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(stacked), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
