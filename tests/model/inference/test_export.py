"""From a real training run to an exported folder and back, and the commands that use either."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file
from typer.testing import CliRunner

from cli import app
from model.config import ModelConfig
from model.inference.export import read_export, write_export
from model.inference.ping_model import PingModel, load_weights
from model.inference.weights import Weights, read_run
from model.training.loop import train
from stores.errors import CheckpointError, OutputError, QueryError
from stores.vocabulary import VOCABULARY_SIZE
from tests.model.conftest import final_state, small_config


@pytest.fixture(scope="module")
def run(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with checkpoints of the steps 10 and 20."""
    out = tmp_path_factory.mktemp("run") / "run"
    train(small_config(), store, out)
    return out


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "model"
    write_export(load_weights(run), out)
    return out


def copy(path: Path, to: Path) -> Path:
    shutil.copytree(path, to / "copy")
    return to / "copy"


def rewrite(path: Path, change: Any) -> None:
    content = json.loads(path.read_bytes())
    change(content)
    path.write_text(json.dumps(content))


# --- Runs ---------------------------------------------------------------------------------------------


def test_a_runs_best_checkpoint_is_loaded_and_without_losses_its_last(
    run: Path, tmp_path: Path
) -> None:
    lines = [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]
    best = min(lines, key=lambda line: line["nats_per_measurement"])
    weights = read_run(run)
    assert weights.origin["step"] == best["step"]
    assert weights.origin["test_loss"] == best["nats_per_measurement"]
    other = copy(run, tmp_path)
    for line in lines:
        line["nats_per_measurement"] = line["step"]  # the first is best
    (other / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_run(other).origin["step"] == 10
    (other / "evaluations.jsonl").write_text("")
    assert read_run(other).origin["step"] == 20
    assert read_run(other).origin["test_loss"] is None


def test_loaded_weights_are_those_of_the_checkpoint(run: Path) -> None:
    weights = read_run(run)
    assert weights.config == small_config().model
    assert weights.origin["step"] == 20
    state = final_state(run)
    for name, array in weights.arrays.items():
        key = "".join(f"['{part}']" for part in ("weights", *name.split("."), "value"))
        np.testing.assert_array_equal(array, state[key], err_msg=name)
    assert len(weights.arrays) == sum(key.startswith("['weights']") for key in state)


def test_reading_a_run_changes_nothing_in_it(run: Path, tmp_path: Path) -> None:
    """It may still be training: a save under way is not cleaned up."""
    other = copy(run, tmp_path)
    (other / "checkpoints" / "30.orbax-checkpoint-tmp").mkdir()
    before = sorted((p, p.stat().st_mtime_ns) for p in other.rglob("*"))
    assert read_run(other).origin["step"] == 20
    assert sorted((p, p.stat().st_mtime_ns) for p in other.rglob("*")) == before


# --- Export -------------------------------------------------------------------------------------------


def test_an_exported_model_is_the_same_model(run: Path, exported: Path) -> None:
    weights, back = load_weights(run), load_weights(exported)
    assert (back.config, back.origin) == (weights.config, weights.origin)
    assert back.arrays.keys() == weights.arrays.keys()
    for name, array in weights.arrays.items():
        np.testing.assert_array_equal(back.arrays[name], array)


def test_bfloat16_halves_the_file_and_rounds_the_weights(run: Path, tmp_path: Path) -> None:
    weights = load_weights(run)
    sizes = {}
    for dtype in ("float32", "bfloat16"):
        write_export(weights, tmp_path / dtype, dtype)
        sizes[dtype] = (tmp_path / dtype / "model.safetensors").stat().st_size
    assert 0.45 < sizes["bfloat16"] / sizes["float32"] < 0.6
    back = load_weights(tmp_path / "bfloat16")
    for name, array in weights.arrays.items():
        expected = array.astype(ml_dtypes.bfloat16)
        np.testing.assert_array_equal(back.arrays[name], expected)
    assert back.model().dtype == np.float32  # what it computes in is the device's matter
    write_export(back, tmp_path / "again", "bfloat16")
    again, first = (tmp_path / d / "model.safetensors" for d in ("again", "bfloat16"))
    assert again.read_bytes() == first.read_bytes()


def test_the_files_can_be_read_without_this_project(exported: Path) -> None:
    config = json.loads((exported / "config.json").read_bytes())
    assert config["model"]["layers"] == 1
    assert config["origin"]["step"] == 20
    vocabulary = json.loads((exported / "vocabulary.json").read_bytes())
    assert [token["id"] for token in vocabulary["tokens"]] == list(range(VOCABULARY_SIZE))
    assert vocabulary["tokens"][8] == {"id": 8, "name": "RTT_START", "payload_bytes": 2}
    assert vocabulary["tokens"][266]["name"] == "0xff"
    with safe_open(exported / "model.safetensors", "np") as file:
        assert file.metadata() == {"format": "pinglm-model"}
        assert file.get_tensor("embedding").shape == (267, 32)
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tables = [name.removesuffix(".rows") for name in arrays if name.endswith(".rows")]
    of_lookups = ["lookups.carried", "lookups.factors", "lookups.prefix"]
    of_kinds = ["placement.kinds.queries", "placement.kinds.table"]
    of_placement = ["placement.of_destination", "placement.of_source"]
    assert tables == [*of_lookups, *of_kinds, *of_placement]
    parameters = 0
    for name in arrays.keys() - {f"{table}.rows" for table in tables}:
        rows = config["model"]["prefix_rows"] if name in tables else len(arrays[name])
        parameters += rows * (arrays[name].size // len(arrays[name]))
        if name in tables:
            assert len(arrays[f"{name}.rows"]) == len(arrays[name]) <= rows
    assert parameters == config["parameters"]


def test_an_export_is_used_without_orbax(exported: Path) -> None:
    code = (
        "import sys; sys.modules['orbax'] = None; from model.inference import PingModel; "
        f"print(PingModel.load({str(exported)!r}).predict_rtt('193.0.2.1', '193.0.2.2').p_failed)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    expected = PingModel.load(exported).predict_rtt("193.0.2.1", "193.0.2.2").p_failed
    assert float(found.stdout) == pytest.approx(expected, rel=1e-4)


def test_an_export_replaces_an_export_and_nothing_else(exported: Path, tmp_path: Path) -> None:
    weights = load_weights(exported)
    write_export(weights, tmp_path / "model", "bfloat16")
    write_export(weights, tmp_path / "model", "float32")
    assert load_weights(tmp_path / "model").arrays["head"].dtype == np.float32
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="holds something other than a model"):
        write_export(weights, tmp_path / "mine")
    with pytest.raises(OutputError, match="holds something other than a model"):
        write_export(weights, tmp_path / "mine" / "thesis.txt")


def test_the_configuration_of_another_program_is_not_overwritten(
    exported: Path, tmp_path: Path
) -> None:
    weights = load_weights(exported)
    for content in ('{"model_type": "gpt2"}', "{ // with comments\n}", "[]"):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(OutputError, match="holds something other than a model"):
            write_export(weights, tmp_path)
        assert (tmp_path / "config.json").read_text() == content


def test_what_a_killed_export_left_is_replaced(exported: Path, tmp_path: Path) -> None:
    weights = load_weights(exported)
    folder = copy(exported, tmp_path)
    (folder / ".model.safetensors.1a2b3c4d.tmp").write_bytes(b"half")
    in_order = ["model.safetensors", "vocabulary.json", "card.json", "README.md", "config.json"]
    for written in range(len(in_order)):
        for name in in_order[written:]:
            (folder / name).unlink()
        write_export(weights, folder)
        assert load_weights(folder).origin == weights.origin
    (folder / "config.json").unlink()
    save_file({"a": np.zeros(3)}, folder / "model.safetensors")  # of another program
    with pytest.raises(OutputError, match="holds something other than a model"):
        write_export(weights, folder)


def test_damaged_or_mixed_files_are_named(exported: Path, tmp_path: Path) -> None:
    folder = copy(exported, tmp_path)
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors: its digest differs from the one in config"
    ):
        read_export(folder)
    file.unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors: cannot be read"):
        read_export(folder)
    rewrite(folder / "vocabulary.json", lambda c: c["tokens"].pop())
    with pytest.raises(CheckpointError, match=r"vocabulary\.json: its tokens differ"):
        read_export(folder)
    rewrite(folder / "config.json", lambda c: c.update(format_version=9))
    with pytest.raises(CheckpointError, match=r"expected pinglm-model version 1, found .* 9"):
        read_export(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be read"):
        read_export(folder)


def test_weights_of_another_shape_are_refused_by_name(exported: Path) -> None:
    weights = load_weights(exported)
    wider = ModelConfig(**{**vars(weights.config), "mlp": 128})
    with pytest.raises(CheckpointError, match=r"mlp_in\.kernel has the shape \(32, 64\)"):
        Weights(wider, weights.arrays, {}).model()
    deeper = ModelConfig(**{**vars(weights.config), "layers": 2})
    with pytest.raises(CheckpointError, match=r"blocks\.1\.\S+ is missing"):
        Weights(deeper, weights.arrays, {}).model()
    more = {**weights.arrays, "bias": np.zeros(3)}
    with pytest.raises(CheckpointError, match="bias is not part"):
        Weights(weights.config, more, {}).model()


def test_a_path_without_a_model_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="none: does not exist: expected the folder of a"):
        PingModel.load(tmp_path / "none")
    with pytest.raises(CheckpointError, match="is neither: expected"):
        PingModel.load(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(CheckpointError, match="has no finished checkpoint yet"):
        PingModel.load(tmp_path)
    monkeypatch.setattr("model.inference.ping_model.PRETRAINED", tmp_path / "pretrained")
    with pytest.raises(CheckpointError, match="pretrained: no model is shipped"):
        PingModel.load("pretrained")


def test_the_shipped_model_goes_by_its_name(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.inference.ping_model.PRETRAINED", exported)
    assert PingModel.load("pretrained").origin["step"] == 20


# --- Commands -----------------------------------------------------------------------------------------


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.stdout


def test_predict_rtt_prints_json_as_a_process(exported: Path, tmp_path: Path) -> None:
    context = tmp_path / "context.csv"
    context.write_text("src,dst,rtt_ms,time\n193.0.2.1,193.0.2.7,20.5,1751000000\n")
    command = [sys.executable, "cli.py", "predict-rtt", "193.0.2.1", "193.0.2.9", "--json"]
    options = [
        "--model",
        str(exported),
        "--context",
        str(context),
        "--time",
        "2025-06-27T06:54:20+02:00",
    ]
    done = subprocess.run([*command, *options], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["src"], answer["dst"], answer["context_used"]) == ("193.0.2.1", "193.0.2.9", 1)
    assert answer["time"] == 1751000060
    assert 0 < answer["p_failed"] < 1
    assert answer["quantiles_ms"]["0.5"] == answer["median_ms"]
    values = list(answer["quantiles_ms"].values())
    assert values == sorted(values)
    wrong = subprocess.run(
        [*command[:3], "193.0.2.1", "2001:db9::1", *options], capture_output=True, text=True
    )
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("error: dst 2001:db9::1: expected IPv4 like the source")
    assert wrong.stderr.count("\n") == 1


def test_the_other_commands_print_json_and_tables(exported: Path, tmp_path: Path) -> None:
    model = ("--model", str(exported))
    found = json.loads(invoke("complete-ip", "193.0", "-k", "3", "--json", *model))["completions"]
    assert len(found) == 3
    assert all(item["address"].startswith("193.0.") for item in found)
    assert all(0 < item["probability"] < 1 for item in found)
    assert found[0]["address"] in invoke("complete-ip", "193.0", "-k", "3", *model)

    asked = ("sample-ips", "193.0.2.1", "20", "-n", "4", *model)
    samples = json.loads(invoke(*asked, "--json"))["samples"]
    assert len({sample["address"] for sample in samples}) == 4
    assert samples[0]["address"] in invoke(*asked)

    assert "median" in invoke("predict-rtt", "193.0.2.1", "193.0.2.9", *model)

    out = str(tmp_path / "half")
    record = json.loads(invoke("export", *model, "--out", out, "--dtype", "bfloat16", "--json"))
    assert (record["path"], record["dtype"]) == (out, "bfloat16")
    assert "bfloat16" in invoke("export", *model, "--out", out, "--dtype", "bfloat16")


@pytest.mark.parametrize("command", ["predict-rtt", "complete-ip", "sample-ips", "export"])
def test_help_has_an_example(command: str) -> None:
    assert f"pinglm {command} --model" in invoke(command, "--help").replace("\n", " ")


def test_commands_answer_rtts_beyond_the_longest_code(exported: Path, tmp_path: Path) -> None:
    context = tmp_path / "context.csv"
    context.write_text("src,dst,rtt_ms\n193.0.2.1,193.0.2.7,1e308\n")
    options = ("--model", str(exported), "--context", str(context), "--json")
    assert (
        json.loads(invoke("predict-rtt", "193.0.2.1", "193.0.2.9", *options))["context_used"] == 1
    )
    samples = json.loads(invoke("sample-ips", "193.0.2.1", "6e4", "-n", "2", *options))["samples"]
    assert len(samples) == 2
    for target in ("1e9", "60001", "1e306"):
        refused = CliRunner().invoke(
            app, ["sample-ips", "193.0.2.1", target, "--model", str(exported)]
        )
        assert isinstance(refused.exception, QueryError)
        assert "and at most 60,000 ms" in str(refused.exception)
