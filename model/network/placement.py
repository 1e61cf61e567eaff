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
from model.network.lookups import BYTES, NO_BYTE_YET, Expected, LookupRows, look_up, mix
from model.network.slots import Slots
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


class Placed(NamedTuple):
    """What the answered measurements of windows (B, M) say of their sources."""

    slots: Slots
    features: jax.Array  # (B, M, F)
    factor: jax.Array  # (B, M, M), lower triangular: L of L Lᵀ = covariance
    surprise: jax.Array  # (B, M), L⁻¹ (RTT - mean)


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
        self.expected = nnx.Param(jnp.zeros((BYTES, config.width), jnp.float32))
        self.height = nnx.Param(jnp.zeros((config.width, 1), jnp.float32))

    def features(self) -> jax.Array:
        """The table of destinations, (rows, F + 2) float32, with what its features start from: signs that a
        hash of the row's number gives. Features that started at 0 would all stay the same."""
        rows, columns = self.of_destination[...].shape
        number = mix(jnp.arange(rows, dtype=jnp.uint32))
        bit = (number[:, None] >> jnp.arange(columns - 2, dtype=jnp.uint32)[None]) & np.uint32(1)
        start = FEATURE_SCALE * (2 * bit.astype(jnp.float32) - 1)
        return self.of_destination[...] + jnp.pad(start, ((0, 0), (0, 2)))

    def place(self, slots: Slots) -> Placed:
        """The solution for the slots (B, M) of windows, which holds those for all their beginnings."""
        mean, features, noise = self._prior(slots)
        used = slots.answered
        both = used[:, :, None] & used[:, None, :]
        covariance = jnp.where(both, self._covariance(slots, features, slots, features), 0.0)
        diagonal = jnp.where(used, noise, 1.0)
        covariance += diagonal[:, :, None] * jnp.eye(used.shape[1], dtype=jnp.float32)[None]
        factor = jnp.linalg.cholesky(covariance)
        deviation = jnp.where(used, roots(slots.first, slots.second) - mean, 0.0)
        surprise = solve_triangular(factor, deviation[..., None], lower=True)[..., 0]
        return Placed(slots, features, factor, surprise)

    def expect(
        self, placed: Placed, asked: Slots, earlier: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Mean and standard deviation, (B, N) each, of the roots of the RTTs of slots (B, N), given those of
        `placed` (B, M) that come `earlier` (B or 1, N, M): a beginning of them."""
        mean, features, noise = self._prior(asked)
        cross = self._covariance(placed.slots, placed.features, asked, features)
        cross = jnp.where(placed.slots.answered[:, :, None], cross, 0.0)  # (B, M, N)
        half = solve_triangular(placed.factor, cross, lower=True)
        half = jnp.where(earlier.swapaxes(1, 2), half, 0.0)
        mean += jnp.einsum("bmn,bm->bn", half, placed.surprise)
        scale, coefficient, own, _ = jnp.exp(self.variances[...])
        alike = scale + coefficient * (features * features).sum(-1)
        prior = alike * self._confidence(asked) + own
        variance = jnp.maximum(prior - (half * half).sum(1), 0.0) + noise
        return mean, jnp.sqrt(variance)

    def embed(self, expected: Expected) -> jax.Array:
        """What the expectations (…) of the first byte add to the residual, (…, C) float32."""
        first = jnp.full(expected.mean.shape, NO_BYTE_YET, jnp.int32)
        mass = jnp.where(expected.known[..., None], masses(expected, first), 0.0)
        flat = mass.reshape(-1, BYTES) @ self.expected[...]
        return flat.reshape(*mass.shape[:-1], -1)

    def __call__(self, x: jax.Array, rows: LookupRows) -> jax.Array:
        """What to add (B, T, vocabulary) float32 to the logits of the residual (B, T, C) behind the norm."""
        assert rows.expected is not None
        height = self.height[...].astype(x.dtype)
        height = jnp.matmul(x, height, preferred_element_type=jnp.float32)
        mass = masses(rows.expected, jnp.maximum(rows.rtt_so_far, 0))
        asked = rows.expected.known & (rows.rtt_so_far >= 0)
        added = jnp.where(asked[..., None], height * jnp.log(mass + LEAST_MASS), 0.0)
        return jnp.pad(added, ((0, 0), (0, 0), (BYTE0, self.vocabulary - BYTE0 - BYTES)))

    def _prior(self, slots: Slots) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Mean (B, M), features (B, M, F) and variance of the noise (B, M) of slots, before any is measured."""
        source = look_up(self.of_source[...], slots.source_prefixes).sum(2)  # (B, M, F + 2)
        destination = look_up(self.features(), slots.destination_prefixes).sum(2)
        features = destination[..., :-2]
        mean = (source[..., :-2] * features).sum(-1) + source[..., -1] + destination[..., -1]
        noise = jnp.clip(destination[..., -2], -NOISE_RANGE, NOISE_RANGE)
        return self.mean[...][0] + mean, features, jnp.exp(self.variances[...][3] + noise)

    def _confidence(self, slots: Slots) -> jax.Array:
        """What the variance of a source's coefficients is multiplied by, (B, M): 1 for one never seen."""
        log = look_up(self.of_source[...], slots.source_prefixes)[..., -2].sum(2)
        return jnp.exp(jnp.clip(log, -2 * NOISE_RANGE, NOISE_RANGE))

    def _covariance(
        self, slots: Slots, features: jax.Array, others: Slots, of_others: jax.Array
    ) -> jax.Array:
        """Of two kinds of slots, (B, M) and (B, N), without noise: (B, M, N)."""
        scale, coefficient, own, _ = jnp.exp(self.variances[...])
        alike = scale + coefficient * jnp.einsum("bmf,bnf->bmn", features, of_others)
        same_source = slots.source[:, :, None] == others.source[:, None, :]
        same_pair = slots.destination[:, :, None] == others.destination[:, None, :]
        alike *= self._confidence(slots)[:, :, None]
        return jnp.where(same_source, alike + jnp.where(same_pair, own, 0.0), 0.0)


def placement_loss(placement: Placement, slots: Slots) -> jax.Array:
    """Mean negative log likelihood () of the RTTs in slots (B, M), each given those before it.

    Measurements of a pair that the window has already do not count: to repeat an RTT is no matter of places.
    """
    placed = placement.place(slots)
    number = jnp.arange(slots.answered.shape[1])
    earlier = number[None, :] < number[:, None]  # (M, M)
    mean, deviation = placement.expect(placed, slots, earlier[None])
    again = (slots.source[:, :, None] == slots.source[:, None, :]) & (
        slots.destination[:, :, None] == slots.destination[:, None, :]
    )
    again = (again & slots.answered[:, None, :] & earlier[None]).any(2)
    counts = slots.answered & ~again
    error = (roots(slots.first, slots.second) - mean) / deviation
    nats = jnp.where(counts, 0.5 * error * error + jnp.log(deviation), 0.0)
    return nats.sum() / jnp.maximum(counts.sum(), 1).astype(jnp.float32)


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


def masses(expected: Expected, so_far: jax.Array) -> jax.Array:
    """The probability (…, 256) of each next byte of an RTT whose root is logistic around what is expected (…), and
    whose first byte is `so_far` (…) int32, or `NO_BYTE_YET`."""
    edges = jnp.asarray(EDGES)[so_far]  # (…, 257)
    scale = expected.deviation * (np.sqrt(3.0).astype(np.float32) / np.float32(np.pi))
    below = jax.nn.sigmoid((edges - expected.mean[..., None]) / scale[..., None])
    mass = below[..., 1:] - below[..., :-1]
    total = below[..., -1:] - below[..., :1]
    even = np.float32(1 / BYTES)
    return (mass + even * np.float32(1e-6)) / (total + np.float32(1e-6))


def roots(first: jax.Array, second: jax.Array) -> jax.Array:
    """The roots of RTTs in multiples of the unit, float32, of their bytes (…) int32, as `Slots` has them."""
    code = (first & (BYTES - 1)) * BYTES + (second & (BYTES - 1))
    value = (code & 2047).astype(jnp.float32) * jnp.exp2((code >> 11).astype(jnp.float32))
    return jnp.sqrt(jnp.minimum(value, LONGEST_US) / UNIT_US)
