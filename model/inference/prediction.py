"""The answers of a trained model, in host memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from model.inference.checks import parse_rtt
from stores.codec import Address, decode_rtts, encode_rtt, encode_rtts

CODES = 2**16
CODE_MS: NDArray[np.float64] = decode_rtts(np.arange(CODES, dtype=np.uint16))
"""RTT in ms of each code, (65536,)."""
BY_RTT = np.argsort(CODE_MS, kind="stable")
"""Codes by ascending RTT, (65536,)."""
CANONICAL: NDArray[np.bool_] = encode_rtts(CODE_MS) == np.arange(CODES)
"""Which codes the encoder writes, (65536,): the others repeat an RTT with a larger exponent."""
NOISE = 1e-3
"""For a model that cannot tell which first bytes of the RTT code its training rows had: one less probable
than this is no prediction, but what a softmax leaves everywhere. Some 200 bytes that no row has add up to a
percent, most of it on RTTs of hours and days."""

QUANTILES = (0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975)


def tempered(probabilities: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """Distributions (…, n) at a temperature: each probability to the power of 1 / temperature, normalized. The
    bytes of a code are tempered one by one, as their tokens would be: so a first byte gains nothing from how
    little is known of the second."""
    powers: NDArray[np.float64] = probabilities ** (1 / temperature)
    powers /= powers.sum(axis=-1, keepdims=True)
    return powers


@dataclass(frozen=True, eq=False)
class RttPrediction:
    """The whole distribution of a ping's result: no answer, or one of 65,536 RTT codes.

    Everything but `p_failed` and `log_likelihood` assumes that the ping is answered. Mean, quantiles and CDF
    leave out first bytes of the code that no training row has, and are those at the model's `temperature`;
    `code_probabilities` and `log_likelihood` are those of the tokens.
    """

    p_failed: float
    """Probability of no answer."""
    code_probabilities: NDArray[np.float64]
    """(65536,) of each RTT code, given an answer; they sum to 1."""
    known_first: NDArray[np.bool_] | None = None
    """(256,) first bytes of the code that some training row has; `None` if the model cannot tell."""
    temperature: float = 1.0
    """Above 1, the distribution is wider than the model's own. How it is found: `model.evaluate.temperature`."""

    def __repr__(self) -> str:
        """Median and 80 % interval, and how likely there is no answer."""
        low, median, high = self.quantile([0.1, 0.5, 0.9])
        return (
            f"RttPrediction(median {median:.4g} ms, 80 % within {low:.4g} to {high:.4g} ms, "
            f"no answer {self.p_failed:.2%})"
        )

    @cached_property
    def _plausible(self) -> NDArray[np.float64]:
        """(65536,) `code_probabilities` without the noise, at the temperature; they sum to 1."""
        by_first = self.code_probabilities.reshape(256, 256)
        first = by_first.sum(axis=1)
        kept = self.known_first
        if kept is None or first[kept].sum() == 0:
            kept = first >= min(NOISE, float(first.max()))
        kept = kept & (first > 0)
        plausible = np.zeros_like(by_first)
        plausible[kept] = by_first[kept]
        if self.temperature != 1:
            second = by_first[kept] / first[kept, None]
            plausible[kept] = tempered(first[kept], self.temperature)[:, None] * tempered(
                second, self.temperature
            )
        plausible /= plausible.sum()
        return plausible.ravel()

    @cached_property
    def _cumulative(self) -> NDArray[np.float64]:
        """Cumulative probability of the codes in the order of `BY_RTT`, (65536,), without the noise."""
        total: NDArray[np.float64] = np.cumsum(self._plausible[BY_RTT])
        total /= total[-1]
        return total

    @property
    def median_ms(self) -> float:
        """Median in ms: the prediction with the smallest expected absolute error."""
        return float(self.quantile(0.5))

    @property
    def mean_ms(self) -> float:
        """Mean in ms."""
        return float(self._plausible @ CODE_MS)

    def quantile(self, q: ArrayLike) -> Any:
        """Smallest RTT in ms that an answered ping does not exceed with probability `q`.

        `q` and the result are floats, or arrays of the same shape. Raises `ValueError` outside 0 to 1.
        """
        level = np.asarray(q, np.float64)
        if not np.all((level >= 0) & (level <= 1)):
            raise ValueError("q: expected levels from 0 to 1")
        found = np.searchsorted(self._cumulative, level, side="left")
        result = CODE_MS[BY_RTT[np.minimum(found, CODES - 1)]]
        return float(result) if level.ndim == 0 else result

    def cdf(self, rtt_ms: ArrayLike) -> Any:
        """Probability that an answered ping takes at most `rtt_ms`; floats, or arrays of the same shape."""
        rtt = np.asarray(rtt_ms, np.float64)
        below = np.searchsorted(CODE_MS[BY_RTT], rtt, side="right")
        result = np.append(0.0, self._cumulative)[below]
        return float(result) if rtt.ndim == 0 else result

    def log_likelihood(self, rtt_ms: float | None) -> float:
        """Log-probability (nats) of this result: of no answer for `None`, else of an answer with the
        code of `rtt_ms`. Raises `QueryError` for a negative or non-finite RTT."""
        rtt = parse_rtt("rtt_ms", rtt_ms)
        if rtt is None:
            return _log(self.p_failed)
        return _log(1 - self.p_failed) + _log(self.code_probabilities[encode_rtt(rtt)])

    def as_dict(self) -> dict[str, Any]:
        """JSON-able: `median_ms`, `mean_ms`, `p_failed`, `quantiles_ms` {level: ms}."""
        return {
            "median_ms": self.median_ms,
            "mean_ms": self.mean_ms,
            "p_failed": self.p_failed,
            "quantiles_ms": {f"{q:g}": float(self.quantile(q)) for q in QUANTILES},
        }


@dataclass(frozen=True)
class Completion:
    """An address that begins with the known prefix."""

    address: Address
    probability: float
    """Given the prefix: the product of `byte_probabilities`."""
    byte_probabilities: tuple[float, ...]
    """Of each completed byte, given those before it."""
    unmet_prefix: str | None = None
    """Its /16 (IPv6: /32), if training had no address of that field in it."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "address": str(self.address),
            "probability": self.probability,
            "byte_probabilities": list(self.byte_probabilities),
            "unmet_prefix": self.unmet_prefix,
        }


@dataclass(frozen=True)
class SampledAddress:
    """A destination drawn for an RTT."""

    address: Address
    log_probability: float
    """Nats, of this destination and an RTT within tolerance, given source and context."""
    p_within: float
    """Probability that a ping to it is answered within tolerance of the target."""
    unmet_prefix: str | None = None
    """As of a `Completion`."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "address": str(self.address),
            "log_probability": self.log_probability,
            "p_within": self.p_within,
            "unmet_prefix": self.unmet_prefix,
        }


CONVINCING = 0.1
"""The `p_within` that the best of some samples has at least, if the search found anything: below it, nine of ten
pings even there would be outside the tolerance. Where nothing is known, some 4 % are within ± 5 %."""


def is_convincing(samples: Sequence[SampledAddress]) -> bool:
    """Whether the best of some samples is at the RTT that was asked for with a probability worth the name."""
    return max((sample.p_within for sample in samples), default=0.0) >= CONVINCING


def _log(probability: float) -> float:
    return math.log(probability) if probability > 0 else -math.inf
