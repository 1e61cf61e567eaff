"""Weights and optimizer in parts on four forced host devices: the same losses, a quarter of the memory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from model.config import Config
from model.devices import visible_devices
from model.inference.ping_model import load_weights
from model.run_folder import RunResult
from model.training.loop import train
from model.training.sharding import SMALL, bytes_per_device, divided_dimension
from stores.errors import ConfigError
from tests.model.conftest import QUICK_COMPILE, run_train, small_config
from tests.model.training.test_many_processes import finish, free_port

pytestmark = pytest.mark.timeout(600)  # five programs for four devices are compiled

SIZES: dict[str, Any] = {"prefix_rows": 0, "recall": False, "context": 64}


def config(fsdp: int) -> Config:
    """The runs whose losses are compared."""
    return small_config(**SIZES, width=64, mlp=64, eval_every=20, fsdp=fsdp)


def all_losses(result: RunResult) -> list[float]:
    """In training, and on test."""
    assert result.evaluation is not None
    return [*(loss for _, loss in result.losses), result.evaluation.loss]


def stopped_half_way(run: Path, to: Path) -> None:
    """A copy of a run as it was after ten of its twenty steps."""
    shutil.copytree(run, to)
    shutil.rmtree(to / "checkpoints/20")
    (to / "result.json").unlink()


RUNS = """
import json, sys
from pathlib import Path
import jax
from tests.model.conftest import small_config
from tests.model.training.test_sharding import SIZES, all_losses, config, stopped_half_way
from model.devices import visible_devices
from model.training.loop import train
from model.training.plan import plan_memory
from model.training.step import Steps

store, out = map(Path, sys.argv[1:])

def run(name, fsdp):
    return all_losses(train(config(fsdp), store, out / name))

def measure(fsdp):
    config = small_config(**SIZES, width=256, mlp=1024, layers=2, fsdp=fsdp)
    steps = Steps(config, visible_devices(fsdp))
    compiled = steps.train.memory_analysis()
    held = [0] * 4
    for array in jax.tree.leaves(steps.init()):
        for shard in array.addressable_shards:
            held[shard.device.id] += shard.data.nbytes
    return {
        "held": held,
        "arguments": compiled.argument_size_in_bytes,
        "temporary": compiled.temp_size_in_bytes,
        "planned": plan_memory(config, 2),
    }

losses = {"1": run("whole", 1), "4": run("parts", 4)}
stopped_half_way(out / "parts", out / "resumed")
losses["4, then 2"] = run("resumed", 2)
print(json.dumps({"losses": losses, "memory": [measure(1), measure(4)]}))
"""

TOGETHER = """
import json, sys
from pathlib import Path
import jax
from tests.model.training.test_sharding import all_losses, config, stopped_half_way
from model.devices import visible_devices
from model.training.cluster import joined
from model.training.loop import train
from model.training.peers import Place
from model.training.step import Steps

store, out = map(Path, sys.argv[1:3])
port, process = map(int, sys.argv[3:])

with joined(Place("127.0.0.1", port, 2, process)) as peers:
    four = train(config(4), store, out / "across", peers=peers)
    if process == 0:
        stopped_half_way(out / "across", out / "within")
    peers.share(None)
    two = train(config(2), store, out / "within", peers=peers)
    state = jax.tree.leaves(Steps(config(4), visible_devices(4)).init())
    held = sum(shard.data.nbytes for array in state for shard in array.addressable_shards)
    share = held / sum(array.nbytes for array in state)
    print(json.dumps({"losses": {"4": all_losses(four), "4, then 2": all_losses(two)}, "share": share}))
"""
"""Two processes with two devices each: the weights divided over the devices of both, then over those of one."""


def devices(count: int) -> dict[str, str]:
    return {
        **os.environ,
        "XLA_FLAGS": f"{QUICK_COMPILE} --xla_force_host_platform_device_count={count}",
    }


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sharded")


@pytest.fixture(scope="module")
def found(store: Path, out: Path) -> dict[str, Any]:
    """What `RUNS` prints."""
    command = [sys.executable, "-c", RUNS, str(store), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env=devices(4))
    assert done.returncode == 0, done.stderr
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


def test_parts_do_not_change_the_losses_nor_does_continuing_with_fewer(
    found: dict[str, Any], out: Path
) -> None:
    whole = found["losses"]["1"]
    for name, losses in found["losses"].items():
        np.testing.assert_allclose(losses, whole, rtol=2e-5, err_msg=name)
    weights, parts = (load_weights(str(out / run)).arrays for run in ("whole", "parts"))
    assert weights.keys() == parts.keys()
    for name, array in weights.items():
        assert array.shape == parts[name].shape
        np.testing.assert_allclose(array, parts[name], atol=1e-3, err_msg=name)


def test_devices_of_two_processes_share_the_weights_and_one_process_goes_on(
    store: Path, found: dict[str, Any], tmp_path: Path
) -> None:
    port = str(free_port())
    both = [
        subprocess.Popen(
            [sys.executable, "-c", TOGETHER, str(store), str(tmp_path), port, process],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=devices(2),
        )
        for process in ("0", "1")
    ]
    ended = finish(both)
    assert [status for status, _, _ in ended] == [0, 0], ended
    whole = found["losses"]["1"]
    for _, output, _ in ended:
        printed = json.loads(output)
        for name, losses in printed["losses"].items():
            np.testing.assert_allclose(losses, whole, rtol=2e-5, err_msg=name)
        assert printed["share"] < 0.6  # on two of the four devices
    saved = tmp_path / "across/checkpoints/10/state"
    assert all((saved / f"ocdbt.process_{process}/d").is_dir() for process in (0, 1))

    stopped_half_way(tmp_path / "across", tmp_path / "alone")
    alone = train(config(1), store, tmp_path / "alone")
    np.testing.assert_allclose(all_losses(alone), whole, rtol=2e-5)


def test_each_of_four_devices_keeps_a_quarter_as_planned(found: dict[str, Any]) -> None:
    whole, parts = found["memory"]
    for memory in (whole, parts):
        planned = memory["planned"]["weights"] + memory["planned"]["optimizer"]
        for held in memory["held"]:
            assert planned <= held < planned + 1000  # the rest is counts and sums
            assert held <= memory["arguments"] < held + 1000  # and rows of the batch
    assert parts["arguments"] < 0.3 * whole["arguments"]
    total, total_of_whole = (memory["arguments"] + memory["temporary"] for memory in (parts, whole))
    assert total < 0.7 * total_of_whole  # the rest are activations


def test_large_arrays_are_divided_along_the_largest_dimension_that_k_divides() -> None:
    assert divided_dimension((640, 2560), 4) == 1
    assert divided_dimension((268, 641), 4) == 0
    assert divided_dimension((267, 641), 4) is None
    assert divided_dimension((SMALL - 4,), 4) is None
    assert divided_dimension((SMALL,), 4) == 0
    assert divided_dimension((640, 2560), 1) is None
    shapes = [jax.ShapeDtypeStruct((SMALL, 8), np.float32), jax.ShapeDtypeStruct((8,), np.int32)]
    assert bytes_per_device(shapes, 1) == SMALL * 32 + 32
    assert bytes_per_device(shapes, 8) == SMALL * 4 + 32


def test_devices_that_cannot_share_the_weights_are_refused(store: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fsdp 2 over 1 devices: expected a divisor of 1"):
        visible_devices(2)
    done = run_train(store, tmp_path / "run", "--fsdp", "2", "--devices", "4")
    assert done.returncode == 1
    assert done.stderr == ("error: --devices and --device-memory: only for a plan: add --dry-run\n")
