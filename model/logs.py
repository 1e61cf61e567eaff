"""What a run writes down while it trains: JSON lines, and the same numbers as TensorBoard events."""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, Any

from stores.files import write_bytes


class Logs:
    """RUN/metrics.jsonl (a line per log step), RUN/evaluations.jsonl and RUN/tensorboard.

    Opened at the step that the run continues from: lines past it, of steps that were lost with a
    killed process and are about to be done again, are dropped.
    """

    def __init__(self, path: Path, step: int):
        from tensorboardX import SummaryWriter  # protobuf: only who trains needs it

        self._metrics = _continue_lines(path / "metrics.jsonl", step)
        self._evaluations = _continue_lines(path / "evaluations.jsonl", step)
        self._events = SummaryWriter(str(path / "tensorboard"), purge_step=step + 1)

    def metrics(self, line: dict[str, Any]) -> None:
        """A log step's numbers, its `step` among them."""
        self._write(self._metrics, "train", line)

    def evaluation(self, line: dict[str, Any]) -> None:
        """An evaluation's numbers, its `step` among them."""
        self._write(self._evaluations, "test", line)

    def _write(self, file: IO[str], prefix: str, line: dict[str, Any]) -> None:
        file.write(json.dumps(line) + "\n")
        file.flush()
        for name, value in flatten(line, prefix):
            self._events.add_scalar(name, value, line["step"])
        self._events.flush()

    def __enter__(self) -> Logs:
        return self

    def __exit__(self, *exception: object) -> None:
        self._metrics.close()
        self._evaluations.close()
        self._events.close()


def flatten(tree: dict[str, Any], prefix: str) -> list[tuple[str, float]]:
    """Numbers of a nested dict by their path, as TensorBoard groups them."""
    numbers: list[tuple[str, float]] = []
    for name, value in tree.items():
        if isinstance(value, dict):
            numbers += flatten(value, f"{prefix}/{name}")
        elif isinstance(value, int | float) and name != "step":
            numbers.append((f"{prefix}/{name}", float(value)))
    return numbers


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Lines of a JSON-lines file, without a last one that was cut off; empty when there is no file."""
    if not path.exists():
        return []
    whole = path.read_bytes().split(b"\n")[:-1]
    return [json.loads(line) for line in whole]


def _continue_lines(path: Path, step: int) -> IO[str]:
    """The file, open to append, with the lines up to `step`."""
    kept = [line for line in read_lines(path) if line["step"] <= step]
    write_bytes(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
    return open(path, "a")
