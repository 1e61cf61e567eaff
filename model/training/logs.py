"""What a run records while it trains: JSON lines, and the same numbers as TensorBoard events."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from model.config import Config
from model.run_folder import (
    EVALUATIONS_FILE,
    METRICS_FILE,
    TENSORBOARD_FOLDER,
    Evaluation,
    LoggedStep,
    MetricsLine,
)
from model.training.events import Events
from model.training.run import Run
from stores.errors import OutputError
from stores.files import read_json_lines, write_synced

_COUNTS = ("tokens", "measurements")


class Logs:
    """RUN/metrics.jsonl (a line per log step), RUN/evaluations.jsonl and RUN/tensorboard.

    `step` is the step that the run continues from, and `chosen_on` the split that is evaluated. Later lines
    are dropped: their steps were lost when the process was killed and are about to be repeated. Writing raises
    `OutputError`, naming the file, when the disk is full.
    """

    def __init__(self, path: Path, step: int, config: Config, chosen_on: str = "test"):
        files = path / METRICS_FILE, path / EVALUATIONS_FILE
        for file in files:
            _drop_lines(file, step)
        self._metrics, self._evaluations = map(_append, files)
        self._events = Events(path / TENSORBOARD_FOLDER, step)
        settings = {"preset": config.preset, **asdict(config.model), **asdict(config.train)}
        losses = [f"{chosen_on}/loss", f"{chosen_on}/nats_per_measurement", "train/loss"]
        try:
            self._events.describe(settings, losses)
        except OSError as error:
            self.__exit__()
            raise _no_room(path / TENSORBOARD_FOLDER, error) from error

    def metrics(self, line: MetricsLine) -> None:
        """Write the numbers of a log step."""
        self._write(self._metrics, "train", line.as_dict())

    def evaluation(self, evaluation: Evaluation) -> None:
        """Write the numbers of an evaluation. They are few, and decide which checkpoint is the best: when
        this returns, they are on disk."""
        self._write(self._evaluations, evaluation.split, evaluation.as_dict(), synced=True)

    def _write(
        self, file: IO[str], split: str, line: dict[str, Any], *, synced: bool = False
    ) -> None:
        try:
            file.write(json.dumps(line) + "\n")
            file.flush()
            if synced:
                os.fsync(file.fileno())
            self._events.write(line["step"], tagged(line, split))
        except OSError as error:
            raise _no_room(file.name, error) from error

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


def logs_of(run: Run, step: int, config: Config, chosen_on: str) -> Logs:
    """The logs of a run, which only one of its processes writes."""
    return NoLogs() if run.peers.process else Logs(run.path, step, config, chosen_on)


def tagged(line: dict[str, Any], split: str) -> list[tuple[str, float]]:
    """The numbers of a log line by TensorBoard's tags; what stands before the slash of a tag is the heading that
    its card lies under.

    `train/loss`, `test/loss`; by timestamp mode `test_full/loss`; by kind of token `test_source/loss_16`. Left
    out are counts, and the kinds within a mode: hundreds of cards that nobody looks at, and the lines have them.
    """
    numbers = _numbers(line, split)
    for mode, part in line.get("modes", {}).items():
        numbers += _numbers(part, f"{split}_{mode}")
    for kind, part in line.get("kinds", {}).items():
        field, *place = kind.split("_")
        for name in ("loss", "accuracy"):
            numbers.append((f"{split}_{field}/{'_'.join([name, *place])}", float(part[name])))
    return numbers


def _numbers(line: dict[str, Any], heading: str) -> list[tuple[str, float]]:
    """The numbers that are not of a mode or kind."""
    given = {name: value for name, value in line.items() if name not in ("step", *_COUNTS)}
    numbers = {name: value for name, value in given.items() if isinstance(value, int | float)}
    for convention, share in (line.get("mfu") or {}).items():
        numbers[f"mfu_{convention}"] = share
    return [(f"{heading}/{name}", float(value)) for name, value in numbers.items()]


def _no_room(place: str | Path, error: OSError) -> OutputError:
    return OutputError(f"{place}: cannot write: {error.strerror}: make room and run again")


def _append(path: Path) -> IO[str]:
    return open(path, "a")


def _drop_lines(path: Path, step: int) -> None:
    """Keep only the lines up to `step`. Raises `InputError` or `CheckpointError` for a line that is not one
    of a log."""
    lines = read_json_lines(path)
    kept = [line for line in lines if LoggedStep.from_dict(line, path).step <= step]
    write_synced(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
