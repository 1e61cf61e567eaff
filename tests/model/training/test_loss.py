from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from model.training.loss import KINDS, answers, combine, next_token_loss, summarize, token_kinds
from stores.codec import encode_windows
from stores.vocabulary import PAYLOAD_BYTES, ROLE_NAMES
from tests.helpers import random_measurements, windows_of_mode


def some_batch(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    tokens, lengths = windows_of_mode(random_measurements(200, seed), "mixed", seed)
    return tokens.astype(np.int32), lengths.astype(np.int32)


def some_logits(tokens: np.ndarray) -> jax.Array:
    return jax.random.normal(jax.random.key(0), (*tokens.shape, 267)) * 2.0


def test_loss_is_the_mean_over_live_targets() -> None:
    tokens, lengths = some_batch()
    logits = some_logits(tokens)
    loss, tally = next_token_loss(logits, jnp.asarray(tokens), jnp.asarray(lengths))
    log_p = np.asarray(jax.nn.log_softmax(logits, axis=-1), np.float64)
    nats = [
        -log_p[row, at - 1, tokens[row, at]]
        for row in range(len(tokens))
        for at in range(1, lengths[row])
    ]
    np.testing.assert_allclose(loss, np.mean(nats), rtol=1e-5)
    np.testing.assert_allclose(np.sum(tally.nats), np.sum(nats), rtol=1e-5)
    assert int(np.sum(tally.tokens)) == lengths.sum() - len(lengths)


def test_the_tail_does_not_matter() -> None:
    tokens, lengths = some_batch()
    assert (lengths < 1024).all()
    other = tokens.copy()
    for row, length in enumerate(lengths):
        other[row, length:] = 99
    logits = some_logits(tokens)
    changed = logits.at[:, -1].set(100.0)
    results = [
        next_token_loss(logits_, jnp.asarray(tokens_), jnp.asarray(lengths))
        for logits_, tokens_ in ((logits, tokens), (changed, other))
    ]
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_dead_positions_get_no_gradient() -> None:
    tokens, lengths = some_batch()
    lengths = lengths // 2
    gradient = jax.grad(lambda x: next_token_loss(x, jnp.asarray(tokens), jnp.asarray(lengths))[0])(
        some_logits(tokens)
    )
    for row, length in enumerate(lengths):
        assert not np.any(gradient[row, length - 1 :])
        assert np.all(np.any(gradient[row, : length - 1], axis=-1))


def test_an_empty_batch_has_loss_zero() -> None:
    loss, tally = next_token_loss(
        jnp.zeros((2, 8, 267)), jnp.zeros((2, 8), jnp.int32), jnp.zeros(2, jnp.int32)
    )
    assert float(loss) == 0
    assert int(tally.measurements) == 0


def test_kinds_follow_the_grammar() -> None:
    measurements = random_measurements(60, 3)
    window = encode_windows((m, True) for m in measurements[:20])[0]
    expected: list[str] = []
    left, name, at = 0, "", 0
    for token in window:
        if left == 0:
            name, left, at = ROLE_NAMES[token], PAYLOAD_BYTES[token], 0
            expected.append("role")
            continue
        at, left = at + 1, left - 1
        field = {"SRC": "source", "DST": "destination", "RTT": "rtt", "TIM": "time"}[name[:3]]
        expected.append("time" if field == "time" else f"{field}_{at}")
    kinds = np.asarray(token_kinds(jnp.asarray([window], jnp.int32)))[0]
    assert [KINDS[k] for k in kinds] == expected


def test_measurements_and_accuracy_are_counted() -> None:
    tokens, lengths = some_batch()
    perfect = jax.nn.one_hot(np.roll(tokens, -1, 1), 267) * 50.0
    _, tally = next_token_loss(perfect, jnp.asarray(tokens), jnp.asarray(lengths))
    summary = summarize(jax.device_get(tally))
    assert summary.measurements == 200
    assert summary.accuracy == 1.0
    assert summary.bits_per_measurement < 1e-3
    assert set(summary.kinds) <= set(KINDS)
    assert sum(kind.tokens for kind in summary.kinds.values()) == summary.tokens


def test_tallies_add_up() -> None:
    tokens, lengths = some_batch()
    logits = some_logits(tokens)
    whole = next_token_loss(logits, jnp.asarray(tokens), jnp.asarray(lengths))[1]
    rows = [
        next_token_loss(
            logits[i : i + 1], jnp.asarray(tokens[i : i + 1]), jnp.asarray(lengths[i : i + 1])
        )[1]
        for i in range(len(tokens))
    ]
    a, b = summarize(combine(rows)), summarize(jax.device_get(whole))
    assert a.tokens == b.tokens
    assert a.measurements == b.measurements
    np.testing.assert_allclose(a.loss, b.loss, rtol=1e-5)


def test_answers_are_the_result_and_the_first_rtt_byte_behind_both_addresses() -> None:
    tokens, lengths = some_batch(3)
    found = np.asarray(answers(jnp.asarray(tokens)).coarse)
    expected = np.zeros_like(found)
    for row, length in enumerate(lengths):
        seen: set[str] = set()
        for at, token in enumerate(tokens[row, :length].tolist()):
            name = ROLE_NAMES[token] if token < len(ROLE_NAMES) else ""
            if name == "MEASUREMENT_START":
                seen.clear()
            if name.startswith(("SRC", "DST")):
                seen.add(name[:3])
            if name in ("RTT_START", "FAILED") and len(seen) == 2:
                expected[row, at : at + (2 if name == "RTT_START" else 1)] = True
    live = np.arange(tokens.shape[1]) < lengths[:, None]
    assert expected.any()
    np.testing.assert_array_equal(found & live, expected)


def test_the_fine_answer_is_the_byte_behind_the_coarse_one() -> None:
    tokens, lengths = some_batch(3)
    coarse, fine = (np.asarray(of) for of in answers(jnp.asarray(tokens)))
    first_byte = coarse & (tokens >= len(ROLE_NAMES))
    live = np.arange(tokens.shape[1]) < lengths[:, None]
    expected = np.pad(first_byte, ((0, 0), (1, 0)))[:, :-1]
    assert expected.any()
    np.testing.assert_array_equal(fine & live, expected & live)


def test_second_byte_weight_counts_second_bytes_that_many_times() -> None:
    tokens, lengths = (jnp.asarray(part) for part in some_batch(4))
    logits = some_logits(np.asarray(tokens))
    loss, _ = next_token_loss(logits, tokens, lengths, 9.0, 5.0)
    nats = -jnp.take_along_axis(
        jax.nn.log_softmax(logits[:, :-1], -1), tokens[:, 1:, None], axis=-1
    )[..., 0]
    live = np.arange(1, tokens.shape[1]) < np.asarray(lengths)[:, None]
    coarse, fine = (np.asarray(of)[:, 1:] for of in answers(tokens))
    weights = np.where(coarse, 9.0, np.where(fine, 5.0, 1.0)) * live
    np.testing.assert_allclose(loss, (np.asarray(nats) * weights).sum() / weights.sum(), rtol=1e-5)


def test_answer_weight_counts_answers_that_many_times_and_leaves_the_tally_alone() -> None:
    tokens, lengths = (jnp.asarray(part) for part in some_batch(4))
    logits = some_logits(np.asarray(tokens))
    plain, tally = next_token_loss(logits, tokens, lengths)
    heavy, same_tally = next_token_loss(logits, tokens, lengths, 9.0)
    nats = -jnp.take_along_axis(
        jax.nn.log_softmax(logits[:, :-1], -1), tokens[:, 1:, None], axis=-1
    )[..., 0]
    live = np.arange(1, tokens.shape[1]) < np.asarray(lengths)[:, None]
    weights = np.where(np.asarray(answers(tokens).coarse)[:, 1:], 9.0, 1.0) * live
    np.testing.assert_allclose(heavy, (np.asarray(nats) * weights).sum() / weights.sum(), rtol=1e-5)
    assert abs(float(heavy) - float(plain)) > 1e-4
    for a, b in zip(tally, same_tally, strict=True):
        np.testing.assert_array_equal(a, b)
