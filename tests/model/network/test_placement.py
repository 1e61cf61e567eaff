"""What the measurements of a window say of an RTT to come, against the plain formulas."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from model.config import ModelConfig
from model.network.lookups import NO_BYTE_YET, lookup_rows
from model.network.placement import Expectation, Placement, placement_loss, roots
from model.network.slots import Slots, read_slots
from model.network.transformer import Transformer
from stores.codec import Measurement, encode_field, encode_rtt
from stores.vocabulary import BYTE0, MEASUREMENT_START, RTT_START, Field
from tests.model.conftest import small_config

IN_ORDER = (Field.SOURCE, Field.DESTINATION, Field.RESULT)
RESULT_FIRST = (Field.RESULT, Field.SOURCE, Field.DESTINATION)
CONFIG: ModelConfig = small_config(dropout=0, prefix_rows=4096, context=256, source_kinds=0).model

Row = tuple[int, int, float | None]


def address(number: int) -> IPv4Address | IPv6Address:
    return IPv4Address(0x0A000000 + number * 0x10101)


def window(*rows: Row, fields: tuple[Field, ...] = IN_ORDER) -> jax.Array:
    """Rows of source, destination and RTT in ms, without times; (1, T)."""
    tokens: list[int] = []
    for source, destination, rtt_ms in rows:
        row = Measurement(address(source), address(destination), rtt_ms, None)
        tokens.append(MEASUREMENT_START)
        tokens += [token for field in fields for token in encode_field(row, field, None)]
    return jnp.asarray([tokens], jnp.int32)


@jax.jit
def slots_of(tokens: jax.Array) -> Slots:
    return read_slots(tokens, lookup_rows(tokens, CONFIG.prefix_rows).prefix)


def random_placement(seed: int = 0) -> Placement:
    placement = Placement(CONFIG)
    random = np.random.default_rng(seed)
    for table in (placement.of_source, placement.of_destination):
        table[...] = jnp.asarray(random.normal(0, 0.2, table[...].shape), jnp.float32)
    return placement


@nnx.jit
def expectations(placement: Placement, slots: Slots) -> Expectation:
    number = jnp.arange(slots.answered.shape[1])
    earlier = number[None, None, :] < number[None, :, None]
    prior = placement.prior(slots)
    return placement.expect(placement.place(prior), prior, earlier)


def learned(placement: Placement, draws: Iterable[Slots], rate: float) -> Placement:
    """It, after a step on each of the draws."""
    graph, weights = nnx.split(placement)
    optimizer = optax.adam(rate)
    state = optimizer.init(weights)

    @jax.jit
    def step(weights, state, slots):  # type: ignore[no-untyped-def]
        gradient = jax.grad(lambda w: placement_loss(nnx.merge(graph, w), slots))(weights)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(weights, updates), state

    for slots in draws:
        weights, state = step(weights, state, slots)
    merged: Placement = nnx.merge(graph, weights)
    return merged


ROWS: tuple[Row, ...] = (
    (1, 10, 20.0),
    (1, 11, 35.0),
    (2, 10, 150.0),
    (1, 12, None),
    (1, 10, 21.0),
    (2, 13, 90.0),
    (1, 13, 44.0),
)


def test_slots_are_the_measurements_of_a_window_in_order() -> None:
    for fields in (IN_ORDER, RESULT_FIRST):
        slots = slots_of(window(*ROWS, fields=fields))
        assert slots.answered[0, : len(ROWS)].tolist() == [rtt is not None for *_, rtt in ROWS]
        assert not slots.answered[0, len(ROWS) :].any()
        for at, (_, _, rtt_ms) in enumerate(ROWS):
            if rtt_ms is not None:
                code = encode_rtt(rtt_ms)
                assert (slots.first[0, at], slots.second[0, at]) == (code >> 8, code & 255)
        for hashes, column in ((slots.source, 0), (slots.destination, 1)):
            numbers = [row[column] for row in ROWS]
            found = hashes[0, : len(ROWS)].tolist()
            assert [found.index(one) for one in found] == [numbers.index(one) for one in numbers]
        assert (slots.source_prefixes[0, : len(ROWS), :4] >= 0).all()
        assert (slots.source_prefixes[0, :, 4:] == -1).all()


def test_an_expectation_is_that_of_the_plain_formula_of_gaussian_processes() -> None:
    placement, slots = random_placement(), slots_of(window(*ROWS))
    expectation = expectations(placement, slots)
    mean, deviation = expectation.mean[..., 0], expectation.deviation
    scale, coefficient, own, noise = np.exp(np.asarray(placement.variances[...], np.float64))

    def sums(table: jax.Array, rows: jax.Array) -> np.ndarray:
        of_rows = np.asarray(table, np.float64)[np.asarray(rows[0, : len(ROWS)])]
        return np.where(np.asarray(rows[0, : len(ROWS)] >= 0)[..., None], of_rows, 0).sum(1)

    source = sums(placement.of_source[...], slots.source_prefixes)
    destination = sums(placement.features(), slots.destination_prefixes)
    features = destination[:, :-2]
    prior = 1 + (source[:, :-2] * features).sum(1) + source[:, -1] + destination[:, -1]
    noise = noise * np.exp(destination[:, -2])
    truth = np.array([np.nan if rtt is None else np.sqrt(rtt / 50) for *_, rtt in ROWS])
    s, d = (np.array([row[i] for row in ROWS]) for i in (0, 1))

    def covariance(i: int, j: int) -> float:
        alike = np.exp(source[i, -2]) * (scale + coefficient * features[i] @ features[j])
        return float((s[i] == s[j]) * (alike + own * (d[i] == d[j])))

    for i in range(len(ROWS)):
        before = [j for j in range(i) if not np.isnan(truth[j])]
        matrix = np.array([[covariance(a, b) for b in before] for a in before]).reshape(
            len(before), len(before)
        )
        matrix += np.diag(noise[before])
        cross = np.array([covariance(a, i) for a in before])
        solved = np.linalg.solve(matrix, np.stack([truth[before] - prior[before], cross], 1))
        assert mean[0, i] == pytest.approx(prior[i] + cross @ solved[:, 0], abs=2e-3)
        variance = covariance(i, i) - cross @ solved[:, 1] + noise[i]
        assert deviation[0, i] == pytest.approx(np.sqrt(variance), rel=2e-3)


def test_nothing_that_comes_later_changes_an_expectation() -> None:
    placement = random_placement()
    whole = expectations(placement, slots_of(window(*ROWS, (1, 14, 70.0), (1, 15, 2.0))))
    other = expectations(placement, slots_of(window(*ROWS, (1, 16, 900.0), (3, 15, None))))
    for a, b in zip(whole, other, strict=True):
        np.testing.assert_array_equal(a[0, : len(ROWS)], b[0, : len(ROWS)])


def test_only_answers_of_the_same_source_say_anything() -> None:
    placement = random_placement()
    alone, others, failed = (
        expectations(placement, slots_of(window(*rows, (1, 13, 44.0)))).mean[0, len(rows), 0]
        for rows in ([], [(2, 13, 90.0), (3, 10, 1.0)], [(1, 10, None)])
    )
    told = expectations(placement, slots_of(window((1, 10, 20.0), (1, 13, 44.0)))).mean[0, 1, 0]
    assert alone == others == failed != told


def test_an_rtt_expected_with_certainty_is_expected_as_its_own_bytes() -> None:
    for rtt_ms in (0.001, 0.3, 1.0, 1.023, 1.024, 2.047, 2.048, 7.7, 80.0, 250.0, 999.0):
        code = encode_rtt(rtt_ms)
        first, second = jnp.int32(code >> 8), jnp.int32(code & 255)
        certain = Expectation(roots(first, second)[None], jnp.zeros(1), jnp.float32(1e-6))
        assert certain.of_next(jnp.int32(NO_BYTE_YET)).argmax() == first
        assert certain.of_next(first).argmax() == second


def test_masses_are_distributions_over_bytes_that_occur() -> None:
    mean = jnp.array([[0.001], [0.2], [1.0], [3.0], [40.0]], jnp.float32)
    expected = Expectation(mean, jnp.zeros((5, 1)), jnp.full(5, 0.1, jnp.float32))
    for so_far in (NO_BYTE_YET, 0, 0x4D, 0xFF):
        mass = expected.of_next(jnp.full(5, so_far, jnp.int32))
        np.testing.assert_allclose(mass.sum(1), 1, rtol=1e-3)
        assert (mass >= 0).all()
    never = [byte for byte in range(8, 256) if byte & 7 < 4]
    first = expected.of_next(jnp.full(5, NO_BYTE_YET, jnp.int32))
    assert first[:3, jnp.array(never)].max() < 1e-5


def test_a_model_begins_without_its_expectations_but_reads_them_at_once() -> None:
    model = Transformer(CONFIG, jnp.dtype("float32"), "xla", nnx.Rngs(0))
    plain = Transformer(
        small_config(dropout=0, prefix_rows=4096, context=256, placement=0).model,
        jnp.dtype("float32"),
        "xla",
        nnx.Rngs(0),
    )
    tokens = window(*ROWS)
    np.testing.assert_array_equal(
        nnx.jit(lambda m: m(tokens))(model), nnx.jit(lambda m: m(tokens))(plain)
    )

    def loss(model: Transformer) -> jax.Array:
        return jax.nn.log_softmax(model(tokens))[..., BYTE0 + 70].sum()

    gradient = nnx.jit(nnx.grad(loss))(model).placement
    assert jnp.abs(gradient.height[...]).max() > 0
    assert jnp.abs(gradient.expected[...]).max() > 0
    for own in (gradient.of_source, gradient.of_destination, gradient.variances, gradient.mean):
        assert not own[...].any()  # the transformer's loss does not move the places


def test_expectations_reach_only_the_tokens_between_both_addresses_and_the_result() -> None:
    model = Transformer(CONFIG, jnp.dtype("float32"), "xla", nnx.Rngs(0))
    tokens = window(*ROWS)
    known = nnx.jit(lambda m: m.look_up(tokens))(model).expected.known
    starts = [at for at, token in enumerate(tokens[0].tolist()) if token == RTT_START]
    answered = {at + i for at in starts for i in (-1, 0, 1)}
    found = set(np.flatnonzero(known[0]).tolist())
    assert answered <= found
    failed = 1  # the last byte of the destination of the row that has no answer
    assert len(found) == len(answered) + failed
    late = window(*ROWS, fields=RESULT_FIRST)
    assert not nnx.jit(lambda m: m.look_up(late))(model).expected.known.any()


def test_it_learns_to_place_a_source_that_it_has_never_seen() -> None:
    """RTTs are (1 + position of source · position of destination)², on a line."""
    random = np.random.default_rng(0)
    line = random.uniform(-1, 1, 40)

    def draw(sources: list[int]) -> Slots:
        windows = []
        for source in sources:
            place = random.uniform(-0.8, 0.8)
            chosen = 100 + random.choice(40, 8, replace=False)
            rtts = [50 * (1 + place * line[d - 100]) ** 2 for d in chosen]
            windows.append(
                window(*((source, int(d), r) for d, r in zip(chosen, rtts, strict=True)))
            )
        return slots_of(jnp.concatenate(windows))

    draws = (draw([1000 + 8 * turn + i for i in range(8)]) for turn in range(150))
    placement = learned(Placement(CONFIG), draws, rate=0.02)
    asked = draw([5000 + i for i in range(32)])
    mean = expectations(placement, asked).mean[..., 0]
    error = np.abs(mean - roots(asked.first, asked.second))[:, :8]
    assert np.median(error[:, 7]) < 0.3 * np.median(error[:, 0])
