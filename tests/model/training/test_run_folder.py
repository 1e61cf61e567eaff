"""What is read from the folder of a run, and what is refused in one line."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from model.config import Config, ModelConfig
from model.run_folder import (
    Evaluation,
    KindLoss,
    LossByMode,
    LossSummary,
    MetricsLine,
    RunRecord,
    RunResult,
    Saved,
    StepLoss,
)
from model.training.run import code_version
from stores.errors import CheckpointError
from tests.model.conftest import small_config

ROOT = Path(__file__).resolve().parents[3]
WHERE = Path("runs/a/run.json")
SUMMARY = LossSummary(2.5, 50.0, 72.1, 0.4, 1000, 50, {"role": KindLoss(0.5, 0.9, 400)})
BY_MODE = LossByMode(**vars(SUMMARY), modes={"full": SUMMARY})
EVALUATION = Evaluation(**vars(BY_MODE), step=20)
LINE = MetricsLine(20, 2.5, 0.4, 72.1, 1.5, 1e-3, 1e5, 9e4, None, SUMMARY.kinds)
RECORD = RunRecord("abc", small_config(), "0.1.0")
RESULT = RunResult(
    run="runs/a", finished=True, stopped_by=None, preset="tiny", steps=20, loss=2.5,
    losses=((10, 3.0), (20, 2.5)), tokens_per_second=1e5, mfu=None, evaluation=EVALUATION,
    baseline=BY_MODE, parameters=10, device="cpu", devices=1, attention="xla",
    precision="float32", memory={"peak_bytes": 1, "limit_bytes": None}, store="s.zarr",
    store_digest="abc", first_step_seconds=1.5,
)  # fmt: skip
LATER = {
    "first_step_seconds",
    "split",
    "chosen_on",
    "validation",
    "new_sources",
    "provenance",
    "base",
}
"""Fields that records of earlier versions lack."""


@pytest.mark.parametrize(
    "record", [RECORD, LINE, EVALUATION, RESULT], ids=lambda r: type(r).__name__
)
def test_a_record_survives_json(record: Saved, tmp_path: Path) -> None:
    (tmp_path / "file.json").write_text(json.dumps(record.as_dict()))
    assert type(record).read(tmp_path / "file.json") == record


def test_an_evaluation_begins_with_its_step() -> None:
    assert list(EVALUATION.as_dict()) == [
        "step", "loss", "nats_per_measurement", "bits_per_measurement", "accuracy", "tokens",
        "measurements", "kinds", "modes", "split",
    ]  # fmt: skip


def test_a_result_from_before_the_first_step_was_timed_still_loads() -> None:
    values = RESULT.as_dict()
    del values["first_step_seconds"]
    assert RunResult.from_dict(values, WHERE).first_step_seconds is None


def test_records_from_before_there_was_validation_were_chosen_on_test() -> None:
    values = {name: value for name, value in RESULT.as_dict().items() if name not in LATER}
    del values["evaluation"]["split"]
    result = RunResult.from_dict(values, WHERE)
    assert result.chosen_on == "test"
    assert result.validation is None
    assert result.new_sources is None
    assert result.evaluation == EVALUATION
    assert EVALUATION.split == "test"
    line = {"step": 20, "nats_per_measurement": 50.0}
    assert StepLoss.from_dict(line, WHERE).split == "test"


def refused(read: Any, *arguments: Any) -> str:
    with pytest.raises(CheckpointError) as error:
        read(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "record", [RECORD, LINE, EVALUATION, RESULT], ids=lambda r: type(r).__name__
)
def test_a_missing_field_and_an_unreadable_file_are_one_line(record: Saved, tmp_path: Path) -> None:
    file = tmp_path / "file.json"
    kind = type(record)
    assert f"{file}: cannot be read" in refused(kind.read, file)
    file.write_text('{"store_digest": "ab')
    assert f"{file}: cannot be read" in refused(kind.read, file)
    file.write_text("[1, 2]")
    assert f"{file}: does not hold a valid {kind.__name__}" in refused(kind.read, file)
    for name in record.as_dict().keys() - LATER:
        values = {key: value for key, value in record.as_dict().items() if key != name}
        assert f"`{name}`" in refused(kind.from_dict, values, WHERE)


def test_a_configuration_that_lacks_a_field_has_its_default() -> None:
    values = small_config(answer_weight=2.0).as_dict()
    del values["train"]["answer_weight"]
    assert Config.from_dict(values, WHERE) == small_config(answer_weight=1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 3}, "unknown field depth of ModelConfig"),
        ({"layers": "3"}, r"ModelConfig: Expected `int`, got `str` - at `$.layers`"),
        ({"layers": 0}, "layers 0: expected more than 0"),
        ({"scan": 1}, r"Expected `bool`, got `int` - at `$.scan`"),
    ],
)
def test_a_field_that_is_not_right_is_named(change: dict[str, Any], message: str) -> None:
    values = small_config().as_dict()
    values["model"] |= change
    found = refused(ModelConfig.from_dict, values["model"], WHERE)
    assert found.startswith(f"{WHERE}: ")
    assert message in found
    name = next(iter(change))
    assert name in refused(Config.from_dict, values, WHERE)
    record = {**RECORD.as_dict(), "config": values}
    assert name in refused(RunRecord.from_dict, record, WHERE)


def test_the_code_version_is_not_that_of_a_repository_around_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when pinglm is installed into an environment inside somebody's repository."""
    module = tmp_path / "venv" / "site-packages" / "model" / "training" / "run.py"
    module.parent.mkdir(parents=True)
    module.touch()
    for command in (
        ("init", "--quiet"),
        ("-c", "user.name=a", "-c", "user.email=a@b", "commit", "--allow-empty", "-qm", "theirs"),
    ):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    monkeypatch.setattr("model.training.run.__file__", str(module))
    assert "(" not in code_version.__wrapped__()


def test_the_code_version_in_a_checkout_names_its_commit() -> None:
    assert (ROOT / "pyproject.toml").exists()
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=12"],
        capture_output=True,
        text=True,
    )
    if commit.returncode:
        pytest.skip("this copy of the project is not a Git checkout")
    assert f"({commit.stdout.strip()}" in code_version.__wrapped__()
