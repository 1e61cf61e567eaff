"""Checkpoints on disk: their digests, and which of them are kept."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.model_files import DIGESTS_FILE
from model.run_folder import RunRecord
from model.training.checkpoint import Checkpoints
from stores.errors import CheckpointError
from tests.helpers import flip_bit
from tests.model.conftest import small_config

RECORD = RunRecord("0" * 64, small_config(), "0.2.0")


def state_of(seed: int) -> dict[str, jax.Array]:
    """A small tree in the place of a `TrainState`, with an array that fills a file of its own."""
    numbers = jnp.asarray(np.random.default_rng(seed).normal(size=(64, 64)), jnp.float32)
    return {"weights": numbers, "step": jnp.asarray(seed)}


def save(path: Path, *losses: tuple[int, float | None], keep: int = 10) -> None:
    """Save these steps with their test losses, in a process of its own as far as Orbax can tell."""
    with Checkpoints(path, keep) as checkpoints:
        for step, loss in losses:
            checkpoints.save(step, state_of(step), RECORD, loss)


def read(path: Path) -> tuple[RunRecord, dict[str, np.ndarray]]:
    """The last checkpoint, as a run continues from it."""
    with Checkpoints(path, 10) as checkpoints:
        step = checkpoints.steps()[-1]
        record = checkpoints.read_record(step)
        like = jax.eval_shape(lambda: state_of(step))
        return record, jax.device_get(checkpoints.restore(step, like))


def assert_is(found: tuple[RunRecord, dict[str, np.ndarray]], step: int) -> None:
    record, state = found
    assert record == RECORD
    for name, array in state_of(step).items():
        np.testing.assert_array_equal(state[name], array)


def test_the_best_checkpoint_is_kept_when_the_run_is_continued(tmp_path: Path) -> None:
    save(tmp_path / "run", (1, 3.0), (2, None), keep=1)
    save(tmp_path / "run", (3, 5.0), (4, 4.0), (5, None), keep=1)
    with Checkpoints(tmp_path / "run", 1) as checkpoints:
        assert checkpoints.steps() == [1, 5]


# --- Digests ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of the steps 1 and 2."""
    path = tmp_path_factory.mktemp("saved") / "run"
    save(path, (1, 3.0), (2, 2.0))
    return path


def test_a_checkpoint_is_complete_with_its_digests(saved: Path) -> None:
    assert_is(read(saved), 2)
    for step in ("1", "2"):
        digests = json.loads((saved / step / DIGESTS_FILE).read_bytes())
        items = {name.partition("/")[0] for name in digests}
        assert items == {"state", "record", "metrics"}


def test_a_flipped_bit_anywhere_is_named_or_harmless(saved: Path, tmp_path: Path) -> None:
    """Harmless: in files of Orbax that nothing is restored from."""
    rng = random.Random(0)
    told = []
    for _ in range(20):
        copy = shutil.copytree(saved, tmp_path / "copy")
        file = flip_bit(copy / "2", rng)
        try:
            assert_is(read(copy), 2)
            assert file.name in ("commit_success.txt", "_CHECKPOINT_METADATA"), file
        except CheckpointError as error:
            told.append(str(error))
        shutil.rmtree(copy)
    assert len(told) > 10
    for line in told:
        assert re.fullmatch(r".*/2: cannot be read \(.*\): remove this folder .*", line), line


def test_the_damaged_file_is_named_and_an_earlier_checkpoint_goes_on(
    saved: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(saved, tmp_path / "copy")
    file = max((copy / "2" / "state").rglob("*"), key=lambda file: file.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{file.relative_to(copy / '2')} is damaged"):
        read(copy)
    file.unlink()
    with pytest.raises(CheckpointError, match=rf"{file.name}: cannot be read \(missing\)"):
        read(copy)
    shutil.rmtree(copy / "2")
    assert_is(read(copy), 1)


def test_a_damaged_test_loss_is_found_before_it_decides_what_is_kept(
    saved: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(saved, tmp_path / "copy")
    metrics = copy / "1" / "metrics" / "metrics"
    metrics.write_text(metrics.read_text().replace("3.0", "1.0"))
    with pytest.raises(CheckpointError, match=r"1: cannot be read \(.*metrics/metrics is damaged"):
        Checkpoints(copy, 10)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"state/_METADATA": 5}', '{"a": "b"}'])
def test_unreadable_digests_are_an_error(saved: Path, tmp_path: Path, content: str) -> None:
    copy = shutil.copytree(saved, tmp_path / "copy")
    (copy / "2" / DIGESTS_FILE).write_text(content)
    with pytest.raises(CheckpointError, match=r"copy/2: cannot be read \(.*sha256\.json"):
        read(copy)


def test_a_checkpoint_from_before_digests_is_read(saved: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(saved, tmp_path / "copy")
    (copy / "2" / DIGESTS_FILE).unlink()
    assert_is(read(copy), 2)


def test_pipes_and_links_out_of_a_checkpoint_are_refused(saved: Path, tmp_path: Path) -> None:
    """Also in one without digests; reading a pipe would wait forever."""
    copy = shutil.copytree(saved, tmp_path / "copy")
    (copy / "2" / DIGESTS_FILE).unlink()
    file = copy / "2" / "record" / "metadata"
    file.rename(tmp_path / "elsewhere")
    for make, problem in (
        (lambda: file.symlink_to(tmp_path / "elsewhere"), "leads out of the folder"),
        (lambda: file.symlink_to("/dev/zero"), "not a regular file"),
        (lambda: os.mkfifo(file), "not a regular file"),
    ):
        make()
        with pytest.raises(CheckpointError, match=problem):
            read(copy)
        file.unlink()
