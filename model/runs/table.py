"""Runs as rows, from the files in their folders alone: nothing is loaded, and runs may still be training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from model.run_folder import (
    EVALUATIONS_FILE,
    FIRST_LOOK_FILE,
    METRICS_FILE,
    RECORD_FILE,
    RESULT_FILE,
    WITH_CONTEXT,
    WITHOUT_CONTEXT,
    Evaluation,
    FirstLook,
    MetricsLine,
    RunRecord,
    RunResult,
)
from stores.errors import CheckpointError


@dataclass(frozen=True)
class RunRow:
    """A run."""

    run: str
    settings: dict[str, Any]
    """Every field of its configuration, its preset, the digest of its `store`, the version of its `code`, and as
    `init_from` the digest of the store of the model that it began with, if any."""
    finished: bool
    steps: int
    """Those that are done; of an unfinished run, up to its last log line."""
    planned_steps: int
    loss: float | None
    """Of the last log line, nats per token."""
    validation_loss: float | None
    """Nats per token, where the store has a validation split."""
    test_loss: float | None
    """Nats per token; where there is a validation split, test is only measured at the end."""
    errors_ms: dict[str, dict[str, float]]
    """Median absolute errors of its model in the first look, `without_context` and `with_context`, by group of
    rows; empty where none was taken."""
    seconds: float | None
    """Spent in training steps, without compiling and evaluating."""


def read_runs(paths: Sequence[Path]) -> list[RunRow]:
    """The runs at `paths`, in this order; a folder that is no run stands for those in it, by name.

    Raises `CheckpointError` for a folder without runs, and for a damaged run.
    """
    return [_read(path) for given in paths for path in _runs_at(given)]


def differing(rows: Sequence[RunRow]) -> list[str]:
    """The names of the settings that are not the same in all runs, in their order."""
    first = rows[0].settings
    return [name for name in first if any(row.settings[name] != first[name] for row in rows)]


def as_json(rows: Sequence[RunRow]) -> list[dict[str, Any]]:
    """JSON-able form, each with what `differs` in it."""
    names = differing(rows)
    return [
        {"run": row.run, "differs": {name: row.settings[name] for name in names}, **asdict(row)}
        for row in rows
    ]


def _runs_at(path: Path) -> list[Path]:
    if (path / RECORD_FILE).exists():
        return [path]
    found = sorted(record.parent for record in path.glob(f"*/{RECORD_FILE}"))
    if not found:
        raise CheckpointError(
            f"{path}: holds no run: expected {RECORD_FILE} in it, or in folders in it"
        )
    return found


def _read(path: Path) -> RunRow:
    record = RunRecord.read(path / RECORD_FILE)
    config = record.config
    lines = MetricsLine.read_lines(path / METRICS_FILE)
    evaluations = Evaluation.read_lines(path / EVALUATIONS_FILE)
    result = RunResult.read_if_whole(path / RESULT_FILE)
    if result is not None and result.steps < config.train.steps:
        result = None  # it goes on, to more steps than it once had
    last = {evaluation.split: evaluation for evaluation in evaluations}
    if result is not None and result.evaluation is not None:
        last["test"] = result.evaluation
    steps = result.steps if result else lines[-1].step if lines else 0
    settings = {"preset": config.preset, **asdict(config.model), **asdict(config.train)}
    settings |= {"store": record.store_digest, "code": record.code_version}
    settings["init_from"] = record.base.store_digest if record.base else None
    return RunRow(
        run=str(path),
        settings=settings,
        finished=result is not None,
        steps=steps,
        planned_steps=config.train.steps,
        loss=lines[-1].loss if lines else None,
        validation_loss=_loss(last.get("validation")),
        test_loss=_loss(last.get("test")),
        errors_ms=_errors(path, steps),
        seconds=_seconds(lines, config.train.batch_size * config.model.context),
    )


def _loss(evaluation: Evaluation | None) -> float | None:
    return None if evaluation is None else evaluation.loss


def _errors(path: Path, steps: int) -> dict[str, dict[str, float]]:
    file = path / FIRST_LOOK_FILE
    if not file.exists() or (look := FirstLook.read(file)).steps != steps:
        return {}
    names = {WITHOUT_CONTEXT: "without_context", WITH_CONTEXT: "with_context"}
    return {name: look.errors_ms[key] for key, name in names.items() if key in look.errors_ms}


def _seconds(lines: Sequence[MetricsLine], tokens_per_step: int) -> float | None:
    """What the rates of the log lines come to."""
    if not lines:
        return None
    total, before = 0.0, 0
    for line in lines:
        if line.tokens_per_second > 0:
            total += (line.step - before) * tokens_per_step / line.tokens_per_second
        before = line.step
    return total
