"""Exports that are damaged, edited, or claim what they do not hold: one line, and at once."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from model.inference.export import digest, read_export, write_export
from model.inference.ping_model import load_weights
from model.inference.weights import Weights
from model.network.transformer import Transformer
from stores.errors import CheckpointError
from stores.files import sha256_file, write_json
from tests.helpers import flip_bit
from tests.model.conftest import small_config
from tests.model.inference.damage import HUGE, is_same

CONFIG = small_config().model
ORIGIN = {"store_digest": "0" * 64, "code_version": "0.2.0", "step": 7, "test_loss": 18.5}


@pytest.fixture(scope="module")
def weights() -> Weights:
    """Of an untrained model."""
    model = Transformer(CONFIG, jnp.dtype("float32"), "xla", nnx.Rngs(0))
    flat = flatten_dict(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    arrays = {".".join(map(str, path)): np.asarray(leaf) for path, leaf in flat.items()}
    return Weights(CONFIG, arrays, ORIGIN)


@pytest.fixture
def exported(weights: Weights, tmp_path: Path) -> Path:
    write_export(weights, tmp_path / "export")
    return tmp_path / "export"


def edit(folder: Path, change: Callable[[dict[str, Any]], object], *, sign: bool = False) -> None:
    """Change config.json, and with `sign` its digest, too."""
    file = folder / "config.json"
    config = json.loads(file.read_bytes())
    change(config)
    if sign:
        config["config_sha256"] = digest(config)
    write_json(file, config)


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config["model"].update(heads=4),
        lambda config: config["model"].update(context=64),
        lambda config: config["model"].update(precision="bfloat16"),
        lambda config: config["origin"].update(step=8),
        lambda config: config.update(dtype="bfloat16"),
        lambda config: config.update(note="mine"),
        lambda config: config.update(config_sha256="0" * 64),
    ],
)
def test_an_edited_configuration_is_refused(
    exported: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    edit(exported, change)
    with pytest.raises(CheckpointError, match=r"config\.json: its digest differs from its conf"):
        read_export(exported)


def test_exports_from_before_the_digest_are_loaded(exported: Path, weights: Weights) -> None:
    edit(exported, lambda config: config.pop("config_sha256"))
    assert is_same(read_export(exported), weights)


def test_unknown_fields_need_a_digest(exported: Path, weights: Weights) -> None:
    """A newer version may add some; but a digest under a damaged name is none."""
    edit(exported, lambda config: config.update(license="CC0"), sign=True)
    assert is_same(read_export(exported), weights)
    edit(exported, lambda config: config.update(confiw_sha256=config.pop("config_sha256")))
    with pytest.raises(CheckpointError, match="unknown field confiw_sha256, and no config_sha256"):
        read_export(exported)


def test_the_shipped_model_can_be_exported_again(tmp_path: Path) -> None:
    shipped = load_weights("pretrained")
    config = write_export(shipped, tmp_path / "again", "bfloat16")
    assert config["config_sha256"] == digest(config)
    assert is_same(read_export(tmp_path / "again"), shipped)


def test_a_flipped_bit_in_an_export_is_an_error(exported: Path, tmp_path: Path) -> None:
    rng = random.Random(0)
    for _ in range(60):
        # The card is for people: nothing that it says changes an answer, and no digest covers it.
        cards = shutil.ignore_patterns("card.json", "README.md")
        copy = shutil.copytree(exported, tmp_path / "copy", ignore=cards)
        flip_bit(copy, rng)
        with pytest.raises(CheckpointError, match="copy"):
            read_export(copy)
        shutil.rmtree(copy)


MODEL_CLAIMS = [
    ({"layers": HUGE}, "describes a model of .* weights"),
    ({"layers": 2}, "describes a model of"),
    ({"width": HUGE}, "describes a model of"),
    ({"width": 10**4000}, "10000.* is out of range"),
    ({"mlp": HUGE}, "describes a model of"),
    ({"vocabulary": HUGE}, "describes a model of"),
    ({"layers": -1}, "layers -1: expected more than 0"),
    ({"width": -32}, "width -32: expected more than 0"),
    ({"heads": 0}, "heads 0: expected more than 0"),
    ({"heads": 3}, "width 32 over 3 heads"),
    ({"context": HUGE}, "context 1000000000: expected 64 to 1024"),
    ({"width": "128"}, "Expected `int`, got `str`"),
    ({"width": None}, "Expected `int`, got `null`"),
    ({"width": [32]}, "Expected `int`, got `array`"),
    ({"dropout": 2}, "dropout 2"),
    ({"depth": 3}, "unknown field depth"),
]


@pytest.mark.parametrize(("claim", "problem"), MODEL_CLAIMS)
@pytest.mark.parametrize("sign", [False, True])
def test_a_model_that_the_files_do_not_hold_is_refused_at_once(
    exported: Path, claim: dict[str, Any], problem: str, sign: bool
) -> None:
    """Also without a digest, and with one that was computed for the claim."""
    edit(exported, lambda config: config.pop("config_sha256"))
    edit(exported, lambda config: config.pop("parameters") and config.update(parameters=25_376))
    edit(exported, lambda config: config["model"].update(claim), sign=sign)
    began = time.monotonic()
    with pytest.raises(CheckpointError, match=problem):
        read_export(exported)
    assert time.monotonic() - began < 2


def test_a_consistent_claim_is_checked_against_the_weights(exported: Path) -> None:
    """The configuration agrees with itself, but not with the other file."""

    def deepen(config: dict[str, Any]) -> None:
        config["model"]["layers"] = HUGE
        config["parameters"] += (HUGE - 1) * (4 * 32**2 + 2 * 32 * 64 + 2 * 32)

    parameters = json.loads((exported / "config.json").read_bytes())["parameters"]
    edit(exported, deepen, sign=True)
    with pytest.raises(CheckpointError, match=f"weights, but there are {parameters}"):
        read_export(exported)


def test_as_many_weights_in_other_layers_are_refused(weights: Weights, tmp_path: Path) -> None:
    """Thousands of layers of a single channel pair have as many weights as few wide ones."""
    narrow = {"embedding": np.zeros((267, 2), np.float32), "head": np.zeros((2, 267), np.float32)}
    config = small_config(layers=5000, width=2, heads=1, mlp=1, prefix_rows=0).model
    missing = 5000 * (4 * 4 + 2 * 2 + 2 * 2) + 2
    arrays = {**narrow, "rest": np.zeros(missing, np.float32)}
    write_export(Weights(config, arrays, ORIGIN), tmp_path / "export")
    began = time.monotonic()
    with pytest.raises(CheckpointError, match=r"weights: blocks\.0\.\S+ is missing"):
        read_export(tmp_path / "export")
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda c: c.pop("origin"), "missing required field `origin`"),
        (lambda c: c.update(origin=[]), "Expected `object`, got `array` - at `\\$.origin`"),
        (lambda c: c["origin"].pop("step"), "missing required field `step`"),
        (lambda c: c["origin"].update(step="7"), "Expected `int`, got `str`"),
        (lambda c: c["origin"].update(test_loss="low"), "got `str`"),
        (lambda c: c.pop("model"), "does not hold a valid ModelConfig"),
        (lambda c: c.update(model=[]), "does not hold a valid ModelConfig"),
        (lambda c: c.pop("weights_sha256"), "missing required field `weights_sha256`"),
        (lambda c: c.update(dtype="float16"), "Invalid enum value 'float16'"),
        (lambda c: c.update(dtype="bfloat16"), "is of type F32, but config.json says bfloat16"),
        (lambda c: c.update(parameters=-1), "but parameters is -1"),
        (lambda c: c.update(format=["pinglm-model"]), "expected pinglm-model version 1"),
    ],
)
def test_what_is_missing_or_of_the_wrong_type_is_named(
    exported: Path, change: Callable[[dict[str, Any]], object], problem: str
) -> None:
    edit(exported, change, sign=True)
    with pytest.raises(CheckpointError, match=rf"(config\.json|safetensors): .*{problem}"):
        read_export(exported)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"null", b"3", b"[" * 100_000, b'{"a": NaN}', b'{"a": 1e999}', b"\xff\xfe", b" " * (2 << 20)],
)  # fmt: skip
def test_what_is_not_a_json_object_is_refused(exported: Path, content: bytes) -> None:
    for name in ("vocabulary.json", "config.json"):
        (exported / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
            read_export(exported)


def test_text_that_no_terminal_can_print_is_refused(exported: Path) -> None:
    file = exported / "config.json"
    file.write_bytes(file.read_bytes().replace(b'"0.2.0"', b'"\\ud800"'))
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be read"):
        read_export(exported)


@pytest.mark.parametrize("name", ["config.json", "vocabulary.json", "model.safetensors"])
def test_pipes_devices_and_links_out_of_an_export_are_refused(exported: Path, name: str) -> None:
    file = exported / name
    elsewhere = exported.parent / name
    file.rename(elsewhere)
    for make, problem in (
        (lambda: file.symlink_to(elsewhere), "leads out of the folder"),
        (lambda: file.symlink_to("/dev/zero"), "not a regular file"),
        (lambda: file.symlink_to(file), "not a regular file"),
        (lambda: os.mkfifo(file), "not a regular file"),
        (file.mkdir, "not a regular file"),
    ):
        make()
        with pytest.raises(CheckpointError, match=rf"{name}: cannot be read \(.*{problem}"):
            read_export(exported)
        file.rmdir() if problem and file.is_dir() else file.unlink()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(
    weights: Weights, tmp_path: Path, dtype: str, value: float
) -> None:
    out = tmp_path / "export"
    write_export(weights, out, dtype)
    to = np.float32 if dtype == "float32" else ml_dtypes.bfloat16
    arrays = {name: array.astype(to) for name, array in weights.arrays.items()}
    arrays["final_norm.scale"][3] = value
    save_file(arrays, out / "model.safetensors")
    found = sha256_file(out / "model.safetensors")
    edit(out, lambda config: config.update(weights_sha256=found), sign=True)
    with pytest.raises(CheckpointError, match=r"final_norm\.scale holds 1 weights that are NaN"):
        read_export(out)


def test_weights_that_are_not_finite_are_not_exported(exported: Path, weights: Weights) -> None:
    """Also those that bfloat16 has no room for. What was there before stays."""
    large = {**weights.arrays, "final_norm.scale": np.full(32, 3.4e38, np.float32)}
    with pytest.raises(CheckpointError, match=r"final_norm\.scale holds 32 weights"):
        write_export(Weights(CONFIG, large, ORIGIN), exported, "bfloat16")
    assert is_same(read_export(exported), weights)


@pytest.mark.parametrize("change", [{"layers": HUGE}, {"width": HUGE, "heads": 1}])
def test_the_command_names_the_damage_in_one_line(exported: Path, change: dict[str, int]) -> None:
    edit(exported, lambda config: config.pop("config_sha256"))
    edit(exported, lambda config: config["model"].update(change))
    command = [sys.executable, "cli.py", "predict-rtt", "193.0.2.1", "193.0.2.9", "--model"]
    done = subprocess.run(
        [*command, str(exported)], capture_output=True, text=True, timeout=60
    )  # most of it is the start of Python
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {exported}/config.json: describes a model of")
    assert done.stderr.count("\n") == 1
