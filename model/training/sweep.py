"""Learning rates side by side: the same short run with each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from model.config import Config
from model.training.loop import train
from model.training.progress import TrainingProgress
from stores.errors import ConfigError, TrainingError
from stores.union import StorePaths


def parse_rates(text: str) -> list[float]:
    """`"1e-4,3e-4"` as numbers. Raises `ConfigError` for anything else."""
    try:
        rates = [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(
            f"learning rates {text!r}: expected numbers like 1e-4,3e-4,1e-3"
        ) from None
    if len(set(rates)) != len(rates):
        raise ConfigError(f"learning rates {text!r}: expected each rate only once")
    return rates


@dataclass(frozen=True)
class SweepRow:
    """What training with one learning rate reached."""

    learning_rate: float
    run: str
    failed: str | None = None
    """Why it did not finish; then there are no losses."""
    loss: float | None = None
    """Of the last log line, nats per token."""
    test_loss: float | None = None
    """Nats per token."""
    bits_per_measurement: float | None = None
    """On the test split."""
    validation_loss: float | None = None
    """Nats per token, where the store has a validation split."""

    @property
    def chosen_by(self) -> float | None:
        """The loss that the best rate has the lowest of."""
        return self.test_loss if self.validation_loss is None else self.validation_loss

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)


def sweep(
    config: Config,
    stores: StorePaths,
    out: Path,
    rates: Sequence[float],
    progress: TrainingProgress,
) -> list[SweepRow]:
    """Train in `out/lr-<rate>` with each rate; a second call continues where the first one stopped.

    Returns a row per rate, in their order. Raises what `train` raises, except for `TrainingError`.
    """
    rows: list[SweepRow] = []
    for rate in rates:
        here = replace(config, train=replace(config.train, learning_rate=rate))
        path = out / f"lr-{rate:g}"
        progress.note(f"learning rate {rate:g}")
        row = SweepRow(rate, str(path))
        try:
            result = train(here, stores, path, progress=progress)
        except TrainingError as error:  # a rate that is too high is a finding, not a failed sweep
            row = replace(row, failed=str(error))
        else:
            row = replace(row, loss=result.loss)
            if result.evaluation is not None:
                bits = result.evaluation.bits_per_measurement
                row = replace(row, test_loss=result.evaluation.loss, bits_per_measurement=bits)
            if result.validation is not None:
                row = replace(row, validation_loss=result.validation.loss)
        rows.append(row)
    return rows
