"""Strict JAX for every test here, one small store, and one small configuration."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

from model.config import Config, make_config
from tests.helpers import build_store

SMALL = {
    "layers": 2,
    "width": 32,
    "heads": 2,
    "mlp": 64,
    "context": 128,
    "batch_size": 8,
    "dropout": 0.1,
    "steps": 20,
    "warmup_steps": 2,
    "log_every": 5,
    "eval_every": 10,
    "eval_batches": 10,
    "save_every": 10,
}
"""A model that steps in milliseconds; `dropout` on, so that its randomness is under test, too."""


@pytest.fixture(autouse=True)
def strict_jax() -> Iterator[None]:
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_store(tmp_path_factory.mktemp("store") / "store.zarr", train=6000, test=600)


@pytest.fixture(scope="session", autouse=True)
def compile_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One compile cache for all tests and the processes they start: each program compiles once."""
    path = tmp_path_factory.mktemp("xla")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(path))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        yield path


def small_config(**overrides: Any) -> Config:
    return make_config("tiny", {**SMALL, **overrides})
