"""Training that starts from the weights of another model."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from model.devices import visible_devices
from model.evaluate.first_look import take_first_look
from model.inference.weights import read_run
from model.network.named_weights import flatten_dict
from model.training.loop import train
from model.training.step import Steps
from stores.errors import CheckpointError
from stores.layout import MODES
from stores.push import push
from stores.reader import TokenStore
from tests.helpers import random_measurements, windows_of_mode, write_store
from tests.model.conftest import command, run_train, small_config


def test_the_first_state_has_the_given_weights_and_nothing_else_of_the_model(store: Path) -> None:
    steps = Steps(small_config(), visible_devices())
    donor = Steps(small_config(seed=7), visible_devices()).init().weights
    arrays = {
        ".".join(map(str, path)): np.asarray(leaf)
        for path, leaf in flatten_dict(nnx.to_pure_dict(donor)).items()
    }
    state = jax.device_get(steps.start_from(arrays))
    fresh = jax.device_get(steps.init())
    jax.tree.map(np.testing.assert_array_equal, state.weights, jax.device_get(donor))
    jax.tree.map(np.testing.assert_array_equal, state.optimizer, fresh.optimizer)
    assert int(state.step) == 0


def test_weights_of_another_shape_are_refused_by_name(store: Path) -> None:
    steps = Steps(small_config(), visible_devices())
    arrays = {
        ".".join(map(str, path)): np.asarray(leaf)
        for path, leaf in flatten_dict(nnx.to_pure_dict(steps.init().weights)).items()
    }
    with pytest.raises(CheckpointError, match=r"final_norm\.scale has the shape"):
        steps.start_from(arrays | {"final_norm.scale": np.ones(7, np.float32)})
    del arrays["head"]
    with pytest.raises(CheckpointError, match="head is missing"):
        steps.start_from(arrays)


def test_a_store_may_be_named_by_its_url(store: Path, tmp_path: Path) -> None:
    push(store, (tmp_path / "bucket").as_uri())
    line = command(store, tmp_path / "run", "--dry-run")
    line[line.index("--store") + 1] = (tmp_path / "bucket").as_uri()
    cache = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    planned = subprocess.run(line, capture_output=True, text=True, timeout=120, env=cache)
    assert planned.returncode == 0, planned.stderr
    assert TokenStore.open(store).digest in planned.stdout


def test_a_first_look_is_taken_again_after_more_steps(store: Path, tmp_path: Path) -> None:
    train(small_config(steps=5), store, tmp_path / "run")
    said: list[str] = []
    first = take_first_look(store, tmp_path / "run", 5, said.append)
    assert first is not None
    assert take_first_look(store, tmp_path / "run", 5, said.append) == first
    assert len(said) == 1
    again = take_first_look(store, tmp_path / "run", 10, said.append)
    assert again is not None
    assert (first.steps, again.steps, len(said)) == (5, 10, 2)


def test_a_store_without_answers_gets_no_first_look_and_is_told_so(tmp_path: Path) -> None:
    counts = {"train": 3000, "test": 400}
    arrays = {
        (split, mode): windows_of_mode(
            [replace(row, rtt_ms=None) for row in random_measurements(count, 1)], mode, 0
        )
        for split, count in counts.items()
        for mode in MODES
    }
    store = write_store(tmp_path / "store.zarr", arrays, counts)
    train(small_config(steps=5), store, tmp_path / "run")
    said: list[str] = []
    assert take_first_look(store, tmp_path / "run", 5, said.append) is None
    assert "no first look: a split has no answered row" in said[-1]


def test_init_from_takes_over_shape_and_weights_and_ends_with_a_first_look(
    store: Path, tmp_path: Path
) -> None:
    before = train(small_config(width=64, steps=40, learning_rate=0.01), store, tmp_path / "donor")
    options = ("--init-from", str(tmp_path / "donor"))
    done = run_train(store, tmp_path / "run", *options, steps=5, learning_rate=1e-6)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["parameters"] == before.parameters
    assert before.evaluation is not None
    reached = result["evaluation"]["nats_per_measurement"]
    assert reached == pytest.approx(before.evaluation.nats_per_measurement, rel=0.01)
    look = result["first_look"]
    assert set(look["errors_ms"]) == {
        "model, without context",
        "model, with context",
        "DMFSGD",
        "history of the pair",
    }
    assert all(set(errors) == set(look["asked"]) for errors in look["errors_ms"].values())
    assert json.loads((tmp_path / "run" / "first_look.json").read_text()) == look
    assert read_run(tmp_path / "run").config.width == 64
