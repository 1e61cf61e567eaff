"""A command in a process of its own, and what it is given: a prepared folder, a model, the records of a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict

from model.inference.export import write_export
from model.inference.weights import Weights
from model.network.transformer import Transformer
from model.run_folder import (
    METRICS_FILE,
    RECORD_FILE,
    RESULT_FILE,
    Evaluation,
    LossSummary,
    MetricsLine,
    RunRecord,
    RunResult,
)
from stores.files import write_json
from tests.model.conftest import small_config

ROWS = 20_000


def command(*options: str) -> subprocess.CompletedProcess[str]:
    quick = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # as in this process
    line = [sys.executable, "cli.py", *options]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, env=quick)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared folder with its truth, some of its sources only in test."""
    out = tmp_path_factory.mktemp("simulated")
    small = ["prepare", "--rows", str(ROWS), "--by", "source", "--workers", "1", "--json"]
    made = command(*small, "--out", str(out))
    assert made.returncode == 0, made.stderr
    return out


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported model that was never trained, named `untrained`."""
    config = small_config(context=64).model  # prompts of one length only: fewer programs
    transformer = Transformer(config, jnp.dtype("float32"), "xla", nnx.Rngs(0))
    flat = flatten_dict(nnx.to_pure_dict(nnx.state(transformer, nnx.Param)))
    arrays = {".".join(map(str, path)): np.asarray(leaf) for path, leaf in flat.items()}
    out = tmp_path_factory.mktemp("models") / "untrained"
    origin = {"store_digest": "another", "code_version": "0", "step": 0, "test_loss": None}
    write_export(Weights(config, arrays, origin), out)
    return out


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The records of a training run of 3 steps of 2 rows of 64 tokens."""
    folder = tmp_path / "run"
    folder.mkdir()
    config = small_config(batch_size=2, context=64)
    tested = LossSummary(1.0, 20.0, 28.9, 0.5, 100, 5, {})
    result = RunResult(
        run=str(folder),
        finished=True,
        stopped_by=None,
        preset="tiny",
        steps=3,
        loss=1.0,
        losses=((1, 1.0), (3, 1.0)),
        tokens_per_second=96.0,
        mfu=None,
        evaluation=Evaluation(**asdict(tested), modes={}, step=3),
        baseline=None,
        parameters=1,
        device="cpu",
        devices=1,
        attention="xla",
        precision="float32",
        memory=None,
        store="store.zarr",
        store_digest="0" * 64,
    )
    lines = [
        MetricsLine(step, 1.0, 0.5, 28.9, 1.0, 1e-3, rate, rate, None, {})
        for step, rate in ((1, 128.0), (3, 64.0))
    ]
    write_json(folder / RECORD_FILE, RunRecord("0" * 64, config, "0").as_dict())
    write_json(folder / RESULT_FILE, result.as_dict())
    text = "".join(json.dumps(line.as_dict()) + "\n" for line in lines)
    (folder / METRICS_FILE).write_text(text)
    return folder
