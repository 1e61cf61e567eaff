"""A predicted RTT's numbers where the distribution is known."""

from __future__ import annotations

import numpy as np
import pytest

from model.inference.prediction import BY_RTT, CODE_MS, RttPrediction
from stores.codec import encode_rtt


def test_a_known_distribution_has_its_known_numbers() -> None:
    shares = np.zeros(65536)
    shares[[encode_rtt(ms) for ms in (10.0, 20.0, 40.0)]] = 0.5, 0.25, 0.25
    prediction = RttPrediction(0.2, shares)
    assert prediction.mean_ms == pytest.approx(20.0)
    assert (prediction.median_ms, prediction.quantile(0.51)) == (10.0, 20.0)
    assert (prediction.cdf(9.9), prediction.cdf(10.0), prediction.cdf(30.0)) == (0, 0.5, 0.75)
    assert prediction.log_likelihood(None) == pytest.approx(np.log(0.2))
    assert prediction.log_likelihood(20.0) == pytest.approx(np.log(0.8 * 0.25))
    assert prediction.log_likelihood(30.0) == -np.inf
    assert RttPrediction(1.0, shares).log_likelihood(20.0) == -np.inf  # float32 rounds to it
    shares[65535] = 1e-6  # 50 days: a softmax leaves something everywhere
    assert RttPrediction(0.2, shares).mean_ms == pytest.approx(20.0)


def test_what_a_softmax_leaves_on_every_byte_moves_no_quantile() -> None:
    """0.02 % on each of 100 first bytes of hours and days are 2 % together, and no prediction."""
    shares = np.zeros((256, 256))
    shares[-100:] = 2e-4 / 256
    near = encode_rtt(20.0)
    shares[near >> 8, near & 255] = 0.98
    prediction = RttPrediction(0.0, shares.ravel())
    assert prediction.quantile(0.999) == pytest.approx(20.0, rel=1e-3)
    assert prediction.mean_ms == pytest.approx(20.0, rel=1e-3)
    assert prediction.cdf(21.0) == pytest.approx(1.0)
    assert prediction.log_likelihood(CODE_MS[65535]) == pytest.approx(np.log(2e-4 / 256))
    even = RttPrediction(0.0, np.full(65536, 1 / 65536))  # nothing stands out: nothing is left out
    assert even.quantile(0.5) == CODE_MS[BY_RTT][65536 // 2 - 1]


def test_first_bytes_that_no_training_row_had_move_no_quantile_however_probable() -> None:
    shares = np.zeros((256, 256))
    near, far = encode_rtt(20.0), encode_rtt(3_600_000.0)
    shares[near >> 8, near & 255], shares[far >> 8, far & 255] = 0.9, 0.1
    known = np.zeros(256, bool)
    known[near >> 8] = True
    prediction = RttPrediction(0.0, shares.ravel(), known)
    assert prediction.quantile(0.999) == pytest.approx(20.0, rel=1e-3)
    assert prediction.mean_ms == pytest.approx(20.0, rel=1e-3)
    assert prediction.log_likelihood(3_600_000.0) == pytest.approx(np.log(0.1))
    elsewhere = RttPrediction(0.0, shares.ravel(), ~known & (np.arange(256) < 3))
    assert elsewhere.quantile(0.5) == pytest.approx(20.0, rel=1e-3)  # nothing known is probable
