"""Checkpoints on disk: which of them are kept."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from model.run_folder import RunRecord
from model.training.checkpoint import Checkpoints
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


def test_the_best_checkpoint_is_kept_when_the_run_is_continued(tmp_path: Path) -> None:
    save(tmp_path / "run", (1, 3.0), (2, None), keep=1)
    save(tmp_path / "run", (3, 5.0), (4, 4.0), (5, None), keep=1)
    with Checkpoints(tmp_path / "run", 1) as checkpoints:
        assert checkpoints.steps() == [1, 5]
