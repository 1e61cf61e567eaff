"""A sweep over learning rates."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.training.progress import TrainingProgress
from model.training.sweep import parse_rates, sweep
from stores.errors import ConfigError
from tests.model.conftest import small_config


def test_sweep_says_what_each_rate_reached(store: Path, tmp_path: Path) -> None:
    config = small_config(steps=10, eval_every=100, save_every=100)
    rows = sweep(config, store, tmp_path, parse_rates("1e-3,1e30"), TrainingProgress())
    assert [row.learning_rate for row in rows] == [1e-3, 1e30]
    assert rows[0].failed is None
    assert rows[0].test_loss < 5.7
    assert "NaN" in rows[1].failed
    with pytest.raises(ConfigError, match="learning rates 'a,b'"):
        parse_rates("a,b")
