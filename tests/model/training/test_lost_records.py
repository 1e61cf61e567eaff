"""Records of a run that a loss of power must not take, and what happens when one is lost all the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from model.inference.weights import read_run
from model.run_folder import RunRecord, RunResult
from model.training.loop import train
from stores.errors import CheckpointError, PinglmError
from tests.helpers import Writes, build_store
from tests.model.conftest import small_config


@pytest.fixture(scope="module")
def finished(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 20 steps, with checkpoints and evaluations at 10 and 20."""
    out = tmp_path_factory.mktemp("finished") / "run"
    train(small_config(), store, out)
    return out


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, to damage."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_records_and_evaluations_are_on_disk_as_they_are_written(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = Writes(monkeypatch)
    out = tmp_path / "run"
    train(small_config(), store, out)
    for name in ("run.json", "metrics.jsonl", "evaluations.jsonl", "result.json"):
        assert writes.durable(out / name), name
    assert writes.count(out / "evaluations.jsonl") == 1 + 2  # as it is made; each evaluation


@pytest.mark.parametrize("content", [b"", b'{"store_dig', bytes(200)])
def test_a_lost_result_is_reached_again(content: bytes, store: Path, run: Path) -> None:
    (run / "result.json").write_bytes(content)
    result = train(small_config(), store, run)
    assert result.finished
    assert result.steps == 20
    assert RunResult.read(run / "result.json") == result


@pytest.mark.parametrize("content", [b"", b'{"store_dig', bytes(200)])
def test_a_lost_record_is_taken_from_the_last_checkpoint(
    content: bytes, store: Path, run: Path, tmp_path: Path
) -> None:
    before = RunRecord.read(run / "run.json")
    (run / "run.json").write_bytes(content)
    other = build_store(tmp_path / "other.zarr", train=2000, test=400, seed=5)
    with pytest.raises(CheckpointError, match="trained on the store"):
        train(small_config(), other, run)
    assert train(small_config(), store, run) == RunResult.read(run / "result.json")
    assert RunRecord.read(run / "run.json") == before


def test_a_lost_record_without_a_checkpoint_is_a_fresh_start(store: Path, run: Path) -> None:
    (run / "run.json").write_bytes(b"")
    shutil.rmtree(run / "checkpoints")
    result = train(small_config(seed=1), store, run)
    assert result.finished
    assert RunRecord.read(run / "run.json").config == small_config(seed=1)


def lines_of(run: Path) -> list[bytes]:
    return (run / "evaluations.jsonl").read_bytes().splitlines(keepends=True)


def test_zeros_at_the_end_of_the_evaluations_are_as_if_they_were_not_there(
    store: Path, run: Path
) -> None:
    whole = lines_of(run)
    (run / "evaluations.jsonl").write_bytes(b"".join(whole) + bytes(80) + b"\n")
    assert read_run(run).origin["test_loss"] is not None
    train(small_config(steps=21), store, run)
    assert lines_of(run)[:2] == whole


@pytest.mark.parametrize(
    "line", [b"{\n", b"[]\n", b"{}\n", b'{"step": "10"}\n', b"[" * 9999 + b"\n"]
)
def test_a_bad_line_between_the_evaluations_is_one_line_that_names_the_file(
    line: bytes, store: Path, run: Path
) -> None:
    first, second = lines_of(run)
    (run / "evaluations.jsonl").write_bytes(first + line + second)
    with pytest.raises(CheckpointError, match=r"evaluations\.jsonl: ") as asked:
        read_run(run)
    with pytest.raises(PinglmError, match=r"evaluations\.jsonl: ") as continued:
        train(small_config(steps=21), store, run)
    assert "\n" not in f"{asked.value}{continued.value}"
