"""Kinds of vantage points: against the plain formulas, and that measurements tell which one a source is."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from model.config import ModelConfig
from model.network.kinds import signs
from model.network.lookups import NO_BYTE_YET, mix
from model.network.placement import Expectation, Placement, roots
from model.network.slots import Slots
from tests.model.conftest import small_config
from tests.model.network.test_placement import ROWS, expectations, learned, slots_of, window

CONFIG: ModelConfig = small_config(dropout=0, prefix_rows=4096, context=256, source_kinds=3).model


def random_placement() -> Placement:
    placement = Placement(CONFIG)
    random = np.random.default_rng(0)
    tables = [placement.of_source, placement.of_destination]
    for table in (*tables, placement.kinds.queries, placement.kinds.table, placement.kinds.share):
        table[...] = jnp.asarray(random.normal(0, 0.2, table[...].shape), jnp.float32)
    placement.kinds.trust[...] = jnp.full(1, -0.7, jnp.float32)
    return placement


def alone(placement: Placement, level: jax.Array) -> Placement:
    """The same without kinds, for one whose level is added to the mean."""
    copy = nnx.clone(placement)
    copy.kinds = nnx.data(None)
    copy.mean[...] += level
    return copy


def test_each_kind_expects_what_the_regression_expects_of_what_it_leaves() -> None:
    placement, slots = random_placement(), slots_of(window(*ROWS))
    placement.kinds.table[...] = -0.04 * signs(*placement.kinds.table[...].shape)  # no means at all
    found = expectations(placement, slots)
    for kind in range(3):
        of_kind = expectations(alone(placement, placement.kinds.level[...][kind]), slots)
        here = slice(0, len(ROWS))
        np.testing.assert_allclose(
            found.mean[0, here, kind], of_kind.mean[0, here, 0], rtol=1e-4, atol=1e-4
        )
        np.testing.assert_allclose(found.deviation[0, here], of_kind.deviation[0, here], rtol=1e-5)


def test_a_kind_weighs_as_much_as_its_address_and_its_measurements_make_it_likely() -> None:
    placement, slots = random_placement(), slots_of(window(*ROWS))
    found = expectations(placement, slots)
    kinds = placement.kinds
    query = np.asarray(kinds.queries[...])[np.asarray(slots.source_prefixes[0, : len(ROWS), :4])]
    prior = query.sum(1) @ np.asarray(kinds.key[...]) + np.asarray(kinds.share[...])
    truth = np.array([np.nan if rtt is None else np.sqrt(rtt / 50) for *_, rtt in ROWS])
    sources = np.array([source for source, *_ in ROWS])
    for i in range(len(ROWS)):
        log = prior[i].copy()
        for j in range(i):
            if sources[j] == sources[i] and not np.isnan(truth[j]):
                # Each is as likely as it was expected by what came before it.
                error = (truth[j] - np.asarray(found.mean[0, j])) / float(found.deviation[0, j])
                log += np.exp(-0.7) * -0.5 * error**2
        weight = np.exp(log - log.max())
        np.testing.assert_allclose(
            np.exp(found.log_weight[0, i]), weight / weight.sum(), rtol=2e-2, atol=1e-4
        )


def test_nothing_that_comes_later_or_from_another_source_changes_an_expectation() -> None:
    placement = random_placement()
    first = expectations(placement, slots_of(window(*ROWS, (1, 14, 70.0), (1, 15, 2.0))))
    later = expectations(placement, slots_of(window(*ROWS, (1, 16, 900.0), (3, 15, None))))
    for a, b in zip(first, later, strict=True):
        np.testing.assert_array_equal(a[0, : len(ROWS)], b[0, : len(ROWS)])
    lonely = expectations(placement, slots_of(window((1, 13, 44.0))))
    others = expectations(placement, slots_of(window((2, 13, 90.0), (3, 10, 1.0), (1, 13, 44.0))))
    for a, b in zip(lonely, others, strict=True):
        np.testing.assert_allclose(a[0, 0], b[0, 2], rtol=1e-6, atol=1e-6)


def test_bytes_are_expected_as_the_kinds_expect_them_by_their_weights() -> None:
    mean = jnp.array([0.5, 1.5], jnp.float32)
    both = Expectation(mean, jnp.log(jnp.array([0.3, 0.7])), jnp.float32(0.05))
    each = [
        Expectation(mean[k : k + 1], jnp.zeros(1), jnp.float32(0.05)).of_next(
            jnp.int32(NO_BYTE_YET)
        )
        for k in (0, 1)
    ]
    mixed = 0.3 * each[0] + 0.7 * each[1]
    np.testing.assert_allclose(both.of_next(jnp.int32(NO_BYTE_YET)), mixed, atol=1e-5)


def test_signs_of_a_row_differ_between_columns_and_the_first_32_are_bits_of_one_hash() -> None:
    found = np.asarray(signs(64, 100))
    assert set(np.unique(found)) == {-1, 1}
    assert len(np.unique(found, axis=1).T) == 100
    bits = np.asarray(mix(jnp.arange(64, dtype=jnp.uint32)))[:, None] >> np.arange(32) & 1
    np.testing.assert_array_equal(found[:, :32], 2.0 * bits - 1)  # what older models started from


def test_two_measurements_tell_which_kind_a_source_is() -> None:
    """RTTs of three kinds have nothing to do with each other, so features of few numbers cannot hold them."""
    random = np.random.default_rng(0)
    rtts = random.uniform(5, 200, (3, 12))

    def draw(first: int, count: int) -> Slots:
        windows = []
        for source in range(first, first + count):
            kind = random.integers(3)
            chosen = random.choice(12, 4, replace=False)
            windows.append(window(*((source, 100 + int(d), rtts[kind, d]) for d in chosen)))
        return slots_of(jnp.concatenate(windows))

    draws = (draw(1000 + 16 * turn, 16) for turn in range(200))
    placement = learned(Placement(CONFIG), draws, rate=0.03)
    asked = draw(6000, 64)
    found = expectations(placement, asked)
    likeliest = jnp.take_along_axis(found.mean, found.log_weight.argmax(-1)[..., None], -1)[..., 0]
    error = np.abs(likeliest - roots(asked.first, asked.second))[:, :4]
    assert np.median(error[:, 3]) < 0.2 * np.median(error[:, 0])


@pytest.mark.parametrize("kinds", [-1, 1025])
def test_a_number_of_kinds_out_of_range_is_named(kinds: int) -> None:
    from stores.errors import ConfigError

    with pytest.raises(ConfigError, match=f"source_kinds {kinds}: expected 0 to 1024"):
        small_config(source_kinds=kinds)
