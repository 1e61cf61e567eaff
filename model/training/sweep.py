"""Learning rates side by side: the same short run with each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from model.config import Config
from model.training.loop import train
from model.training.progress import Progress
from stores.errors import ConfigError, TrainingError


def parse_rates(text: str) -> list[float]:
    """`"1e-4,3e-4"` as numbers. Raises `ConfigError` for anything else."""
    try:
        rates = [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(
            f"learning rates {text!r}: expected numbers like 1e-4,3e-4,1e-3"
        ) from None
    if len(set(rates)) != len(rates):
        raise ConfigError(f"learning rates {text!r}: expected each of them once")
    return rates


def sweep(
    config: Config, store: Path, out: Path, rates: Sequence[float], progress: Progress
) -> list[dict[str, Any]]:
    """Train in `out/lr-<rate>` with each rate; run again, it continues.

    Per rate: `learning_rate`, `loss` (the last log line's), `test_loss`, `bits_per_measurement` on
    test, `run`, and `failed`: `None`, or why this rate did not get there.
    """
    rows = []
    for rate in rates:
        here = replace(config, train=replace(config.train, learning_rate=rate))
        path = out / f"lr-{rate:g}"
        progress.note(f"learning rate {rate:g}")
        row = {"learning_rate": rate, "run": str(path), "failed": None}
        try:
            result = train(here, store, path, progress=progress)
        except TrainingError as error:  # a rate too high is a finding, not the end of the sweep
            row |= {"failed": str(error), "loss": None, "test_loss": None}
            row |= {"bits_per_measurement": None}
        else:
            test = result["evaluation"]
            row |= {"loss": result["loss"], "test_loss": test["loss"]}
            row |= {"bits_per_measurement": test["bits_per_measurement"]}
        rows.append(row)
    return rows
