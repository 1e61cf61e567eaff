"""What tokens look up, against a plain walk over the measurements."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from model.network.lookups import LONGEST_MEASUREMENT, lookup_rows
from model.network.transformer import Transformer
from stores.codec import encode_window
from stores.vocabulary import BYTE0, FAILED, PAYLOAD_BYTES, RTT_START
from tests.helpers import random_measurements
from tests.model.conftest import small_config

ROWS = 2**20  # so many that two prefixes of a test do not share one

NUMBERS = ("first", "second")

look_up = jax.jit(lookup_rows, static_argnums=1)


def windows(count: int = 6, length: int = 256) -> np.ndarray:
    """Windows of measurements that repeat some addresses, with times and without, (count, length)."""
    rows = []
    for seed in range(count):
        items = random_measurements(12, seed) * 2
        tokens = encode_window([(item, at % 3 > 0) for at, item in enumerate(items)])
        rows.append((tokens + [0] * length)[:length])
    return np.array(rows, np.int32)


def walk(row: np.ndarray) -> list[dict[str, object]]:
    """What each token of a window is to look up, as the bytes themselves; missing: nothing."""
    found: list[dict[str, object]] = []
    carried: dict[str, object] = {}
    results: dict[object, dict[str, object]] = {}  # of earlier measurements, by pair
    role, payload = 0, b""
    for token in row.tolist():
        now: dict[str, object] = {}
        if token < BYTE0:
            role, payload = token, b""
            if token == 0:
                if {"source", "destination", "first"} <= carried.keys():
                    pair = carried["source"], carried["destination"]
                    results[pair] = {f"last_{n}": carried[n] for n in NUMBERS if n in carried}
                carried = {}
            if token == FAILED:
                carried["first"] = "failed"
        else:
            payload += bytes([token - BYTE0])
            if 1 <= role <= 4:
                now["prefix"] = (role, payload)
            if len(payload) == PAYLOAD_BYTES[role]:
                if role in (1, 2):
                    carried["source"] = (role, payload)
                elif role in (3, 4):
                    carried["destination"] = (role, payload)
                elif role == RTT_START:
                    carried["first"], carried["second"] = payload[0], payload[1]
        pair = carried.get("source"), carried.get("destination")
        found.append(now | carried | results.get(pair, {}))
    return found


def test_equal_prefixes_share_a_row_and_others_do_not() -> None:
    tokens = windows()
    rows = look_up(jnp.asarray(tokens), ROWS)
    prefix = np.asarray(rows.prefix)
    row_of: dict[object, int] = {}
    for at, row in enumerate(tokens):
        for place, expected in enumerate(walk(row)):
            if "prefix" not in expected:
                assert prefix[at, place] == -1
            else:
                assert row_of.setdefault(expected["prefix"], prefix[at, place]) == prefix[at, place]
    assert len(set(row_of.values())) == len(row_of) > 200
    assert all(0 <= row < ROWS for row in row_of.values())


def test_a_measurement_carries_what_is_complete_and_recalls_the_last_one_of_its_pair() -> None:
    tokens = windows(length=700)
    rows = jax.tree.map(np.asarray, look_up(jnp.asarray(tokens), ROWS))
    assert (rows.last_first >= 0).sum() > 100
    whole: dict[object, int] = {}
    for at, row in enumerate(tokens):
        expected = walk(row)
        for place, values in enumerate(expected):
            if "prefix" in values:
                whole[values["prefix"]] = rows.prefix[at, place]
        for place, values in enumerate(expected):
            for field in ("source", "destination"):
                carried = whole[values[field]] if field in values else -1
                assert getattr(rows, field)[at, place] == carried
            first = values.get("first", -1)
            assert rows.first[at, place] == (512 if first == "failed" else first)
            assert rows.second[at, place] == (
                256 + int(values["second"]) if "second" in values else -1
            )


def test_the_last_46_tokens_are_enough() -> None:
    tokens = windows()
    whole = look_up(jnp.asarray(tokens), 1000)
    for end in range(LONGEST_MEASUREMENT, 256):
        tail = look_up(jnp.asarray(tokens[:, end - LONGEST_MEASUREMENT : end]), 1000)
        for name in ("prefix", "source", "destination", "first", "second"):
            a, b = getattr(whole, name), getattr(tail, name)
            np.testing.assert_array_equal(a[:, end - 1], b[:, -1])


def test_the_tables_are_small_and_every_row_is_used() -> None:
    tokens = jnp.asarray(windows())
    rows = np.asarray(look_up(tokens, 8).prefix)
    assert set(np.unique(rows)) == {-1, *range(8)}


def test_a_model_begins_as_if_it_had_no_tables() -> None:
    tokens = jnp.asarray(windows(2, 64))
    plain, with_tables = (
        Transformer(
            small_config(layers=2, prefix_rows=rows).model, jnp.dtype("float32"), "xla", nnx.Rngs(0)
        )
        for rows in (0, 64)
    )
    forward = nnx.jit(lambda model: model(tokens))
    np.testing.assert_array_equal(forward(plain), forward(with_tables))


def test_rows_are_changed_only_if_they_are_looked_up() -> None:
    tokens = jnp.asarray(windows(1, 600))
    config = small_config(layers=1, prefix_rows=4096).model
    model = Transformer(config, jnp.dtype("float32"), "xla", nnx.Rngs(0))

    def loss(model: Transformer) -> jax.Array:
        return (model(tokens) ** 2).sum()

    gradient = nnx.jit(nnx.grad(loss))(model).lookups
    rows = jax.tree.map(np.asarray, look_up(tokens, 4096))
    for table, used in (
        (gradient.prefix, rows.prefix),
        (gradient.carried, np.concatenate([rows.source, rows.destination])),
        (gradient.result, np.concatenate([rows.first, rows.second])),
        (gradient.last, np.concatenate([rows.last_first, rows.last_second])),
    ):
        changed = np.flatnonzero(np.abs(np.asarray(table[...])).sum(axis=1))
        assert set(changed) == set(np.unique(used)) - {-1}
