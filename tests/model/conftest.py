"""Strict JAX for every test here, and one small configuration."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from model.config import Config, make_config
from model.training.checkpoint import Checkpoints
from stores.files import read_json_lines

# Programs run for milliseconds here, so compiling them well takes longer than running them; half the
# time of these tests. Before the first use of a device, so also for the processes they start.
QUICK_COMPILE = "--xla_backend_optimization_level=0"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK_COMPILE}".strip()

SMALL = {
    "layers": 1,
    "width": 32,
    "heads": 2,
    "mlp": 64,
    "context": 128,
    "prefix_rows": 256,
    "recall": True,
    "nearness": True,
    "factors": 8,
    "placement": 4,
    "source_kinds": 3,
    "batch_size": 8,
    "dropout": 0.1,
    "steps": 20,
    "optimizer": "adamw",
    "learning_rate": 6e-3,
    "schedule": "cosine",
    "warmup_steps": 2,
    "final_fraction": 0.1,
    "decay_fraction": 0.2,
    "answer_weight": 1.0,
    "second_byte_weight": 1.0,
    "hidden_sources": 0.2,
    "composed": 0.5,
    "placement_windows": 4,
    "log_every": 5,
    "eval_every": 10,
    "eval_batches": 10,
    "save_every": 10,
}
"""A model that steps in milliseconds; all that draws at random is on, so that it is under test, too."""


@pytest.fixture(autouse=True)
def strict_jax() -> Iterator[None]:
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(scope="module")
def quick_compilation() -> Iterator[None]:
    """Many small programs run a few times each: compiling them well is not worth its time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session", autouse=True)
def compile_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One compile cache for all tests and the processes they start: each program compiles once."""
    path = tmp_path_factory.mktemp("xla")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(path))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        jax.config.update("jax_compilation_cache_dir", str(path))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        yield path


def small_config(**overrides: Any) -> Config:
    return make_config("tiny", {**SMALL, **overrides})


def command(store: Path | str, out: Path, *options: str, **overrides: Any) -> list[str]:
    """`train` of the small configuration as a real command line."""
    fields = {**SMALL, **overrides}
    settings = [part for name, value in fields.items() for part in ("--set", f"{name}={value}")]
    files = ["--store", str(store), "--out", str(out), "--preset", "tiny", "--json"]
    return [sys.executable, "cli.py", "train", *files, *settings, *options]


def run_train(
    store: Path, out: Path, *options: str, env: dict[str, str] | None = None, **overrides: Any
) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    return subprocess.run(
        command(store, out, *options, **overrides),
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **(env or {})},
    )


def final_state(out: Path) -> dict[str, np.ndarray]:
    """Every array of the last checkpoint by its path, and its step."""
    with Checkpoints(out / "checkpoints", 10) as checkpoints:
        step = checkpoints.steps()[-1]
    arrays = ocp.StandardCheckpointer().restore(
        (out / "checkpoints" / str(step) / "state").absolute()
    )
    leaves = jax.tree_util.tree_leaves_with_path(arrays)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def assert_same_state(a: Path, b: Path) -> None:
    """Bit for bit."""
    first, second = final_state(a), final_state(b)
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)


def losses(out: Path) -> list[tuple[int, float]]:
    """(step, loss) of every log line."""
    return [(line["step"], line["loss"]) for line in read_json_lines(out / "metrics.jsonl")]
