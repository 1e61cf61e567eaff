"""The peer of the training step is the same transformer, if PyTorch (extra `bench`) is installed."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from model.network.named_weights import flatten_dict
from model.network.transformer import Transformer
from tests.model.conftest import small_config

torch = pytest.importorskip("torch", reason="PyTorch is not installed: it is in the extra bench")


def test_the_peer_computes_the_same_logits_from_the_same_weights() -> None:
    from benchmarks.torch_peer import Peer

    config = small_config(layers=2, prefix_rows=0, dropout=0).model
    model = Transformer(config, jax.numpy.dtype("float32"), "xla", nnx.Rngs(0))
    flat = flatten_dict(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    ours = {".".join(map(str, path)): np.array(leaf) for path, leaf in flat.items()}
    peer = Peer(config)
    theirs = {}
    for name, array in ours.items():
        path = name.replace("attention.query", "query").replace("attention.out", "out")
        path = path.replace("final_norm", "norm").removesuffix(".scale").removesuffix(".kernel")
        matrix = name.endswith("kernel") or name == "head"
        theirs[f"{path}.weight"] = torch.from_numpy(array.T.copy() if matrix else array)
    buffers = {name: value for name, value in peer.state_dict().items() if name in ("cos", "sin")}
    peer.load_state_dict(theirs | buffers)
    tokens = np.random.default_rng(0).integers(0, 267, (2, 64))
    with torch.no_grad():
        peer.cos, peer.sin = peer.cos[:64], peer.sin[:64]
        found = peer(torch.from_numpy(tokens)).numpy()
    expected = nnx.jit(lambda m: m(jax.numpy.asarray(tokens, jax.numpy.int32)))(model)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_both_steps_are_timed_in_one_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from benchmarks import train_step

    monkeypatch.setattr(train_step, "WARM_UP", 1)
    monkeypatch.setattr(train_step, "TURN_SECONDS", 0.01)
    monkeypatch.setattr(train_step, "WINDOWS", 64)
    small = ("batch_size=2", "context=64", "width=32", "mlp=64", "layers=1")
    settings = [part for field in small for part in ("--set", field)]
    options = ["--preset", "tiny", "--seconds", "0.01", "--json", "--peer"]
    with jax.numpy_rank_promotion("raise"):
        train_step.main([*options, *settings])
    (row,) = json.loads(capsys.readouterr().out)
    assert row["step_s"] > 0
    assert row["peer_step_s"] > 0
