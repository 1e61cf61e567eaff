"""Training that starts from the weights of another model."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from model.devices import visible_devices
from model.inference.weights import read_run
from model.network.named_weights import flatten_dict
from model.training.loop import train
from model.training.step import Steps
from stores.errors import CheckpointError
from stores.push import push
from stores.reader import TokenStore
from tests.model.conftest import run_train, small_config


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
    where = tmp_path / "bucket"
    options = ("--dry-run", "--store", where.as_uri())
    planned = run_train(
        store, tmp_path / "run", *options, env={"XDG_CACHE_HOME": str(tmp_path / "cache")}
    )
    assert planned.returncode == 0, planned.stderr
    assert TokenStore.open(store).digest in planned.stdout


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
