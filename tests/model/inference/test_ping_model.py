"""A model's answers against plain forward passes of the same weights, token by token."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.inference.buckets import bucket_length, split_batches
from model.inference.decoding import DRAWS, Bands
from model.inference.ping_model import PingModel
from model.inference.prediction import CODE_MS
from model.inference.query import CompletionQuery, RttQuery, SampleQuery
from model.inference.samples import rtt_band, within_tolerance
from model.inference.weights import Weights, known_first_bytes
from model.network.lookups import lookup_rows
from stores.codec import Measurement, decode_window, encode_rtt, encode_window
from stores.errors import QueryError
from stores.vocabulary import BYTE0, DST_IPV4, DST_IPV6, FAILED, RTT_START
from tests.helpers import random_measurements
from tests.model.inference.plain import CONFIG, V4, V6, Plain, log_softmax, random_weights

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def weights() -> Weights:
    return random_weights(12.0)


@pytest.fixture(scope="module")
def model(weights: Weights) -> PingModel:
    return PingModel(weights)


@pytest.fixture(scope="module")
def plain(weights: Weights) -> Plain:
    return Plain(weights)


def context(count: int, seed: int = 3) -> list[Measurement]:
    items = random_measurements(count, seed)
    return [replace(m, time=None) if at % 3 == 0 else m for at, m in enumerate(items)]


# --- Cache --------------------------------------------------------------------------------------------


def test_cached_logits_are_those_of_a_plain_forward_pass(model: PingModel, plain: Plain) -> None:
    random = np.random.default_rng(0)
    lengths = np.array([5, 64, 40, 17], np.int32)
    windows = [
        encode_window([(m, True) for m in random_measurements(9, seed)])[:64] for seed in range(4)
    ]
    tokens = np.array(windows, np.int32)
    grown = random.integers(0, 267, (4, 3, 5)).astype(np.int32)  # (B, N, steps)
    cached = model.decoder.model
    weights = cached.weights
    logits, past = jax.jit(cached.read)(weights, tokens, lengths)
    for row, length in enumerate(lengths):
        for at in (0, 1):
            expected = plain.logits(tokens[row : row + 1, : length - 1 + at])[0, -1]
            np.testing.assert_allclose(logits[row, at], expected, rtol=1e-4, atol=1e-4)
    branches = cached.no_branches(past, 3, 5)
    grow = jax.jit(cached.grow)
    for step in range(5):
        logits, branches = grow(weights, past, branches, grown[..., step], jnp.int32(step))
        for row, length in enumerate(lengths):
            start = np.broadcast_to(tokens[row, :length], (3, length))
            expected = plain.logits(np.concatenate([start, grown[row, :, : step + 1]], axis=1))[
                :, -1
            ]
            np.testing.assert_allclose(logits[row], expected, rtol=1e-4, atol=1e-4)


def test_the_last_result_of_the_pair_is_recalled_with_a_cache_as_without(
    model: PingModel, plain: Plain
) -> None:
    """The context has the asked pair twice, and the pair the other way round."""
    src, dst = (ip_address(address) for address in V4)
    rows = [
        Measurement(src, dst, 12.0, None),
        Measurement(src, dst, None, None),
        Measurement(dst, src, 80.0, None),
        *context(2),
    ]
    for kept in (rows, [rows[1], rows[0], *rows[2:]], rows[2:]):
        query = RttQuery(*V4, context=kept)
        prompt = query.prompt(CONFIG.context)
        looked_up = lookup_rows(jnp.asarray([prompt]), CONFIG.prefix_rows)
        last = int(looked_up.last_first[0, -1])
        expected = {12.0: encode_rtt(12.0) >> 8, None: 512}
        of_pair = [row for row in kept if (row.src, row.dst) == (src, dst)]
        assert last == (expected[of_pair[-1].rtt_ms] if of_pair else -1)
        shares = np.exp(plain.two_bytes(prompt)).ravel()
        found = model.predict_rtt(*V4, context=kept).code_probabilities
        np.testing.assert_allclose(found, shares, rtol=2e-3, atol=1e-8)


def test_nothing_behind_a_prompt_is_looked_at(model: PingModel) -> None:
    random = np.random.default_rng(1)
    tokens = random.integers(0, 267, (1, 64)).astype(np.int32)
    other = tokens.copy()
    other[:, 30:] = random.integers(0, 267, (1, 34))
    length = np.array([30], np.int32)
    a, b = (model.decoder.rtt_table(model.decoder.read(t, length)) for t in (tokens, other))
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def test_answers_of_one_shape_compile_nothing_more(model: PingModel) -> None:
    model.predict_rtt(*V4)
    before = model.decoder._read._cache_size(), model.decoder._rtt._cache_size()
    model.predict_rtt(*V6)
    model.predict_rtt(*V4, 1_700_000_000, context(1))
    assert (model.decoder._read._cache_size(), model.decoder._rtt._cache_size()) == before


# --- RTT ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pair", "seen"), [(V4, 0), (V4, 2), (V4, 12), (V6, 1)])
def test_the_rtt_distribution_is_that_of_brute_force(
    model: PingModel, plain: Plain, pair: tuple[str, str], seen: int
) -> None:
    query = RttQuery(*pair, 1_700_200_000, context(seen))
    prompt = query.prompt(CONFIG.context)
    prediction = model.predict_rtt(*pair, 1_700_200_000, context(seen))
    results = log_softmax(plain.logits(np.array([prompt[:-1]]))[0, -1, [RTT_START, FAILED]])
    codes = np.exp(plain.two_bytes(prompt)).ravel()
    assert prediction.p_failed == pytest.approx(np.exp(results[1]), rel=1e-4)
    assert np.abs(prediction.code_probabilities - codes).sum() < 1e-4
    for rtt_ms in (0.5, 30.0, 4000.0):
        expected = results[0] + np.log(codes[encode_rtt(rtt_ms)])
        assert prediction.log_likelihood(rtt_ms) == pytest.approx(expected, abs=1e-3)


def test_probabilities_sum_to_one(model: PingModel) -> None:
    prediction = model.predict_rtt(*V4, context=context(2))
    assert prediction.code_probabilities.shape == (65536,)
    assert prediction.code_probabilities.sum() == pytest.approx(1)
    outcomes = [prediction.log_likelihood(None)]
    values = np.unique(CODE_MS[1:])
    outcomes += [prediction.log_likelihood(rtt) for rtt in values[::50]]
    assert np.exp(outcomes).sum() < 1
    assert prediction.cdf(np.inf) == pytest.approx(1)
    assert prediction.cdf(-1.0) == 0


def test_quantiles_and_cdf_are_each_others_inverse(model: PingModel) -> None:
    prediction = model.predict_rtt(*V4, context=context(2))
    levels = np.linspace(0.001, 0.999, 201)
    values = prediction.quantile(levels)
    assert (np.diff(values) >= 0).all()
    assert (prediction.cdf(values) >= levels - 1e-12).all()
    assert (prediction.cdf(np.nextafter(values, 0)) < levels).all()
    assert prediction.median_ms == prediction.quantile(0.5)
    assert isinstance(prediction.quantile(0.5), float)
    assert isinstance(prediction.cdf(10.0), float)
    with pytest.raises(ValueError, match="levels from 0 to 1"):
        prediction.quantile([0.5, 1.5])
    with pytest.raises(QueryError, match="rtt_ms nan"):
        prediction.log_likelihood(float("nan"))


def test_a_model_knows_first_bytes_by_their_rows_in_its_table(weights: Weights) -> None:
    known = known_first_bytes(weights.arrays)
    assert known is not None
    assert known.all()
    table = weights.arrays["lookups.result"].copy()
    table[10:256] = 0
    some = known_first_bytes(weights.arrays | {"lookups.result": table})
    assert some is not None
    assert np.flatnonzero(some).tolist() == list(range(10))
    assert known_first_bytes({}) is None
    assert known_first_bytes({"lookups.result": np.zeros_like(table)}) is None


def test_context_and_time_matter_and_what_is_out_of_the_window_does_not(model: PingModel) -> None:
    def codes(time: int | None, items: list[Measurement]) -> np.ndarray:
        return model.predict_rtt(*V4, time, items).code_probabilities

    recent, old = context(60), context(60, seed=8)
    assert np.abs(codes(None, recent) - codes(None, [])).sum() > 1e-3
    assert np.abs(codes(1_700_000_000, []) - codes(None, [])).sum() > 1e-3
    np.testing.assert_array_equal(codes(None, old + recent), codes(None, recent))


# --- Completions --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prefix", "unknown", "role"),
    [("193.0.2", 1, DST_IPV4), ("11.7", 2, DST_IPV4), ("2001:db9:1:2:3:4:5:", 2, DST_IPV6)],
)
def test_completions_are_those_of_brute_force(
    model: PingModel, plain: Plain, prefix: str, unknown: int, role: int
) -> None:
    query = CompletionQuery(prefix, 256, context(2))
    prompt = query.prompt(CONFIG.context)
    assert role in prompt[-17:]
    brute_force = plain.two_bytes if unknown == 2 else lambda p: plain.next_bytes(np.array([p]))
    scores = brute_force(prompt).ravel()
    best = np.sort(scores)[::-1][:256]
    found = model.complete_ip(prefix, 256, context(2))
    assert len({completion.address for completion in found}) == 256
    np.testing.assert_allclose([c.probability for c in found], np.exp(best), rtol=1e-3)
    for completion in found:
        packed = completion.address.packed
        assert packed.startswith(query.known)
        rest = int.from_bytes(packed[len(query.known) :], "big")
        assert completion.probability == pytest.approx(np.exp(scores[rest]), rel=1e-3)
        assert len(completion.byte_probabilities) == unknown
        assert np.prod(completion.byte_probabilities) == pytest.approx(completion.probability)


@pytest.mark.parametrize("prefix", ["11", "0.0.0.0/0", "2001:d00::/24"])
def test_a_longer_completion_has_the_probability_of_its_bytes(
    model: PingModel, plain: Plain, prefix: str
) -> None:
    query = CompletionQuery(prefix)
    found = model.complete_ip(prefix, 50)
    shares = [completion.probability for completion in found]
    assert shares == sorted(shares, reverse=True)
    assert len({completion.address for completion in found}) == 50
    for completion in (found[0], found[-1]):
        run = completion.address.packed[len(query.known) :]
        expected = np.exp(plain.chain(query.prompt(CONFIG.context), run))
        np.testing.assert_allclose(completion.byte_probabilities, expected, rtol=1e-3)


def test_all_completions_of_the_last_byte_sum_to_one(model: PingModel) -> None:
    for field in ("dst", "src"):
        found = model.complete_ip("193.0.2", 256, field=field)
        assert sum(c.probability for c in found) == pytest.approx(1, rel=1e-5)
    whole = model.complete_ip("193.0.2.9")
    assert [(str(c.address), c.probability) for c in whole] == [("193.0.2.9", 1.0)]


# --- Samples ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("src", "tolerance"), [(V4[0], 0.1), (V6[0], 0.6), (V4[0], 0.0)])
def test_samples_are_distinct_reproducible_and_as_probable_as_they_say(
    model: PingModel, plain: Plain, src: str, tolerance: float
) -> None:
    found = model.sample_ips(src, 30.0, 50, context(2), tolerance, seed=7)
    assert len(found) == len({sample.address for sample in found}) == 50
    assert {sample.address.version for sample in found} == {ip_address(src).version}
    assert [s.p_within for s in found] == sorted((s.p_within for s in found), reverse=True)
    assert found == model.sample_ips(src, 30.0, 50, context(2), tolerance, seed=7)
    other = model.sample_ips(src, 30.0, 50, context(2), tolerance, seed=8)
    assert {s.address for s in found} != {s.address for s in other}
    query = SampleQuery(src, 30.0, context=context(2), tolerance=tolerance)
    prompt = query.prompt(CONFIG.context)
    within = within_tolerance(query)
    assert within.sum() == 1 if tolerance == 0 else within.sum() > 100
    for sample in (found[0], found[49]):
        known = [*prompt, *(BYTE0 + byte for byte in sample.address.packed)]
        answered, failed = plain.logits(np.array([known]))[0, -1, [RTT_START, FAILED]]
        codes = np.exp(plain.two_bytes([*known, RTT_START])).ravel()
        expected = codes[within].sum() / (1 + np.exp(failed - answered))
        assert sample.p_within == pytest.approx(expected, rel=1e-3)
        score = plain.chain(prompt, sample.address.packed).sum() + np.log(expected)
        assert sample.log_probability == pytest.approx(score, abs=1e-2)
        tokens = [*known, RTT_START, BYTE0, BYTE0]
        asked = decode_window(tokens, len(tokens))[-1]
        assert (str(asked.src), asked.dst) == (src, sample.address)


def test_draws_are_as_frequent_as_their_probability(model: PingModel, plain: Plain) -> None:
    query = SampleQuery(V4[0], 30.0)
    prompt = query.prompt(CONFIG.context)
    tokens = np.zeros((1, 64), np.int32)
    tokens[0, : len(prompt)] = prompt
    read = model.decoder.read(tokens, np.array([len(prompt)], np.int32))
    bands = Bands(*(np.asarray(part)[None] for part in rtt_band(query)))
    drawn = np.zeros(256)
    rounds = 24
    for seed in range(rounds):
        keys = jax.random.key(seed)[None]
        draws = model.decoder.draw(read, bands, keys, 4)
        drawn += np.bincount(np.asarray(draws.bytes[..., 0]).ravel(), minlength=256)
    shares = np.exp(plain.next_bytes(np.array([prompt]))[0])
    likely, total = np.argsort(shares)[-40:], rounds * DRAWS
    expected = np.append(shares[likely], 1 - shares[likely].sum()) * total
    observed = np.append(drawn[likely], total - drawn[likely].sum())
    assert expected.min() > 5
    assert (
        (observed - expected) ** 2 / expected
    ).sum() < 40 + 5 * 80**0.5  # chi-square, 40 degrees


# --- Batches and shape --------------------------------------------------------------------------------


def test_an_answer_does_not_depend_on_the_questions_beside_it(model: PingModel) -> None:
    pairs = [V4, V6, ("203.0.114.5", "193.0.2.1")]
    queries = [
        RttQuery(*pairs[at % 3], 1_700_300_000 if at == 4 else None, context(at % 2, seed=at))
        for at in range(5)
    ]  # a batch of four, of different lengths and families, and one alone
    for query, together in zip(queries, model.predict_rtt_batch(queries), strict=True):
        alone = model.predict_rtt_batch([query])[0]
        assert together.p_failed == pytest.approx(alone.p_failed, rel=1e-4)
        difference = np.abs(together.code_probabilities - alone.code_probabilities)
        assert difference.sum() < 1e-4

    completions = [CompletionQuery(p, 5) for p in ("11.1", "11.2", "11", "11.3", "9.1")]
    for query, together in zip(completions, model.complete_ip_batch(completions), strict=True):
        alone = model.complete_ip_batch([query])[0]
        assert [c.address for c in together] == [c.address for c in alone]
        np.testing.assert_allclose(
            [c.probability for c in together], [c.probability for c in alone], rtol=1e-4
        )

    searches = [SampleQuery(V4[0], 20.0 + at, 4 + at, seed=at) for at in range(5)]
    for query, together in zip(searches, model.sample_ips_batch(searches), strict=True):
        alone = model.sample_ips_batch([query])[0]
        assert [s.address for s in together] == [s.address for s in alone]
    assert model.predict_rtt_batch([]) == []


def test_batches_hold_every_question_once_and_no_padding() -> None:
    for count in range(70):
        batches = list(split_batches(range(count)))
        assert [at for batch in batches for at in batch] == list(range(count))
        assert {len(batch) for batch in batches} <= {16, 4, 1}
        assert len(batches) <= count // 16 + 6
    assert [bucket_length(n, 1024) for n in (1, 64, 65, 600, 1024)] == [64, 64, 128, 1024, 1024]
    assert bucket_length(200, 250) == 250
