"""What a run records while it trains: JSON lines, and the same numbers as TensorBoard events."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import IO, Any

from model.run_folder import (
    EVALUATIONS_FILE,
    METRICS_FILE,
    TENSORBOARD_FOLDER,
    Evaluation,
    LoggedStep,
    MetricsLine,
)
from model.training.events import Events
from stores.errors import OutputError
from stores.files import read_json_lines, write_synced


class Logs:
    """RUN/metrics.jsonl (a line per log step), RUN/evaluations.jsonl and RUN/tensorboard.

    `step` is the step that the run continues from. Later lines are dropped: their steps were lost when
    the process was killed and are about to be repeated. Writing raises `OutputError`, naming the file,
    when the disk is full.
    """

    def __init__(self, path: Path, step: int):
        files = path / METRICS_FILE, path / EVALUATIONS_FILE
        for file in files:
            _drop_lines(file, step)
        self._metrics, self._evaluations = map(_append, files)
        self._events = Events(path / TENSORBOARD_FOLDER, step)

    def metrics(self, line: MetricsLine) -> None:
        """Write the numbers of a log step."""
        self._write(self._metrics, "train", line.as_dict())

    def evaluation(self, evaluation: Evaluation) -> None:
        """Write the numbers of an evaluation. They are few, and decide which checkpoint is the best: when
        this returns, they are on disk."""
        self._write(self._evaluations, evaluation.split, evaluation.as_dict(), synced=True)

    def _write(
        self, file: IO[str], prefix: str, line: dict[str, Any], *, synced: bool = False
    ) -> None:
        try:
            file.write(json.dumps(line) + "\n")
            file.flush()
            if synced:
                os.fsync(file.fileno())
            self._events.write(line["step"], flatten(line, prefix))
        except OSError as error:
            raise OutputError(
                f"{file.name}: cannot write: {error.strerror}: make room and run again"
            ) from error

    def __enter__(self) -> Logs:
        return self

    def __exit__(self, *exception: object) -> None:
        for file in (self._metrics, self._evaluations, self._events):
            with contextlib.suppress(OSError):  # a full disk, already raised by `_write`
                file.close()


class NoLogs(Logs):
    """Writes nothing: of the processes that train together, only one keeps logs."""

    def __init__(self) -> None:
        pass

    def metrics(self, line: MetricsLine) -> None:
        pass

    def evaluation(self, evaluation: Evaluation) -> None:
        pass

    def __exit__(self, *exception: object) -> None:
        pass


def flatten(tree: dict[str, Any], prefix: str) -> list[tuple[str, float]]:
    """The numbers of a nested dict, named by their path, the way TensorBoard groups them."""
    numbers: list[tuple[str, float]] = []
    for name, value in tree.items():
        if isinstance(value, dict):
            numbers += flatten(value, f"{prefix}/{name}")
        elif isinstance(value, int | float) and name != "step":
            numbers.append((f"{prefix}/{name}", float(value)))
    return numbers


def _append(path: Path) -> IO[str]:
    return open(path, "a")


def _drop_lines(path: Path, step: int) -> None:
    """Keep only the lines up to `step`. Raises `InputError` or `CheckpointError` for a line that is not one
    of a log."""
    lines = read_json_lines(path)
    kept = [line for line in lines if LoggedStep.from_dict(line, path).step <= step]
    write_synced(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
