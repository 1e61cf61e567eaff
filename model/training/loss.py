"""The next-token loss over the live positions of a batch, in total and by kind of token."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from model.network.token_places import MAX_PAYLOAD, last_position, positions_of, token_places
from model.run_folder import KindLoss, LossSummary
from stores.vocabulary import (
    BYTE0,
    DST_IPV4,
    DST_IPV6,
    FAILED,
    FIELD_OF_ROLE,
    MEASUREMENT_START,
    PAYLOAD_BYTES,
    RTT_START,
    SRC_IPV4,
    SRC_IPV6,
    Field,
)

KINDS = (
    "role",
    *(f"source_{i}" for i in range(1, 17)),
    *(f"destination_{i}" for i in range(1, 17)),
    "rtt_1",
    "rtt_2",
    "time",
)
"""Kinds of token: role tokens, then bytes by field and position (IPv4 addresses are bytes 1 to 4)."""


def _kind_table() -> NDArray[np.int32]:
    """The kind of a byte, by its role token and its distance from it (1 … 16): (11, 17) int32."""
    names = {Field.SOURCE: "source", Field.DESTINATION: "destination", Field.RESULT: "rtt"}
    table = np.zeros((BYTE0, MAX_PAYLOAD + 1), np.int32)
    for role, count in enumerate(PAYLOAD_BYTES):
        for at in range(1, count + 1):
            field = FIELD_OF_ROLE.get(
                role, Field.RESULT
            )  # the reserved throughput is a result, too
            kind = "time" if field is Field.TIME else f"{names[field]}_{at}"
            table[role, at] = KINDS.index(kind)
    return table


KIND_TABLE = _kind_table()


class Tally(NamedTuple):
    """Sums over the live positions that are predicted, by kind; a sum of tallies is a tally."""

    nats: jax.Array | NDArray[Any]  # (kinds,) float32
    correct: jax.Array | NDArray[Any]  # (kinds,) int32, the likeliest token was the right one
    tokens: jax.Array | NDArray[Any]  # (kinds,) int32
    measurements: jax.Array | NDArray[Any]  # () int32, measurements begun in the live positions


def empty_tally() -> Tally:
    """The tally of nothing, as NumPy arrays."""
    count = np.zeros(len(KINDS), np.int32)
    return Tally(np.zeros(len(KINDS), np.float32), count, count.copy(), np.zeros((), np.int32))


def token_kinds(tokens: jax.Array) -> jax.Array:
    """The index into `KINDS` of every token of valid windows: (B, T) int32, as `tokens`. Tails count as
    roles."""
    role, distance = token_places(tokens)
    return jnp.where(tokens < BYTE0, 0, jnp.asarray(KIND_TABLE)[role, distance])


class Answers(NamedTuple):
    """Which tokens of windows decide the answer of `predict_rtt`, both (B, T) bool."""

    coarse: jax.Array
    """The result's role token (answered or failed), and the RTT's first byte."""
    fine: jax.Array
    """The RTT's second byte, which is noise until the first is nearly certain."""


def answers(tokens: jax.Array) -> Answers:
    """The answers among the tokens of valid windows (B, T): results after both of their addresses."""
    position = positions_of(tokens)

    def last(*roles: int) -> jax.Array:
        return last_position(functools.reduce(jnp.logical_or, (tokens == role for role in roles)))

    begun = last(MEASUREMENT_START)
    both = (last(SRC_IPV4, SRC_IPV6) > begun) & (last(DST_IPV4, DST_IPV6) > begun)
    role = (tokens == RTT_START) | (tokens == FAILED)
    of_rtt = position - last(RTT_START)  # 1 and 2 are its bytes
    has_rtt = last(RTT_START) > begun
    return Answers(both & (role | (has_rtt & (of_rtt == 1))), both & has_rtt & (of_rtt == 2))


def next_token_loss(
    logits: jax.Array,
    tokens: jax.Array,
    lengths: jax.Array,
    answer_weight: float = 1.0,
    second_byte_weight: float = 1.0,
) -> tuple[jax.Array, Tally]:
    """Mean nats per live target, and the batch's tally.

    `logits` (B, T, V) float32, `tokens` (B, T) int32, `lengths` (B,) int32. Targets are the tokens
    1 … length - 1 of each row: the first token is always MEASUREMENT_START, and the tail is masked.
    A batch without live targets has loss 0. Targets of `answers` count `answer_weight` times in the
    mean, second bytes `second_byte_weight` times; what the best model predicts is the same for any
    weights, and the tally is never weighted.
    """
    # The last position has no target and is never live: cutting it off would copy all logits.
    targets = _next(tokens)
    position = jax.lax.broadcasted_iota(jnp.int32, targets.shape, 1) + 1  # of the target
    live = position < lengths[:, None]
    log_normalizer = jax.nn.logsumexp(logits, axis=-1)
    target_logits = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    nats = jnp.where(live, log_normalizer - target_logits, 0.0)  # (B, T)
    kinds = jnp.where(live, _next(token_kinds(tokens)), -1)
    if answer_weight == second_byte_weight == 1:
        loss = nats.sum() / jnp.maximum(live.sum(), 1).astype(jnp.float32)
    else:
        coarse, fine = map(_next, answers(tokens))
        weights = jnp.where(coarse, answer_weight, jnp.where(fine, second_byte_weight, 1.0))
        total = jnp.where(live, weights, 0.0).sum()
        loss = (nats * weights).sum() / jnp.maximum(total, 1.0)

    member = jax.nn.one_hot(kinds, len(KINDS), dtype=jnp.float32)  # (B, T, kinds); dead: no kind
    correct = (jnp.argmax(logits, axis=-1) == targets).astype(jnp.float32)
    starts = (tokens == MEASUREMENT_START) & (
        jax.lax.broadcasted_iota(jnp.int32, tokens.shape, 1) < lengths[:, None]
    )
    tally = Tally(
        nats=jnp.einsum("bt,btk->k", nats, member),
        correct=jnp.einsum("bt,btk->k", correct, member).astype(jnp.int32),
        tokens=member.sum((0, 1)).astype(jnp.int32),
        measurements=starts.sum(dtype=jnp.int32),
    )
    return loss, jax.lax.stop_gradient(tally)


def _next(of_tokens: jax.Array) -> jax.Array:
    """At each position (B, T) what is of the next token; at the last one, anything."""
    return jnp.roll(of_tokens, -1, axis=1)


def summarize(tally: Tally) -> LossSummary:
    """The means of a tally that is in host memory; of an empty one, zeros."""
    nats = np.asarray(tally.nats, np.float64)
    tokens = np.asarray(tally.tokens, np.int64)
    correct = np.asarray(tally.correct, np.int64)
    total, measurements = max(int(tokens.sum()), 1), max(int(tally.measurements), 1)
    return LossSummary(
        loss=float(nats.sum() / total),
        nats_per_measurement=float(nats.sum() / measurements),
        bits_per_measurement=float(nats.sum() / measurements / np.log(2)),
        accuracy=float(correct.sum() / total),
        tokens=int(tokens.sum()),
        measurements=int(tally.measurements),
        kinds={
            kind: KindLoss(
                loss=float(nats[i] / tokens[i]),
                accuracy=float(correct[i] / tokens[i]),
                tokens=int(tokens[i]),
            )
            for i, kind in enumerate(KINDS)
            if tokens[i]
        },
    )


def combine(tallies: list[Tally]) -> Tally:
    """The sum of tallies in host memory, as float64 and int64."""
    wide = (np.float64, np.int64, np.int64, np.int64)
    return Tally(
        *(
            sum((np.asarray(t[i], dtype) for t in tallies), np.zeros((), dtype))
            for i, dtype in enumerate(wide)
        )
    )
