"""A model that is nearly certain of its RTTs: what it holds impossible, and what no answer can be."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest

from model.inference.ping_model import PingModel
from model.inference.query import RttQuery
from model.inference.weights import Weights
from stores.vocabulary import FAILED, RTT_START
from tests.model.inference.plain import CONFIG, V4, Plain, log_softmax, random_weights

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def sharp() -> tuple[PingModel, Plain]:
    """Nearly certain predictions, of weights whose vocabulary is padded with likely tokens."""
    weights = random_weights(70.0)
    arrays = dict(weights.arrays)
    arrays["embedding"] = np.pad(arrays["embedding"], ((0, 33), (0, 0)))
    columns = np.repeat([[9.0, -9.0]], [17, 16], axis=1).repeat(CONFIG.width, axis=0)
    arrays["head"] = np.concatenate([arrays["head"], columns.astype(np.float32)], axis=1)
    padded = Weights(replace(CONFIG, vocabulary=300), arrays, {})
    return PingModel(padded), Plain(weights)


def test_negligible_first_bytes_are_left_out_and_the_rest_is_exact(
    sharp: tuple[PingModel, Plain],
) -> None:
    """Sharp predictions: most first bytes have next to no probability, and that is all one loses."""
    model, plain = sharp
    prompt = RttQuery(*V4).prompt(CONFIG.context)
    tokens = np.zeros((1, 64), np.int32)
    tokens[0, : len(prompt)] = prompt
    read = model.decoder.read(tokens, np.array([len(prompt)], np.int32))
    table = jax.device_get(model.decoder.rtt_table(read))
    uniform = (table.second[0] == np.float32(-np.log(256))).all(axis=1)
    shares = np.sort(np.exp(table.first[0]))[::-1]
    assert shares[64:].sum() > 1e-6 > shares[128:].sum()  # so two chunks of 64 are computed
    assert uniform.sum() == 128
    assert np.exp(table.first[0])[uniform].sum() < 1e-6
    expected = np.exp(plain.two_bytes(prompt)).ravel()
    assert np.abs(model.predict_rtt(*V4).code_probabilities - expected).sum() < 1e-4


def test_no_probability_lands_on_a_padded_vocabulary(sharp: tuple[PingModel, Plain]) -> None:
    """The head of `sharp` finds the tokens past the vocabulary likeliest of all."""
    model, plain = sharp
    pair = "192.0.2.1", "198.51.100.7"
    prompt = RttQuery(*pair, allow_private=True).prompt(CONFIG.context)
    tokens = np.zeros((1, 64), np.int32)
    tokens[0, : len(prompt)] = prompt
    read = model.decoder.read(tokens, np.array([len(prompt)], np.int32))
    assert (read.logits.argmax(-1) >= 267).all()
    prediction = model.predict_rtt(*pair, allow_private=True)
    assert prediction.code_probabilities.sum() == pytest.approx(1)
    results = log_softmax(plain.logits(np.array([prompt[:-1]]))[0, -1, [RTT_START, FAILED]])
    assert prediction.p_failed == pytest.approx(np.exp(results[1]), rel=1e-3)
