"""`evaluate` on a real, if small, simulated store: the command, its report, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.rtt_report import evaluate_baselines
from stores.errors import ConfigError
from tests.helpers import windows_of_mode, write_store
from tests.model.small_rows import Constant

ROWS = 20_000
BASELINES = {
    "global_median",
    "source_median",
    "destination_median",
    "pair_median",
    "pair_last",
    "pair_average",
    "vivaldi",
    "dmfsgd",
    "nearest_vantage",
}
GROUPS = {
    "all",
    "seen_pairs",
    "unseen_pairs",
    "unseen_sources",
    "context_has_pair",
    "context_lacks_pair",
}


def command(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "cli.py", *options], capture_output=True, text=True, timeout=120
    )


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared folder with its truth, some of its sources only in test."""
    out = tmp_path_factory.mktemp("simulated")
    small = ["prepare", "--rows", str(ROWS), "--by", "source", "--workers", "1", "--json"]
    made = command(*small, "--out", str(out))
    assert made.returncode == 0, made.stderr
    return out


@pytest.fixture(scope="module")
def report(simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `evaluate --json` says about it, and writes."""
    out = tmp_path_factory.mktemp("report") / "new"
    options = ["--store", str(simulated), "--truth", str(simulated / "truth" / "world.npz")]
    done = command("evaluate", *options, "--out", str(out), "--limit", "800", "--json")
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    assert said == json.loads((out / "report.json").read_text())
    return said


def test_report_has_every_predictor_in_every_group(report: dict[str, Any]) -> None:
    assert set(report["rtt"]) == BASELINES | {"best_possible"}
    asked = report["questions"]
    assert asked["asked"] == 800
    for errors in report["rtt"].values():
        assert set(errors) == GROUPS
        assert errors["all"]["count"] == 800 - asked["failed"]
        parts = ("seen_pairs", "unseen_pairs", "unseen_sources")
        assert sum(errors[part]["count"] for part in parts) == errors["all"]["count"]
        assert errors["all"]["median_abs_error_ms"] <= errors["all"]["mae_ms"]
    assert set(report["rtt_by_context"]["vivaldi"]) == {"0", "1", "2", "5", "10", "30"}
    assert set(report["rtt_by_family"]["dmfsgd"]) == {"ipv4", "ipv6"}


def test_nothing_beats_the_truth(report: dict[str, Any]) -> None:
    best = report["rtt"]["best_possible"]["all"]
    for name in BASELINES:
        assert best["median_abs_error_ms"] <= report["rtt"][name]["all"]["median_abs_error_ms"]
        assert best["mae_ms"] < report["rtt"][name]["all"]["mae_ms"]
    calibration = report["calibration"]["best_possible"]["all"]
    assert calibration["coverage_80"] == pytest.approx(0.8, abs=0.05)
    for name, metrics in report["calibration"].items():
        assert name == "best_possible" or calibration["crps_ms"] < metrics["all"]["crps_ms"]
        assert report["failure"]["best_possible"]["all"]["brier"] <= (
            report["failure"][name]["all"]["brier"] + 1e-3
        )


def test_context_places_new_sources(report: dict[str, Any]) -> None:
    for name in ("vivaldi", "dmfsgd", "nearest_vantage"):
        errors = report["rtt_by_context"][name]
        with_10, without = (errors[size]["unseen_sources"] for size in ("10", "0"))
        assert with_10["median_abs_error_ms"] < 0.8 * without["median_abs_error_ms"]
        ours = report["rtt"][name]["unseen_sources"]["median_abs_error_ms"]
        history = report["rtt"]["destination_median"]["unseen_sources"]["median_abs_error_ms"]
        assert ours < 0.7 * history


def test_other_predictors_are_asked_beside_the_baselines(simulated: Path) -> None:
    report = evaluate_baselines(simulated, limit=100, others=[Constant(50.0)])
    assert set(report["rtt"]) == BASELINES | {"constant"}
    assert "constant" not in report["calibration"]


def test_the_table_is_short_and_names_the_report(simulated: Path, tmp_path: Path) -> None:
    done = command(
        *("evaluate", "--store", str(simulated), "--out", str(tmp_path), "--limit", "100")
    )
    assert done.returncode == 0, done.stderr
    assert "unseen sources" in done.stdout
    assert "best_possible" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_the_truth_of_another_simulation_is_refused(simulated: Path, tmp_path: Path) -> None:
    other = command(
        "simulate", "--rows", "100", "--seed", "5", "--out", str(tmp_path / "o.parquet")
    )
    assert other.returncode == 0, other.stderr
    done = command(
        *("evaluate", "--store", str(simulated), "--out", str(tmp_path), "--limit", "100"),
        *("--truth", str(tmp_path / "o.world.npz")),
    )
    assert done.returncode == 1
    assert "belongs to another simulation" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "report.json").exists()


def test_an_output_that_cannot_be_a_folder_is_refused(simulated: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    out = str(tmp_path / "file")
    done = command("evaluate", "--store", str(simulated), "--out", out, "--limit", "100")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")


def test_a_split_without_answers_is_refused(tmp_path: Path) -> None:
    counts = {"train": 0, "test": 0}
    arrays = {
        (split, mode): windows_of_mode([], mode)
        for split in counts
        for mode in ("full", "none", "mixed")
    }
    path = write_store(tmp_path / "store.zarr", arrays, counts)
    with pytest.raises(ConfigError, match="train has no answered row"):
        evaluate_baselines(path)


def test_reports_repeat_from_their_seed(simulated: Path) -> None:
    first, again = (evaluate_baselines(simulated, limit=200, seed=3) for _ in range(2))
    assert first["rtt"] == again["rtt"]
    assert np.isfinite(first["rtt"]["vivaldi"]["all"]["mae_ms"])
