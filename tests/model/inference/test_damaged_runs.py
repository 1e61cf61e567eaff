"""Runs that are damaged, or claim what they do not hold: one line, and at once."""

from __future__ import annotations

import json
import random
import shutil
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from model.config import Config
from model.devices import visible_devices
from model.inference.ping_model import load_weights
from model.inference.weights import read_run
from model.model_files import DIGESTS_FILE
from model.run_folder import RunRecord
from model.training.checkpoint import Checkpoints
from model.training.step import Steps
from stores.errors import CheckpointError
from stores.files import write_json
from tests.helpers import flip_bit
from tests.model.conftest import small_config
from tests.model.inference.damage import HUGE, is_same


def write_run(path: Path, steps: tuple[int, ...] = (10,), scale: float = 1.0) -> Path:
    """A run with untrained weights, one of them multiplied by `scale`, and without evaluations."""
    config: Config = small_config()
    record = RunRecord("0" * 64, config, "0.2.0")
    write_json(path / "run.json", record.as_dict())
    state = Steps(config, visible_devices()).init()
    norm = state.weights["final_norm"]["scale"]
    norm[...] = norm[...] * jnp.float32(scale)
    with Checkpoints(path / "checkpoints", 10) as checkpoints:
        for step in steps:
            checkpoints.save(step, state, record, None)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run") / "run", (10, 20))


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(run, tmp_path / "run")


def test_a_damaged_checkpoint_does_not_answer(copied: Path) -> None:
    largest = max((copied / "checkpoints" / "20").rglob("*"), key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"20: cannot be read .*damaged.*remove this folder"):
        load_weights(copied)
    shutil.rmtree(copied / "checkpoints" / "20")
    assert load_weights(copied).origin["step"] == 10


def test_a_flipped_bit_in_a_run_is_an_error_or_harmless(copied: Path, tmp_path: Path) -> None:
    rng = random.Random(0)
    expected = load_weights(copied)
    for _ in range(10):
        other = shutil.copytree(copied, tmp_path / "other")
        file = flip_bit(other / "checkpoints" / "20", rng)
        try:
            assert is_same(load_weights(other), expected)
            assert file.name in ("commit_success.txt", "_CHECKPOINT_METADATA"), file
        except CheckpointError as error:
            assert "remove this folder" in str(error)  # noqa: PT017
        shutil.rmtree(other)


@pytest.mark.parametrize("claim", [{"layers": HUGE}, {"width": HUGE, "heads": 1}, {"mlp": 63}])
def test_a_checkpoint_that_claims_another_model_is_refused_at_once(
    copied: Path, claim: dict[str, int]
) -> None:
    """A checkpoint without digests may have been edited to claim one."""
    checkpoint = copied / "checkpoints" / "20"
    (checkpoint / DIGESTS_FILE).unlink()
    file = checkpoint / "record" / "metadata"
    record = json.loads(file.read_bytes())
    record["config"]["model"].update(claim)
    file.write_text(json.dumps(record))
    began = time.monotonic()
    with pytest.raises(CheckpointError, match=r"record: describes a model of .* weights, but"):
        read_run(copied)
    assert time.monotonic() - began < 5


def test_a_run_without_digests_is_loaded(copied: Path) -> None:
    expected = load_weights(copied)
    for digests in copied.glob(f"checkpoints/*/{DIGESTS_FILE}"):
        digests.unlink()
    assert is_same(load_weights(copied), expected)


def test_a_checkpoint_with_nan_is_refused_by_name(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", scale=np.nan)
    with pytest.raises(CheckpointError, match=r"10: final_norm\.scale holds 32 weights"):
        read_run(run)


@pytest.mark.parametrize(
    "line", ["{", "[]", "3", '{"step": 20}', '{"step": "x", "nats_per_measurement": 1}', "\xff"]
)
def test_a_damaged_line_of_evaluations_is_an_error(copied: Path, line: str) -> None:
    whole = (
        '{"step": 20, "nats_per_measurement": 1.0}'  # behind the last whole line, all is left out
    )
    (copied / "evaluations.jsonl").write_text(f"{line}\n{whole}\n", encoding="latin-1")
    with pytest.raises(CheckpointError, match=r"evaluations\.jsonl"):
        read_run(copied)


def test_a_loss_that_is_not_a_number_is_not_the_lowest(copied: Path) -> None:
    losses = ((10, "NaN"), (20, "5.0"))
    lines = (f'{{"step": {step}, "nats_per_measurement": {loss}}}\n' for step, loss in losses)
    (copied / "evaluations.jsonl").write_text("".join(lines))
    assert read_run(copied).origin["step"] == 20


def test_other_names_among_the_checkpoints_are_left_alone(copied: Path) -> None:
    for name in ("²", "٣", "30.orbax-checkpoint-tmp", "notes"):
        (copied / "checkpoints" / name).mkdir()
    assert read_run(copied).origin["step"] == 20
