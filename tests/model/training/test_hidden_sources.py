"""Windows under false source addresses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from model.network.lookups import lookup_rows
from model.network.token_places import token_places
from model.training.hidden_sources import draw_disguise, hide_sources
from stores.codec import decode_window, encode_window
from stores.vocabulary import SRC_IPV4, SRC_IPV6
from tests.helpers import random_measurements
from tests.model.conftest import small_config

CONFIG = small_config(prefix_rows=2**20).model


def rows_of(window: int) -> list[int]:
    """Tokens of five measurements, of which two are from one source."""
    items = random_measurements(4, window)
    return encode_window([(m, at % 2 == 0) for at, m in enumerate([*items, items[0]])])


def windows() -> tuple[np.ndarray, list[int]]:
    tokens, lengths = np.zeros((64, 256), np.int32), []
    for row in range(64):
        line = rows_of(row)
        tokens[row, : len(line)] = line
        lengths.append(len(line))
    return tokens, lengths


def test_only_sources_change_and_alike_over_a_window() -> None:
    tokens, lengths = windows()
    disguise = draw_disguise(0, jnp.int32(5), 64, 0.5)
    hidden, _ = jax.jit(hide_sources, static_argnums=2)(jnp.asarray(tokens), disguise, CONFIG)
    hidden = np.asarray(hidden)
    changed = 0
    for row, length in enumerate(lengths):
        before = decode_window(tokens[row].astype(np.uint16), length)
        after = decode_window(hidden[row].astype(np.uint16), length)
        false: dict[object, object] = {}
        for a, b in zip(before, after, strict=True):
            assert (a.dst, a.rtt_ms, a.time) == (b.dst, b.rtt_ms, b.time)
            assert false.setdefault(a.src, b.src) == b.src
            assert (a.src != b.src) == bool(disguise.hidden[row])
            size = len(a.src.packed)
            kept = size // 4 * int(disguise.quarters[row])
            assert a.src.packed[:kept] == b.src.packed[:kept]
        changed += before != after
    assert 20 < changed < 44


def test_no_false_address_is_looked_up() -> None:
    tokens = jnp.asarray(windows()[0])
    disguise = draw_disguise(1, jnp.int32(0), 64, 0.5)
    hidden, rows = hide_sources(tokens, disguise, CONFIG)
    assert rows is not None
    plain = lookup_rows(tokens, CONFIG.prefix_rows)
    changed = np.asarray(hidden != tokens)
    assert (np.asarray(rows.prefix)[changed] == -1).all()
    np.testing.assert_array_equal(
        np.asarray(rows.prefix)[~changed], np.asarray(plain.prefix)[~changed]
    )
    under_cover = np.asarray(disguise.hidden)
    assert (np.asarray(rows.source)[under_cover] == -1).all()
    np.testing.assert_array_equal(
        np.asarray(rows.source)[~under_cover], np.asarray(plain.source)[~under_cover]
    )
    for field in ("destination", "first", "second"):
        np.testing.assert_array_equal(getattr(rows, field), getattr(plain, field))


def test_the_placement_looks_up_what_is_kept_of_a_source_in_every_window() -> None:
    tokens = jnp.asarray(windows()[0])
    disguise = draw_disguise(1, jnp.int32(0), 64, 0.5)
    _, rows = hide_sources(tokens, disguise, CONFIG)
    assert rows is not None
    plain = np.asarray(lookup_rows(tokens, CONFIG.prefix_rows).placed)
    role, distance = map(np.asarray, token_places(tokens))
    is_source = (role == SRC_IPV4) | (role == SRC_IPV6)
    size = np.where(role == SRC_IPV4, 4, 16)
    dropped = is_source & (distance > size // 4 * np.asarray(disguise.quarters)[:, None])
    np.testing.assert_array_equal(rows.placed, np.where(dropped, -1, plain))
    assert (dropped & (plain >= 0) & ~np.asarray(disguise.hidden)[:, None]).any()


def test_a_disguise_is_a_function_of_seed_and_step() -> None:
    def masks(seed: int, step: int) -> np.ndarray:
        return np.asarray(draw_disguise(seed, jnp.int32(step), 8, 0.5).masks)

    np.testing.assert_array_equal(masks(0, 3), masks(0, 3))
    assert not np.array_equal(masks(0, 3), masks(0, 4))
    assert not np.array_equal(masks(0, 3), masks(1, 3))
    assert masks(0, 3).min() >= 1
    assert masks(0, 3).max() <= 255


def test_half_of_the_hidden_windows_keep_nothing_of_the_address() -> None:
    disguise = draw_disguise(0, jnp.int32(0), 4000, 1.0)
    shares = np.bincount(np.asarray(disguise.quarters), minlength=4) / 4000
    np.testing.assert_allclose(shares, [1 / 2, 1 / 6, 1 / 6, 1 / 6], atol=0.03)
