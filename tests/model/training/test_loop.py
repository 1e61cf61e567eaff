"""What a run writes, says, refuses and continues; in this process."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from model.inference.weights import read_run
from model.model_files import DIGESTS_FILE, write_digests
from model.run_folder import RunRecord, RunResult
from model.training.checkpoint import Checkpoints
from model.training.loop import Trainer, train
from model.training.loss import KINDS
from model.training.progress import TrainingProgress, sparkline
from model.training.run import Run, open_run
from stores.errors import (
    CheckpointError,
    ConfigError,
    DamagedStoreError,
    NotAStoreError,
    OutputError,
    TrainingError,
)
from stores.files import read_json_lines
from stores.layout import chunk_file
from stores.reader import TokenStore
from tests.helpers import build_store
from tests.model.conftest import final_state, losses, small_config


@pytest.fixture(scope="module")
def finished(store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunResult]:
    """A run of 20 steps and its result."""
    out = tmp_path_factory.mktemp("finished") / "run"
    return out, train(small_config(), store, out)


def test_a_run_leaves_a_line_per_log_step_and_a_result(finished: tuple[Path, RunResult]) -> None:
    out, result = finished
    lines = read_json_lines(out / "metrics.jsonl")
    assert [line["step"] for line in lines] == [5, 10, 15, 20]
    for line in lines:
        assert set(line["kinds"]) <= set(KINDS)
        assert line["mfu"] is None  # no peak is known for a CPU
        assert 0 < line["live_tokens_per_second"] <= line["tokens_per_second"]
        assert line["gradient_norm"] > 0
    assert json.loads((out / "result.json").read_bytes()) == json.loads(
        json.dumps(result.as_dict())
    )
    assert RunResult.read(out / "result.json") == result
    assert result.finished
    assert result.losses == tuple((line["step"], line["loss"]) for line in lines)
    assert result.evaluation is not None
    assert set(result.evaluation.modes) == {"full", "none", "mixed"}
    assert [line["step"] for line in read_json_lines(out / "evaluations.jsonl")] == [10, 20]


def test_the_curve_is_in_tensorboard(finished: tuple[Path, RunResult]) -> None:
    events = list((finished[0] / "tensorboard").iterdir())
    assert len(events) == 1
    written = events[0].read_bytes()
    for tag in (
        b"train/loss",
        b"train/gradient_norm",
        b"train_rtt/loss_1",
        b"test_full/loss",
    ):
        assert tag in written


def test_writing_for_tensorboard_imports_no_pytorch() -> None:
    code = "import sys, model.training.events; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_finished_run_gives_its_result_without_training(
    finished: tuple[Path, RunResult], store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.training.loop.Trainer", None)
    assert train(small_config(), store, finished[0]) == finished[1]


def test_checkpoints_record_store_configuration_and_code(
    finished: tuple[Path, RunResult], store: Path
) -> None:
    with Checkpoints(finished[0] / "checkpoints", 10) as checkpoints:
        assert checkpoints.steps() == [10, 20]
        record = checkpoints.read_record(20)
    assert record.store_digest == TokenStore.open(store).digest
    assert record.config == small_config()
    assert record.code_version.startswith("0.")


class Uncompiled:
    """Stands in for `Steps`, which takes seconds to compile."""

    fallback = None

    def __init__(self, *arguments: object) -> None:
        pass


def test_evaluation_batches_do_not_depend_on_the_run(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses of runs with other seeds, batch sizes and lengths are compared with each other."""
    monkeypatch.setattr("model.training.loop.Steps", Uncompiled)
    opened = TokenStore.open(store)

    def trainer(**overrides: object) -> Trainer:
        config = small_config(**overrides)
        run = Run(tmp_path, RunRecord(opened.digest, config, "0.1.0"))
        return Trainer(config, TokenStore.open(store), run, None, TrainingProgress(), False, 0.0)

    one = trainer()
    assert {mode for mode, _ in one.held_out.batches} == {"full", "none", "mixed"}
    for overrides in ({"seed": 1}, {"batch_size": 16}, {"steps": 7, "width": 48, "dropout": 0}):
        other = trainer(**overrides)
        if "steps" not in overrides:
            assert not np.array_equal(one.batches.batch(0)[0], other.batches.batch(0)[0])
        batches = zip(one.held_out.batches, other.held_out.batches, strict=True)
        for (mode, rows), (other_mode, others) in batches:
            assert mode == other_mode
            for a, b in zip(rows, others, strict=True):
                np.testing.assert_array_equal(a, b)


def test_an_unknown_field_in_a_checkpoint_is_named(
    finished: tuple[Path, RunResult], store: Path, tmp_path: Path
) -> None:
    """As of a run that a newer version made."""
    run = shutil.copytree(finished[0], tmp_path / "run")
    for note in (run / "run.json", *run.glob("checkpoints/*/record/metadata")):
        note.write_text(note.read_text().replace('"layers":', '"depth": 3, "layers":'))
    for checkpoint in run.glob("checkpoints/*"):
        write_digests(checkpoint)
    for read in (lambda: read_run(run), lambda: train(small_config(), store, run)):
        with pytest.raises(CheckpointError, match="unknown field depth of ModelConfig"):
            read()


def test_evaluation_is_the_loss_of_its_modes_together(finished: tuple[Path, RunResult]) -> None:
    test, baseline = finished[1].evaluation, finished[1].baseline
    assert test is not None
    assert baseline is not None
    parts = test.modes.values()
    for count in ("tokens", "measurements"):
        assert getattr(test, count) == sum(getattr(part, count) for part in parts)
    mean = sum(part.loss * part.tokens for part in parts) / test.tokens
    assert test.loss == pytest.approx(mean)
    assert baseline.measurements == test.measurements
    assert baseline.tokens == test.tokens


def test_nan_stops_within_a_log_interval_and_names_the_steps(store: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="between steps 1 and 5; there is no checkpoint yet"):
        train(small_config(learning_rate=1e30), store, tmp_path / "run")
    assert losses(tmp_path / "run") == []


def test_nan_is_never_saved_and_leaves_earlier_checkpoints(store: Path, tmp_path: Path) -> None:
    config = small_config(learning_rate=1e30, save_every=1)
    with pytest.raises(TrainingError, match=r"between steps 1 and 3; .*step 2"):
        train(config, store, tmp_path / "run")
    state = final_state(tmp_path / "run")
    assert all(np.isfinite(value).all() for value in state.values())


def test_another_store_is_an_error_that_names_both(
    finished: tuple[Path, RunResult], store: Path, tmp_path: Path
) -> None:
    other = build_store(tmp_path / "other.zarr", train=1500, test=300, seed=9)
    with pytest.raises(CheckpointError) as error:
        train(small_config(), other, finished[0])
    assert TokenStore.open(store).digest in str(error.value)
    assert TokenStore.open(other).digest in str(error.value)


def test_another_shape_is_an_error_that_names_both(
    finished: tuple[Path, RunResult], store: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"width=32.*not.*width=48"):
        train(small_config(width=48), store, finished[0])


def test_a_checkpoint_of_another_store_or_shape_is_refused_even_under_a_fitting_note(
    finished: tuple[Path, RunResult], store: Path, tmp_path: Path
) -> None:
    with open_run(tmp_path / "run", small_config(width=48), TokenStore.open(store)):
        pass
    shutil.copytree(finished[0] / "checkpoints", tmp_path / "run" / "checkpoints")
    with pytest.raises(CheckpointError, match=r"width=32.*not.*width=48"):
        train(small_config(width=48), store, tmp_path / "run")


def test_another_option_is_an_error_but_the_rhythm_may_change(
    finished: tuple[Path, RunResult], store: Path
) -> None:
    with pytest.raises(CheckpointError, match="seed=0, not 1"):
        train(small_config(seed=1), store, finished[0])
    assert train(small_config(log_every=7, save_every=3), store, finished[0]) == finished[1]


def test_a_run_from_before_a_field_existed_had_its_default(
    finished: tuple[Path, RunResult], store: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(finished[0], tmp_path / "run")
    for note in (run / "run.json", *run.glob("checkpoints/*/record/metadata")):
        text = note.read_text()
        assert '"answer_weight"' in text
        note.write_text(
            text.replace('"answer_weight": 1.0, ', "").replace('"answer_weight": 1.0,', "")
        )
        assert '"answer_weight"' not in note.read_text()
    for digests in run.glob(f"checkpoints/*/{DIGESTS_FILE}"):
        digests.unlink()
    (run / "result.json").unlink()
    assert train(small_config(), store, run).steps == finished[1].steps
    with pytest.raises(CheckpointError, match=r"answer_weight=1\.0, not 2\.0"):
        train(small_config(answer_weight=2.0), store, run)


def test_more_steps_continue_a_finished_run_and_say_so(store: Path, tmp_path: Path) -> None:
    class Loud(TrainingProgress):
        def __init__(self) -> None:
            self.lines: list[str] = []

        def warn(self, text: str) -> None:
            self.lines.append(text)

    loud = Loud()
    train(small_config(steps=10), store, tmp_path / "run")
    result = train(small_config(steps=15), store, tmp_path / "run", progress=loud)
    assert result.steps == 15
    assert [step for step, _ in result.losses] == [5, 10, 15]
    assert any("steps 10 → 15" in line for line in loud.lines)


def test_the_last_checkpoints_and_the_best_are_kept(store: Path, tmp_path: Path) -> None:
    config = small_config(
        steps=20, save_every=2, eval_every=2, keep_checkpoints=3, overfit_one_batch=True
    )
    train(config, store, tmp_path / "run")
    tests = {
        line["step"]: line["nats_per_measurement"]
        for line in read_json_lines(tmp_path / "run" / "evaluations.jsonl")
    }
    best = min(tests, key=tests.__getitem__)
    with Checkpoints(tmp_path / "run" / "checkpoints", 3) as checkpoints:
        assert checkpoints.steps() == sorted({best, 16, 18, 20})


def test_a_damaged_checkpoint_is_an_error_that_names_it(store: Path, tmp_path: Path) -> None:
    train(small_config(), store, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    for file in (tmp_path / "run" / "checkpoints" / "20" / "state").rglob("*"):
        if file.is_file() and file.stat().st_size > 1000:
            file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(CheckpointError, match=r"checkpoints/20: cannot be read.*before it"):
        train(small_config(), store, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "20")
    assert train(small_config(), store, tmp_path / "run").steps == 20


def test_stores_that_are_missing_unfinished_or_damaged_are_refused(
    store: Path, tmp_path: Path
) -> None:
    with pytest.raises(NotAStoreError, match="no finished manifest"):
        train(small_config(), tmp_path / "nothing.zarr", tmp_path / "run")
    unfinished = shutil.copytree(store, tmp_path / "unfinished.zarr")
    (unfinished / "zarr.json").unlink()
    with pytest.raises(NotAStoreError, match="no finished manifest"):
        train(small_config(), unfinished, tmp_path / "run")
    damaged = shutil.copytree(store, tmp_path / "damaged.zarr")
    file = chunk_file(damaged, "train", "full", "tokens")
    file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(DamagedStoreError, match="train/full/tokens"):
        train(small_config(), damaged, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_batch_larger_than_the_split_is_refused(store: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="batch of 100000 windows"):
        train(small_config(batch_size=100_000), store, tmp_path / "run")


def test_a_folder_with_something_else_is_refused_and_left_alone(
    store: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds something other than a run"):
        train(small_config(), store, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_two_processes_cannot_train_in_one_folder(store: Path, tmp_path: Path) -> None:
    opened = TokenStore.open(store)
    with (
        open_run(tmp_path / "run", small_config(), opened),
        pytest.raises(ConfigError, match="another process"),
    ):
        train(small_config(), store, tmp_path / "run")


def test_profile_writes_a_trace(store: Path, tmp_path: Path) -> None:
    train(small_config(steps=10), store, tmp_path / "run", profile=True)
    assert list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))


def test_a_sparkline_spans_lowest_to_highest() -> None:
    assert sparkline([3.0, 2.0, 1.0]) == "█▄▁" or sparkline([3.0, 2.0, 1.0]) == "█▅▁"
    assert sparkline([]) == ""
    assert len(sparkline([float(i) for i in range(1000)])) == 60
