"""Settings side by side: the same short run with every combination of some fields' values."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from model.config import Config, make_config
from model.training.loop import train
from model.training.progress import TrainingProgress
from stores.errors import ConfigError, TrainingError
from stores.union import StorePaths


@dataclass(frozen=True)
class Variant:
    """A configuration that is tried."""

    settings: dict[str, Any]
    """The fields that are tried, with its values."""
    config: Config

    @property
    def folder(self) -> str:
        """The name of its run's folder."""
        return "_".join(
            f"{_SHORT.get(name, name)}-{value_text(value)}" for name, value in self.settings.items()
        )


_SHORT = {"learning_rate": "lr"}


def value_text(value: Any) -> str:
    """A setting as short as it can be without becoming another's: 0.001, 1e-05, 96, muon, true."""
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def make_variants(
    preset: str, fixed: Mapping[str, Any], tried: Mapping[str, Sequence[str]]
) -> list[Variant]:
    """Every combination of the values of the fields `tried`, beside the `fixed` ones; the last field changes
    fastest.

    Raises `ConfigError` for a field or value that is wrong, a combination that contradicts itself, a value
    that occurs twice, and when nothing is tried.
    """
    if not tried:
        raise ConfigError(
            "nothing to compare: give a field several values, as in --set learning_rate=1e-4,3e-4"
        )
    variants = []
    for values in itertools.product(*tried.values()):
        config = make_config(preset, {**fixed, **dict(zip(tried, values, strict=True))})
        variants.append(Variant({name: _value(config, name) for name in tried}, config))
    for name, given in tried.items():
        if len({variant.settings[name] for variant in variants}) < len(given):
            raise ConfigError(f"{name}={','.join(given)}: expected each value only once")
    return variants


def _value(config: Config, name: str) -> Any:
    part = config.model if name in {f.name for f in fields(config.model)} else config.train
    return getattr(part, name)


@dataclass(frozen=True)
class SweepRow:
    """What training with one combination of settings reached."""

    settings: dict[str, Any]
    """The fields that were tried, with their values."""
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
        """The loss that the best settings have the lowest of."""
        return self.test_loss if self.validation_loss is None else self.validation_loss

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form, with the settings among the other fields."""
        others = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "settings"}
        return {**self.settings, **others}


def sweep(
    variants: Sequence[Variant], stores: StorePaths, out: Path, progress: TrainingProgress
) -> list[SweepRow]:
    """Train each variant in its folder in `out`; a second call continues where the first one stopped.

    Returns a row per variant, in their order. Raises what `train` raises, except for `TrainingError`.
    """
    rows: list[SweepRow] = []
    for variant in variants:
        path = out / variant.folder
        settings = variant.settings.items()
        progress.note(", ".join(f"{name} {value_text(value)}" for name, value in settings))
        row = SweepRow(variant.settings, str(path))
        try:
            result = train(variant.config, stores, path, progress=progress)
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
