"""Nats of fields and bytes against models whose every probability is known."""

from __future__ import annotations

import math
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpy.typing import NDArray

from model.config import ModelConfig
from model.evaluate.likelihood import byte_report, find_fields, likelihood_report, token_scores
from stores.codec import Measurement, encode_window, field_order
from stores.reader import TokenStore
from stores.vocabulary import BYTE0, CONTEXT, FAILED, FIELDS, RTT_START, VOCABULARY_SIZE
from tests.model.conftest import small_config


class FakeModel(nnx.Module):
    """Says the same log-odds of every token everywhere, or (B, T, V) what `known` makes of the tokens."""

    def __init__(self, logits: NDArray[np.float32], knows_next: bool = False) -> None:
        self.config: ModelConfig = small_config().model
        self.logits = nnx.Param(jnp.asarray(logits))
        self.knows_next = knows_next

    def __call__(self, tokens: jax.Array) -> jax.Array:
        constant = jnp.broadcast_to(self.logits[...], (*tokens.shape, len(self.logits[...])))
        if not self.knows_next:
            return constant
        upcoming = jnp.roll(tokens, -1, axis=1)
        return constant + 30 * jax.nn.one_hot(upcoming, VOCABULARY_SIZE, dtype=jnp.float32)


UNIFORM = np.zeros(VOCABULARY_SIZE, np.float32)
V4 = [IPv4Address(a) for a in ("192.0.2.1", "198.51.100.7", "198.51.100.8")]
V6 = [IPv6Address(a) for a in ("2001:db8::1", "2001:db8:7::9")]
WINDOW = [
    Measurement(V4[0], V4[1], 20.0, 1_700_000_000),
    Measurement(V4[0], V4[2], None, 1_700_000_060),
    Measurement(V4[0], V4[1], 25.0, 1_700_000_900),
    Measurement(V6[0], V6[1], 80.0, 1_700_000_950),
]
TIMED = (True, True, False, True)


def windows(*rows: list[int]) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    tokens = np.zeros((len(rows), CONTEXT), np.uint16)
    for at, row in enumerate(rows):
        tokens[at, : len(row)] = row
    return tokens, np.array([len(row) for row in rows], np.uint16)


@pytest.fixture
def known() -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    return windows(encode_window(zip(WINDOW, TIMED, strict=True)))


def scores(model: Any, tokens: NDArray[np.uint16]) -> tuple[Any, Any]:
    return token_scores(model, tokens, lambda count: None)


def test_fields_are_found_with_what_came_before_them(known: Any) -> None:
    fields = find_fields(*known)
    assert fields.measurement.tolist() == [0] * 4 + [1] * 4 + [2] * 3 + [3] * 4
    expected, before = [], []
    for item, timed in zip(WINDOW, TIMED, strict=True):
        order = field_order(item.src, item.dst, item.time or 0, timed)
        expected += order
        before += [sum(1 << field for field in order[:at]) for at in range(len(order))]
    assert fields.field.tolist() == expected
    assert fields.before.tolist() == before
    again = {
        (FIELDS[f], m) for f, m in zip(expected, fields.measurement[fields.again], strict=False)
    }
    assert len(again) == fields.again.sum() == 3  # the source twice, the first destination once
    assert fields.again[fields.measurement == 0].sum() == 0
    assert fields.again[(fields.measurement == 2)].sum() == 2
    assert fields.again[fields.measurement == 3].sum() == 0


def test_a_second_window_has_seen_nothing_of_the_first() -> None:
    row = encode_window([(WINDOW[0], True)])
    fields = find_fields(*windows(row, row))
    assert not fields.again.any()
    assert fields.window.tolist() == [0] * 4 + [1] * 4


def test_a_uniform_model_has_the_nats_of_its_choices(known: Any) -> None:
    """Field order is not counted; a role is a choice among those of its field."""
    tokens, lengths = known
    nats, _ = scores(FakeModel(UNIFORM), tokens)
    fields = find_fields(tokens, lengths)
    own = fields.sums(nats)
    byte = math.log(256)
    sizes = {"src": 4, "dst": 4, "result": 2, "time": 8}
    choices = {"src": 2, "dst": 2, "result": 2, "time": 3}
    first = fields.measurement == 0
    for field, found in zip(fields.field[first], own[first], strict=True):
        name = FIELDS[field]
        assert found == pytest.approx(math.log(choices[name]) + sizes[name] * byte, rel=1e-5)
    failed = own[(fields.role == FAILED)]
    assert failed == pytest.approx([math.log(2)], rel=1e-5)
    assert nats[0, 0] == 0


def test_a_model_that_knows_the_failure_rate_has_its_entropy(known: Any) -> None:
    tokens, lengths = known
    logits = UNIFORM.copy()
    logits[FAILED] = math.log(1 / 9)  # 10 % of results, whatever the odds of other roles
    fields = find_fields(tokens, lengths)
    nats, hits = scores(FakeModel(logits), tokens)
    assert nats[0, fields.start[fields.role == FAILED]] == pytest.approx(-math.log(0.1), rel=1e-5)
    answered = fields.start[fields.role == RTT_START]
    assert nats[0, answered] == pytest.approx([-math.log(0.9)] * 3, rel=1e-5)
    assert hits[0, answered].all()
    assert not hits[0, fields.start[fields.role == FAILED]].any()


def test_bytes_of_addresses_are_counted_by_position(known: Any) -> None:
    """The likeliest byte is always 192: right in the first place of IPv4 sources, and nowhere else."""
    tokens, lengths = known
    logits = UNIFORM.copy()
    logits[BYTE0 + 192] = math.log(256)  # of 511 = 256 + 255
    fields = find_fields(tokens, lengths)
    report = byte_report(fields, *scores(FakeModel(logits), tokens))
    source = report["ipv4"]["src"]
    assert (source["new"].count, source["again"].count) == (1, 2)
    assert source["new"].accuracy == [1, 0, 0, 0]
    expected = (math.log(511 / 256) + 3 * math.log(511)) / 4
    assert source["again"].perplexity == pytest.approx(math.exp(expected), rel=1e-5)
    target = report["ipv4"]["dst"]
    assert (target["new"].count, target["again"].count) == (2, 1)
    assert target["new"].perplexity == pytest.approx(511, rel=1e-5)
    assert report["ipv6"]["src"]["new"].accuracy == [0] * 16
    assert "again" not in report["ipv6"]["dst"]


def test_a_model_that_knows_the_next_token_has_no_nats(store: Path) -> None:
    told: list[int] = []
    model = FakeModel(UNIFORM, knows_next=True)
    report = likelihood_report(model, TokenStore.open(store), 9, told.append)  # type: ignore[arg-type]
    assert told == [8, 1, 8, 1]
    for likelihood in (report.full, report.none):
        assert likelihood.total == pytest.approx(0, abs=1e-6)
        assert likelihood.measurements > 9
    accuracies = [
        kind.accuracy
        for fields in report.bytes.values()
        for kinds in fields.values()
        for kind in kinds.values()
    ]
    assert np.concatenate(accuracies).min() == 1


def test_orders_and_conditionals_split_the_same_measurements(store: Path) -> None:
    report = likelihood_report(FakeModel(UNIFORM), TokenStore.open(store), 8)  # type: ignore[arg-type]
    for table, orders, known in ((report.full, 24, 8), (report.none, 6, 4)):
        assert 1 < len(table.orders) <= orders
        counts = [order.measurements for order in table.orders.values()]
        assert sum(counts) == table.measurements
        weighted = sum(o.measurements * o.nats for o in table.orders.values())
        assert weighted / table.measurements == pytest.approx(table.total)
        for field, by_known in table.conditionals.items():
            assert "nothing" in by_known
            assert len(by_known) <= known
            total = sum(entry.count * entry.nats for entry in by_known.values())
            assert total / table.measurements == pytest.approx(table.nats[field])
    assert set(report.none.conditionals) == {"src", "dst", "result"}
