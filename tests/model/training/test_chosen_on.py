"""With a validation split, everything is chosen on it and test is only reported; without one, that is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from model.inference.weights import read_run
from model.run_folder import RunResult
from model.training.context_free import ContextFree
from model.training.held_out import fixed_batches
from model.training.loop import train
from model.training.progress import TrainingProgress
from model.training.sweep import SweepRow, Variant, sweep
from model.training.views import result_view, sweep_view
from stores.files import read_json_lines
from stores.manifest import read_manifest, write_manifest
from stores.overlap import OverlapCounts
from stores.reader import TokenStore
from tests.helpers import build_store
from tests.model.conftest import small_config
from tests.model.training.test_training_views import RESULT, rendered, row_of

CONFIG = small_config(steps=4, eval_every=2, save_every=2)


class Told(TrainingProgress):
    """Keeps the warnings that it is given."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture(scope="module")
def divided(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a validation split, of whose test sources most are new."""
    path = tmp_path_factory.mktemp("divided") / "store.zarr"
    build_store(path, train=2000, validation=500, test=400)
    manifest = read_manifest(path)
    counts = OverlapCounts(train=40, test=10, both=1, validation=10, validation_both=10)
    options = {**manifest.configuration, "split": {"by": "time"}}
    write_manifest(path, replace(manifest, overlap={"sources": counts}, configuration=options))
    return path


@pytest.fixture(scope="module")
def swept(
    divided: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, RunResult, list[SweepRow], list[str]]:
    """A sweep over one learning rate: its run, that run's result, its rows and its warnings."""
    out, told = tmp_path_factory.mktemp("swept"), Told()
    rows = sweep([Variant({"learning_rate": 6e-3}, CONFIG)], divided, out, told)
    run = out / "lr-0.006"
    return run, train(CONFIG, divided, run), rows, told.warnings


def test_a_run_is_watched_on_validation_and_reported_on_test(
    swept: tuple[Path, RunResult, list[SweepRow], list[str]],
) -> None:
    run, result, _, _ = swept
    lines = read_json_lines(run / "evaluations.jsonl")
    assert [(line["step"], line["split"]) for line in lines] == [
        (2, "validation"),
        (4, "validation"),
    ]
    assert result.chosen_on == "validation"
    assert result.validation is not None
    assert result.validation.as_dict() == lines[-1]
    assert result.evaluation is not None
    assert (result.evaluation.split, result.evaluation.step) == ("test", 4)
    assert result.evaluation.measurements != result.validation.measurements
    events = next((run / "tensorboard").iterdir()).read_bytes()
    assert b"validation/loss" in events
    assert b"test/loss" not in events
    best = min(lines, key=lambda line: line["nats_per_measurement"])
    origin = read_run(run).origin
    assert (origin["step"], origin["chosen_on"]) == (best["step"], "validation")
    assert origin["test_loss"] == best["nats_per_measurement"]


def test_the_mix_of_the_context_free_model_is_chosen_on_validation(
    divided: Path, swept: tuple[Path, RunResult, list[SweepRow], list[str]]
) -> None:
    opened = TokenStore.open(divided)
    size = CONFIG.train.eval_batches, CONFIG.model.context
    test, validation = (fixed_batches(opened, *size, split) for split in ("test", "validation"))
    model = ContextFree(opened)
    expected = model.evaluate(test, validation)
    assert swept[1].baseline == expected
    assert expected.measurements == model.evaluate(test).measurements
    assert expected.loss >= model.evaluate(test).loss
    assert model.evaluate(test, test) == model.evaluate(test)


def test_a_sweep_has_both_losses_and_chooses_by_validation(
    swept: tuple[Path, RunResult, list[SweepRow], list[str]],
) -> None:
    _, result, (row,), _ = swept
    assert result.validation is not None
    assert result.evaluation is not None
    assert row.validation_loss == row.chosen_by == result.validation.loss
    assert row.test_loss == result.evaluation.loss
    rows = [
        SweepRow(
            {"learning_rate": 1e-3},
            "a",
            None,
            3.0,
            test_loss=2.0,
            bits_per_measurement=80.0,
            validation_loss=2.9,
        ),
        SweepRow(
            {"learning_rate": 3e-3},
            "b",
            None,
            2.0,
            test_loss=2.1,
            bits_per_measurement=60.0,
            validation_loss=2.5,
        ),
        SweepRow({"learning_rate": 1e30}, "c", failed="the loss became NaN"),
    ]
    text = rendered(sweep_view(rows))
    assert "chosen on validation" in text
    assert row_of(text, "0.001") == ["0.001", "3.0000", "2.9000", "2.0000", "80.00", ""]
    assert row_of(text, "0.003") == ["0.003", "2.0000", "2.5000", "2.1000", "60.00", "best"]
    assert row_of(text, "1e+30") == ["1e+30", "-", "-", "-", "-", "not finite"]


def test_new_sources_are_reported_before_and_after(
    swept: tuple[Path, RunResult, list[SweepRow], list[str]],
) -> None:
    _, result, _, warnings = swept
    (warning,) = warnings
    assert warning.startswith("9 of the 10 sources in test (90%) are not in train")
    assert result.new_sources == warning
    assert f"WARNING: {warning}" in " ".join(rendered(result_view(result)).split())


def test_a_result_says_what_was_chosen_on() -> None:
    assert "chosen on test: the best checkpoint" in rendered(result_view(RESULT))
    assert "`prepare --validation 0.05`" in rendered(result_view(RESULT))
    assert "WARNING" not in rendered(result_view(RESULT))
    apart = rendered(result_view(replace(RESULT, chosen_on="validation")))
    assert "chosen on validation: the best checkpoint" in apart
    assert "the numbers are of test" in apart
    assert "chosen on test" not in apart
    assert "chosen on test" in rendered(
        sweep_view([SweepRow({"learning_rate": 1e-3}, "a", None, 3.0, 2.0, 80.0)])
    )
