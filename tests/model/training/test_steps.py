"""Steps of training: which arrays they change, at what rate, and that they learn; in this process."""

from __future__ import annotations

import functools
import operator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.config import Config
from model.devices import visible_devices
from model.network.lookups import lookup_rows
from model.training.loop import train
from model.training.optimizer import PLACEMENT_RATE, make_optimizer, make_schedule
from model.training.step import Steps, TrainState
from stores.codec import Measurement, encode_window
from tests.model.conftest import small_config


def test_steps_run_under_the_transfer_guard_and_reuse_the_state(store: Path) -> None:
    config, devices = small_config(placement_windows=0), visible_devices()
    steps = Steps(config, devices)
    rows = np.zeros((8, 128), np.uint16), np.full(8, 100, np.uint16)
    batch = jax.device_put(rows, (devices.by_row, devices.by_row))
    with jax.transfer_guard("disallow"):
        state = steps.init()
        after, _ = steps.train(state, *batch)
        assert int(jax.device_get(after.step)) == 1
    donated = [leaf.is_deleted() for leaf in jax.tree.leaves(state.weights)]
    assert all(donated)


def test_norm_scales_do_not_decay_and_matrices_do(store: Path) -> None:
    devices = visible_devices()
    rows = np.zeros((8, 128), np.uint16), np.zeros(8, np.uint16)  # nothing live: gradients are 0
    batch = jax.device_put(rows, (devices.by_row, devices.by_row))
    for optimizer in ("adamw", "muon"):
        config = small_config(
            optimizer=optimizer, weight_decay=0.5, warmup_steps=0, placement_windows=0
        )
        steps = Steps(config, devices)
        before = jax.device_get(steps.init().weights)
        state, _ = steps.train(steps.init(), *batch)
        after = jax.device_get(state.weights)
        was, now = (weights["blocks"][0] for weights in (before, after))
        np.testing.assert_array_equal(was["mlp_norm"]["scale"][...], now["mlp_norm"]["scale"][...])
        was, now = (block["mlp_in"]["kernel"][...] for block in (was, now))
        assert np.abs(now).sum() < np.abs(was).sum()


def test_tables_alone_decay_by_their_own_rate() -> None:
    config = small_config(
        optimizer="muon", prefix_rate=10, prefix_decay=0.5, learning_rate=1e-2, warmup_steps=0
    ).train
    weights = {"lookups": {"prefix": np.ones((4, 2), "f4")}, "head": np.ones((4, 2), "f4")}
    optimizer = make_optimizer(config, tables=True)
    nothing = jax.tree.map(np.zeros_like, weights)
    with jax.numpy_dtype_promotion("standard"):
        _, state = optimizer.update(nothing, optimizer.init(weights), weights)  # at the rate 0
        update, _ = optimizer.update(nothing, state, weights)
    rate = float(make_schedule(config)(1))
    assert rate > 1e-3
    np.testing.assert_allclose(update["lookups"]["prefix"], -10 * 0.5 * rate, rtol=1e-5)
    np.testing.assert_array_equal(update["head"], 0)


def test_what_places_a_source_learns_at_a_rate_of_its_own() -> None:
    config = small_config(weight_decay=0, warmup_steps=0).train
    weights = {"placement": {"of_source": np.ones((4, 2), "f4"), "expected": np.ones((4, 2), "f4")}}
    optimizer = make_optimizer(config, placement=True)
    with jax.numpy_dtype_promotion("standard"):
        _, state = optimizer.update(weights, optimizer.init(weights), weights)  # at the rate 0
        update, _ = optimizer.update(weights, state, weights)
    own, others = (update["placement"][name] for name in ("of_source", "expected"))
    assert np.abs(others).min() > 0
    np.testing.assert_allclose(own, PLACEMENT_RATE * others, rtol=1e-5)


def window_of_a_source() -> np.ndarray:
    """Pings of some destinations, eight times the same window: (8, 128) uint16."""
    source, *others = (ip_address(f"192.0.2.{host}") for host in range(1, 8))
    rows = [(Measurement(source, there, 20.0, 1_700_000_000), False) for there in others]
    window = encode_window(rows)
    tokens = np.zeros((8, 128), np.uint16)
    tokens[:, : len(window)] = window
    return tokens


def state_after(config: Config, steps: int, *rows: np.ndarray) -> TrainState:
    """What is learned from the same rows in so many steps."""
    devices = visible_devices()
    compiled = Steps(config, devices)
    batch = jax.device_put(rows, (devices.by_row,) * len(rows))
    state = compiled.init()
    for _ in range(steps):
        state, _ = compiled.train(state, *batch)
    return state


@pytest.mark.parametrize("own_windows", [False, True])
def test_a_placement_is_not_told_whole_sources_though_none_are_hidden(own_windows: bool) -> None:
    config = small_config(
        hidden_sources=0,
        composed=0,
        placement_windows=8 if own_windows else 0,
        prefix_rows=2**14,
        weight_decay=0,
        warmup_steps=0,
    )
    tokens = window_of_a_source()
    rows = (tokens, np.full(8, 128, np.uint16), tokens)
    state = state_after(config, 3, *rows[: 3 if own_windows else 2])
    table = np.asarray(state.weights["placement"]["of_source"][...])
    looked_up = lookup_rows(jnp.asarray(tokens[:1], jnp.int32), config.model.prefix_rows)
    [whole] = np.unique(looked_up.source[looked_up.source >= 0])
    assert table.any()  # networks are told
    assert not table[whole].any()


def test_a_placement_with_windows_of_its_own_learns_from_them_alone_and_the_rest_does_not() -> None:
    config = small_config(placement_windows=8, weight_decay=0, warmup_steps=0, dropout=0)
    full, empty = window_of_a_source(), np.zeros((8, 128), np.uint16)
    lengths = np.full(8, 128, np.uint16)
    start = jax.device_get(Steps(config, visible_devices()).init().weights)

    def changed(tokens: np.ndarray, of_sources: np.ndarray, *path: str) -> bool:
        rows = tokens, lengths * tokens.any(), of_sources
        weights = jax.device_get(state_after(config, 2, *rows).weights)
        before, after = (functools.reduce(operator.getitem, path, w) for w in (start, weights))
        return not np.array_equal(before[...], after[...])

    features, table = ("placement", "of_destination"), ("lookups", "carried")
    assert changed(empty, full, *features)
    assert not changed(full, empty, *features)
    assert changed(full, empty, *table)
    assert not changed(empty, full, *table)


@pytest.mark.parametrize(
    "switch",
    [
        {"optimizer": "muon"},
        {"schedule": "wsd"},
        {"prefix_rows": 0},
        {"composed": 0, "hidden_sources": 0},
        {"scattered": 0.5, "prefix_decay": 0.1},
        {"answer_weight": 10, "second_byte_weight": 10},
    ],
)
def test_a_run_learns_with_every_switch(
    store: Path, tmp_path: Path, switch: dict[str, Any]
) -> None:
    config = small_config(steps=30, learning_rate=0.01, eval_every=100, save_every=100, **switch)
    result = train(config, store, tmp_path / "run")
    assert result.losses[-1][1] < result.losses[0][1] - 0.1


def test_schedules_warm_up_and_end_at_the_stated_fraction() -> None:
    from model.training.optimizer import make_schedule

    with jax.numpy_dtype_promotion("standard"):
        for name, at_70 in (("cosine", None), ("wsd", 1e-3)):
            config = small_config(schedule=name, steps=100, warmup_steps=10, learning_rate=1e-3)
            schedule = make_schedule(config.train)
            assert float(schedule(0)) == 0
            assert float(schedule(5)) == pytest.approx(5e-4)
            assert float(schedule(10)) == pytest.approx(1e-3)
            assert float(schedule(100)) == pytest.approx(1e-4)
            if at_70:
                assert float(schedule(70)) == pytest.approx(at_70)


def test_one_batch_can_be_overfitted(store: Path, tmp_path: Path) -> None:
    config = small_config(
        overfit_one_batch=True, steps=300, learning_rate=0.02, dropout=0, log_every=50,
        width=64, batch_size=2, context=64, eval_every=1000, save_every=1000,
    )  # fmt: skip
    result = train(config, store, tmp_path / "run")
    assert result.loss < 0.3
