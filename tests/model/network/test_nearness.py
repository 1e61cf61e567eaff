"""The bumps in the logits of an RTT's bytes, around what the last measurement of the pair said."""

from __future__ import annotations

from ipaddress import IPv4Address

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from model.network.lookups import lookup_rows
from model.network.nearness import REACHES, expected_bytes
from model.network.transformer import Transformer
from stores.codec import Measurement, encode_field, encode_rtt
from stores.vocabulary import BYTE0, MEASUREMENT_START, RTT_START, Field
from tests.model.conftest import small_config

A, B, C = (IPv4Address(f"192.0.2.{host}") for host in (1, 2, 3))


def window(*rows: tuple[IPv4Address, IPv4Address, float | None]) -> list[int]:
    """Rows without times whose result comes after both addresses."""
    tokens: list[int] = []
    for source, destination, rtt_ms in rows:
        row = Measurement(source, destination, rtt_ms, None)
        fields = (Field.SOURCE, Field.DESTINATION, Field.RESULT)
        tokens += [
            MEASUREMENT_START,
            *(token for field in fields for token in encode_field(row, field, None)),
        ]
    return tokens


def test_after_a_first_byte_the_expected_second_byte_is_as_far_as_the_whole_rtt_is() -> None:
    tokens = window((A, B, 20.0), (A, B, 20.5), (A, C, 7.0), (A, B, None), (A, B, 30.0))
    centre, known = expected_bytes(lookup_rows(jnp.asarray([tokens]), 1 << 20))
    starts = [at for at, token in enumerate(tokens) if token == RTT_START]
    last, code = encode_rtt(20.0), encode_rtt(20.5)
    assert np.flatnonzero(known[0]).tolist() == [starts[1], starts[1] + 1]
    assert centre[0, starts[1]] == last >> 8
    assert centre[0, starts[1] + 1] + ((code >> 8) << 8) == last


def test_bumps_are_added_to_bytes_of_rtts_alone_and_fall_with_the_distance() -> None:
    config = small_config(dropout=0).model
    model = Transformer(config, jnp.dtype("float32"), "xla", nnx.Rngs(0))
    tokens = jnp.asarray([window((A, B, 20.0), (A, B, 20.5))])
    forward = nnx.jit(lambda model: model(tokens))
    before = forward(model)
    model.nearness.heights[...] = jnp.ones_like(model.nearness.heights[...])
    added = np.asarray(forward(model) - before)
    starts = [at for at, token in enumerate(tokens[0].tolist()) if token == RTT_START]
    changed = np.flatnonzero(np.abs(added[0]).max(axis=-1) > 1e-6)
    assert changed.tolist() == [starts[1], starts[1] + 1]
    first = added[0, starts[1], BYTE0 : BYTE0 + 256]
    centre = encode_rtt(20.0) >> 8
    assert np.all(added[0, starts[1], :BYTE0] == 0)
    shape = sum(np.exp(-np.abs(np.arange(256) - centre) / reach) for reach in REACHES)
    np.testing.assert_allclose(first / first[centre], shape / shape[centre], rtol=1e-4)


def test_a_model_begins_without_bumps_but_learns_them_at_once() -> None:
    model = Transformer(small_config(dropout=0).model, jnp.dtype("float32"), "xla", nnx.Rngs(0))
    tokens = jnp.asarray([window((A, B, 20.0), (A, B, 20.5))])
    assert not model.nearness.heights[...].any()

    def loss(model: Transformer) -> jax.Array:
        return jax.nn.log_softmax(model(tokens)).sum()

    gradient = nnx.jit(nnx.grad(loss))(model).nearness
    assert jnp.abs(gradient.heights[...]).min() > 0
