"""Where a vantage point stands, by what its window has measured so far: a small regression inside the model.

A few million tokens do not teach a transformer to solve for the place of an unknown source, and a
factorization of RTTs does just that. So the model has one: each destination has learned **features**, which
are the sum over the prefixes of its address, and the root of an RTT is linear in them, with coefficients of
the source. These are normally distributed around what the prefixes of its address say; the answered
measurements of the window before this one narrow them down. That is a Gaussian process (Rasmussen and
Williams 2006, algorithm 2.1) with learned features, as in ALPaCA (arXiv:1807.08912), solved exactly: one
Cholesky factor of the window's measurements holds the solution before each of them.

What it expects of an RTT, as a distribution over the next byte, goes into the residual as soon as both
addresses are there, and, by as much as the residual says, onto the logits. It learns from the likelihood of
its own expectation alone: what the transformer makes of it does not change it.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.scipy.linalg import solve_triangular

from model.config import ModelConfig
from model.network.kinds import Kinds, signs
from model.network.lookups import BYTES, NO_BYTE_YET, Expected, LookupRows, look_up
from model.network.slots import Slots, awaits_rtt, first_bytes, slot_numbers
from stores.vocabulary import BYTE0

UNIT_US = 50_000.0
"""RTTs are taken as the roots of multiples of it: with factors, roots have the least errors for new sources."""
LONGEST_US = 1_000_000.0
"""Longer RTTs count as this one, so that an answer after hours does not move a vantage point."""
FEATURE_SCALE = 0.04
"""Size of the features of a prefix at the start."""
NOISE_RANGE = 4.0
"""A destination's noise, as a logarithm, is at most so far from that of all."""
LEAST_MASS = 1e-4
"""Of a byte: nothing is thought impossible."""
SCALARS = 5
"""Weights that are no part of a table or matrix: the four variances and the mean."""


def _edges() -> np.ndarray:
    """The roots of the RTTs at which each second byte begins and the last one ends, by the first byte; and the
    same of the first bytes: (257, 257) float32. A byte that no RTT is written with begins and ends at once."""
    code = np.arange(BYTES * BYTES).reshape(BYTES, BYTES)
    exponent, mantissa = code >> 11, code & 2047
    # Mantissas are rounded to the nearest; of those below 1024, a smaller exponent has twice as many.
    least = np.where(exponent > 0, 1023.75, 0.0)
    begins = np.maximum(mantissa - 0.5, least) * 2.0**exponent
    ends = (np.maximum(mantissa + 0.5, least) * 2.0**exponent)[:, -1:]
    by_first = np.concatenate([begins, ends], axis=1)  # (256, 257)
    firsts = np.concatenate([begins[:, 0], ends[-1]])[None]
    return np.sqrt(np.concatenate([by_first, firsts]) / UNIT_US).astype(np.float32)


EDGES = _edges()


class Prior(NamedTuple):
    """What is known of slots (B, M) from their addresses alone."""

    slots: Slots
    mean: jax.Array  # (B, M, K), of the root of the RTT
    features: jax.Array  # (B, M, F), of the destination
    confidence: jax.Array  # (B, M), what the variance of the source's coefficients is multiplied by
    noise: jax.Array  # (B, M), its variance


class Placed(NamedTuple):
    """What the answered measurements of windows (B, M) say of their sources."""

    prior: Prior
    factor: jax.Array  # (B, M, M), lower triangular: L of L Lᵀ = covariance
    surprise: jax.Array  # (B, M, K), L⁻¹ (RTT - mean)


class Expectation(NamedTuple):
    """Of the roots of the RTTs of slots (…): a mixture of K normal distributions of one width."""

    mean: jax.Array  # (…, K)
    log_weight: jax.Array  # (…, K)
    deviation: jax.Array  # (…)

    def of_next(self, so_far: jax.Array) -> jax.Array:
        """The probability (…, 256) of each byte that can follow `so_far` (…) int32, the first byte of the RTT or
        `NO_BYTE_YET`, for roots that are logistic around each mean."""
        edges = jnp.asarray(EDGES)[so_far]  # (…, 257)
        scale = self.deviation * (np.sqrt(3.0).astype(np.float32) / np.float32(np.pi))
        distance = edges[..., None, :] - self.mean[..., None]  # (…, K, 257)
        weight = jnp.exp(self.log_weight)[..., None]
        below = (weight * jax.nn.sigmoid(distance / scale[..., None, None])).sum(-2)
        mass = below[..., 1:] - below[..., :-1]
        total = below[..., -1:] - below[..., :1]
        even = np.float32(1 / BYTES)
        return (mass + even * np.float32(1e-6)) / (total + np.float32(1e-6))


class Placement(nnx.Module):
    """The features, the regression on them, and how its expectation reaches the transformer.

    Starts without any opinion of a source, and with no effect on the logits.
    """

    def __init__(self, config: ModelConfig) -> None:
        self.vocabulary = config.vocabulary
        rows, features = config.prefix_rows, config.placement
        shape = (rows, features + 2)
        self.of_source = nnx.Param(jnp.zeros(shape, jnp.float32))  # coefficients, certainty, mean
        self.of_destination = nnx.Param(jnp.zeros(shape, jnp.float32))  # features, noise, mean
        # Logarithms of variances: of all RTTs of a source alike, of a feature's coefficient, of a pair's
        # own deviation, and of the noise.
        self.variances = nnx.Param(jnp.array([-2.0, -1.0, -4.0, -3.0], jnp.float32))
        self.mean = nnx.Param(jnp.ones(1, jnp.float32))
        self.kinds = nnx.data(Kinds(config) if config.source_kinds else None)
        self.expected = nnx.Param(jnp.zeros((BYTES, config.width), jnp.float32))
        self.height = nnx.Param(jnp.zeros((config.width, 1), jnp.float32))

    def features(self) -> jax.Array:
        """The table of destinations, (rows, F + 2) float32, with what its features start from: signs that a
        hash of the row's number gives. Features that started at 0 would all stay the same."""
        rows, columns = self.of_destination[...].shape
        start = FEATURE_SCALE * signs(rows, columns - 2)
        return self.of_destination[...] + jnp.pad(start, ((0, 0), (0, 2)))

    def prior(self, slots: Slots) -> Prior:
        """What the addresses of slots (B, M) say. A source never seen has the confidence 1."""
        source = look_up(self.of_source[...], slots.source_prefixes).sum(2)  # (B, M, F + 2)
        destination = look_up(self.features(), slots.destination_prefixes).sum(2)
        features = destination[..., :-2]
        mean = (source[..., :-2] * features).sum(-1) + source[..., -1] + destination[..., -1]
        mean = (self.mean[...][0] + mean)[..., None]
        if self.kinds is not None:
            mean += self.kinds.means(slots)
        certainty = jnp.clip(source[..., -2], -2 * NOISE_RANGE, NOISE_RANGE)
        noise = jnp.clip(destination[..., -2], -NOISE_RANGE, NOISE_RANGE)
        noise = jnp.exp(self.variances[...][3] + noise)
        return Prior(slots, mean, features, jnp.exp(certainty), noise)

    def place(self, prior: Prior) -> Placed:
        """The solution for all slots of windows, which holds those for all their beginnings."""
        slots, used = prior.slots, prior.slots.answered
        both = used[:, :, None] & used[:, None, :]
        covariance = jnp.where(both, self._covariance(prior, prior), 0.0)
        diagonal = jnp.where(used, prior.noise, 1.0)
        covariance += diagonal[:, :, None] * jnp.eye(used.shape[1], dtype=jnp.float32)[None]
        factor = jnp.linalg.cholesky(covariance)
        deviation = roots(slots.first, slots.second)[..., None] - prior.mean
        deviation = jnp.where(used[..., None], deviation, 0.0)
        return Placed(prior, factor, solve_triangular(factor, deviation, lower=True))

    def expect(self, placed: Placed, asked: Prior, earlier: jax.Array) -> Expectation:
        """What to expect of slots (B, N), given those of `placed` (B, M) that come `earlier` (B or 1, N, M): a
        beginning of them."""
        measured, earlier = placed.prior.slots, earlier.swapaxes(1, 2)
        cross = self._covariance(placed.prior, asked)
        cross = jnp.where(measured.answered[:, :, None], cross, 0.0)  # (B, M, N)
        half = solve_triangular(placed.factor, cross, lower=True)
        half = jnp.where(earlier, half, 0.0)
        mean = asked.mean + jnp.einsum("bmn,bmk->bnk", half, placed.surprise)
        scale, coefficient, own, _ = jnp.exp(self.variances[...])
        alike = scale + coefficient * (asked.features * asked.features).sum(-1)
        variance = jnp.maximum(alike * asked.confidence + own - (half * half).sum(1), 0.0)
        deviation = jnp.sqrt(variance + asked.noise)
        if self.kinds is None:
            return Expectation(mean, jnp.zeros_like(mean), deviation)
        told = same_source(measured, asked.slots) & measured.answered[:, :, None] & earlier
        # Of all kinds, the covariance and so its determinant is the same.
        fit = jnp.einsum("bmn,bmk->bnk", told.astype(jnp.float32), -0.5 * placed.surprise**2)
        return Expectation(mean, self.kinds.log_weights(asked.slots, fit), deviation)

    def embed(self, rows: LookupRows) -> jax.Array:
        """What the expectations of the first byte add to the residual of tokens (…) before it, (…, C) float32."""
        assert rows.expected is not None
        before = (rows.rtt_so_far < 0) | (rows.rtt_so_far == NO_BYTE_YET)
        mass = jnp.where((rows.expected.known & before)[..., None], rows.expected.mass, 0.0)
        flat = mass.reshape(-1, BYTES) @ self.expected[...]
        return flat.reshape(*mass.shape[:-1], -1)

    def __call__(self, x: jax.Array, rows: LookupRows) -> jax.Array:
        """What to add (B, T, vocabulary) float32 to the logits of the residual (B, T, C) behind the norm."""
        assert rows.expected is not None
        height = self.height[...].astype(x.dtype)
        height = jnp.matmul(x, height, preferred_element_type=jnp.float32)
        asked = rows.expected.known & (rows.rtt_so_far >= 0)
        log = jnp.log(rows.expected.mass + LEAST_MASS)
        added = jnp.where(asked[..., None], height * log, 0.0)
        return jnp.pad(added, ((0, 0), (0, 0), (BYTE0, self.vocabulary - BYTE0 - BYTES)))

    def _covariance(self, some: Prior, others: Prior) -> jax.Array:
        """Of some slots (B, M) with others (B, N), without noise: (B, M, N)."""
        scale, coefficient, own, _ = jnp.exp(self.variances[...])
        alike = scale + coefficient * jnp.einsum("bmf,bnf->bmn", some.features, others.features)
        alike *= some.confidence[:, :, None]
        alike += jnp.where(same_destination(some.slots, others.slots), own, 0.0)
        return jnp.where(same_source(some.slots, others.slots), alike, 0.0)


def same_source(slots: Slots, others: Slots) -> jax.Array:
    """Of slots (B, M) and (B, N): (B, M, N) bool."""
    return slots.source[:, :, None] == others.source[:, None, :]


def same_destination(slots: Slots, others: Slots) -> jax.Array:
    """As `same_source`."""
    return slots.destination[:, :, None] == others.destination[:, None, :]


def at_tokens(expectation: Expectation, tokens: jax.Array, rtt_so_far: jax.Array) -> Expected:
    """What is expected in slots (B, M) of windows (B, T), at their tokens."""
    slots = expectation.mean.shape[1]
    written = first_bytes(tokens, rtt_so_far, slots)
    by_slot = expectation.of_next(jnp.full_like(written, NO_BYTE_YET)), expectation.of_next(written)
    number = slot_numbers(tokens)
    known = awaits_rtt(tokens) & (number >= 0) & (number < slots)
    at = jnp.clip(number, 0, slots - 1)[..., None]
    first, second = (jnp.take_along_axis(mass, at, axis=1) for mass in by_slot)
    behind_first = (rtt_so_far >= 0) & (rtt_so_far < NO_BYTE_YET)
    return Expected(jnp.where(behind_first[..., None], second, first), known)


def placement_loss(placement: Placement, slots: Slots) -> jax.Array:
    """Mean negative log likelihood () of the RTTs in slots (B, M), each given those before it.

    Measurements of a pair that the window has already do not count: to repeat an RTT is no matter of places.
    """
    prior = placement.prior(slots)
    number = jnp.arange(slots.answered.shape[1])
    earlier = number[None, :] < number[:, None]  # (M, M)
    expectation = placement.expect(placement.place(prior), prior, earlier[None])
    again = same_source(slots, slots) & same_destination(slots, slots)
    again = (again & slots.answered[:, None, :] & earlier[None]).any(2)
    counts = slots.answered & ~again
    deviation = expectation.deviation
    error = (roots(slots.first, slots.second)[..., None] - expectation.mean) / deviation[..., None]
    likelihood = jax.nn.logsumexp(expectation.log_weight - 0.5 * error * error, axis=-1)
    nats = jnp.where(counts, jnp.log(deviation) - likelihood, 0.0)
    return nats.sum() / jnp.maximum(counts.sum(), 1).astype(jnp.float32)


def roots(first: jax.Array, second: jax.Array) -> jax.Array:
    """The roots of RTTs in multiples of the unit, float32, of their bytes (…) int32, as `Slots` has them."""
    code = (first & (BYTES - 1)) * BYTES + (second & (BYTES - 1))
    value = (code & 2047).astype(jnp.float32) * jnp.exp2((code >> 11).astype(jnp.float32))
    return jnp.sqrt(jnp.minimum(value, LONGEST_US) / UNIT_US)
