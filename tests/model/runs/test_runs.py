"""Runs side by side: finished, still training, of sweeps, and damaged ones."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from model.run_folder import WITH_CONTEXT, WITHOUT_CONTEXT, FirstLook, RunRecord, RunResult
from model.runs.table import as_json, differing, read_runs
from model.runs.views import runs_view
from model.training.loop import train
from stores.errors import CheckpointError
from stores.files import read_json_lines, write_json
from tests.model.conftest import small_config
from tests.model.training.test_training_views import rendered

ERRORS = {
    WITHOUT_CONTEXT: {"seen_pairs": 3.8, "unseen_pairs": 6.78},
    WITH_CONTEXT: {"seen_pairs": 2.921, "unseen_pairs": 71e3},
    "DMFSGD": {"seen_pairs": 3.0, "unseen_pairs": 4.0},
}


@pytest.fixture(scope="module")
def runs(store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunResult]:
    """Four runs: `a` with a first look; `b` as `a` but with another rate; `c` stopped halfway; `d` was
    finished, and goes on to more steps."""
    folder = tmp_path_factory.mktemp("runs")
    result = train(small_config(steps=10, log_every=4, eval_every=5), store, folder / "a")
    record = RunRecord.read(folder / "a/run.json")
    for name in "bcd":
        shutil.copytree(folder / "a", folder / name)
    write_json(folder / "a/first_look.json", FirstLook(10, {}, ERRORS).as_dict())
    other = replace(record.config, train=replace(record.config.train, learning_rate=1e-5))
    write_json(
        folder / "b/run.json", replace(record, config=other, store_digest="f" * 64).as_dict()
    )
    (folder / "c/result.json").unlink()
    for name in ("metrics", "evaluations"):
        lines = (folder / f"c/{name}.jsonl").read_bytes().splitlines(keepends=True)
        (folder / f"c/{name}.jsonl").write_bytes(lines[0])
    more = replace(record.config, train=replace(record.config.train, steps=2000))
    write_json(folder / "d/run.json", replace(record, config=more).as_dict())
    write_json(folder / "d/first_look.json", FirstLook(7, {}, ERRORS).as_dict())
    return folder, result


def test_each_run_shows_what_it_reached(runs: tuple[Path, RunResult]) -> None:
    folder, result = runs
    rows = {Path(row.run).name: row for row in read_runs([folder])}
    assert list(rows) == ["a", "b", "c", "d"]
    assert [row.finished for row in rows.values()] == [True, True, False, False]
    assert [row.steps for row in rows.values()] == [10, 10, 4, 10]
    assert rows["d"].planned_steps == 2000
    assert result.evaluation is not None
    assert rows["a"].test_loss == result.evaluation.loss
    assert rows["a"].loss == result.loss
    first = read_json_lines(folder / "c/evaluations.jsonl")[0]
    assert rows["c"].test_loss == first["loss"] != result.evaluation.loss
    assert rows["a"].validation_loss is None
    assert rows["a"].errors_ms == {
        "without_context": ERRORS[WITHOUT_CONTEXT],
        "with_context": ERRORS[WITH_CONTEXT],
    }
    assert rows["b"].errors_ms == rows["d"].errors_ms == {}  # none was taken, or of fewer steps
    lines = read_json_lines(folder / "a/metrics.jsonl")
    rates = [(4, lines[0]), (4, lines[1]), (2, lines[2])]
    expected = sum(steps * 8 * 128 / line["tokens_per_second"] for steps, line in rates)
    assert rows["a"].seconds == pytest.approx(expected)


def test_only_what_differs_is_shown(runs: tuple[Path, RunResult]) -> None:
    folder, _ = runs
    a, b, d = rows = read_runs([folder / "a", folder / "b", folder / "d"])
    assert differing(rows) == ["steps", "learning_rate", "store"]
    assert differing([a, a]) == []
    assert as_json([a, d])[1]["differs"] == {"steps": 2000}
    text = rendered(runs_view(rows))
    assert "learning_rate 1e-05" in text
    assert "learning_rate 0.006" in text
    assert re.search("store f{12} ", text)
    assert "The stores differ" in text
    assert "3.80 / 2.92" in text
    assert "6.78 / 7e+04" in text
    assert "10 of 2,000" in text
    assert "validation" not in text
    alike = rendered(runs_view([a, replace(a, run="a2", validation_loss=1.25)]))
    assert "differs" not in alike
    assert "1.2500" in alike
    tuned = replace(a, run="tuned", settings={**a.settings, "init_from": "e" * 64})
    began = rendered(runs_view([a, tuned]))
    assert re.search("init_from - ", began)
    assert re.search("init_from e{12} ", began)
    bare = rendered(runs_view([replace(b, loss=None, test_loss=None, seconds=None)]))
    assert "ms" not in bare


def test_the_command_needs_no_jax_and_refuses_what_is_not_a_run(
    runs: tuple[Path, RunResult], tmp_path: Path
) -> None:
    folder, _ = runs
    code = "import sys, cli\ntry: cli.main()\nfinally: assert 'jax' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code, "runs", folder / "a", folder / "b", "--json"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [(row["run"], row["differs"]["learning_rate"]) for row in found] == [
        (str(folder / "a"), 0.006),
        (str(folder / "b"), 1e-5),
    ]
    with pytest.raises(
        CheckpointError, match=rf"^{tmp_path}: holds no run: expected run\.json in it"
    ):
        read_runs([folder / "a", tmp_path])
    shutil.copytree(folder / "c", tmp_path / "e")
    (tmp_path / "e/run.json").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"e/run\.json: cannot be read"):
        read_runs([tmp_path])
