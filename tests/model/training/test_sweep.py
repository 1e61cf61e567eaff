"""A sweep over the values of any fields."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from model.run_folder import RunRecord
from model.training.progress import TrainingProgress
from model.training.sweep import make_variants, sweep
from stores.errors import ConfigError
from tests.model.conftest import SMALL

ONCE = {**SMALL, "steps": 10, "eval_every": 100, "save_every": 100}


def test_sweep_says_what_each_rate_reached(store: Path, tmp_path: Path) -> None:
    variants = make_variants("tiny", ONCE, {"learning_rate": ["1e-3", "1e30"]})
    rows = sweep(variants, store, tmp_path, TrainingProgress())
    assert [row.settings for row in rows] == [{"learning_rate": 1e-3}, {"learning_rate": 1e30}]
    assert [row.as_dict()["learning_rate"] for row in rows] == [1e-3, 1e30]
    assert rows[0].failed is None
    assert rows[0].test_loss < 5.7
    assert "NaN" in rows[1].failed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lr-0.001", "lr-1e+30"]


def test_fields_of_all_kinds_are_combined() -> None:
    tried = {"width": ["96", "192"], "optimizer": ["adamw", "muon"], "recall": ["yes", "no"]}
    variants = make_variants("tiny", {"heads": 3, "steps": None}, tried)  # 128 has no 3 heads
    assert len(variants) == 8
    second = variants[1]
    assert second.settings == {"width": 96, "optimizer": "adamw", "recall": False}
    assert second.folder == "width-96_optimizer-adamw_recall-false"
    assert (second.config.model.width, second.config.model.heads) == (96, 3)
    assert (second.config.train.optimizer, second.config.model.recall) == ("adamw", False)
    assert len({variant.folder for variant in variants}) == 8


def test_rates_that_look_alike_have_folders_of_their_own() -> None:
    variants = make_variants("tiny", {}, {"learning_rate": ["0.00123456", "0.001234564"]})
    assert [v.folder for v in variants] == ["lr-0.00123456", "lr-0.001234564"]


@pytest.mark.parametrize(
    ("tried", "said"),
    [
        ({"learning_rate": ["a", "b"]}, "learning_rate 'a': expected float"),
        ({"width": ["128", ""]}, "width '': expected int"),
        ({"depth": ["1", "2"]}, "no field 'depth': expected one of"),
        ({"heads": ["2", "3"]}, "width 128 over 3 heads"),
        ({"learning_rate": ["1e-3", "0.001"]}, "learning_rate=1e-3,0.001: expected each value only once"),
        ({}, "nothing to compare: give a field several values, as in --set learning_rate="),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_before_anything_is_trained(
    tried: dict[str, list[str]], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        make_variants("tiny", {}, tried)


def test_the_command_tries_what_has_several_values_and_sets_the_rest(
    store: Path, tmp_path: Path
) -> None:
    fixed = [part for name, value in ONCE.items() for part in ("--set", f"{name}={value}")]
    done = subprocess.run(
        [sys.executable, "cli.py", "sweep", "--store", store, "--out", tmp_path, "--preset", "tiny", *fixed,
         "--set", "mlp=32,64", "--json"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [(row["mlp"], row["run"]) for row in rows] == [
        (size, f"{tmp_path}/mlp-{size}") for size in (32, 64)
    ]
    assert all(row["test_loss"] > 0 for row in rows)
    configs = [RunRecord.read(Path(row["run"]) / "run.json").config for row in rows]
    assert [(c.model.mlp, c.model.width) for c in configs] == [(32, 32), (64, 32)]
    wrong = subprocess.run(
        [sys.executable, "cli.py", "sweep", "--learning-rates", "1", "--set", "learning_rate=1,2"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert wrong.stderr == "error: --learning-rates and --set learning_rate: give one of them\n"
