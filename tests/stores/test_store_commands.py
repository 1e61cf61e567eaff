"""inspect-store, decode and verify-store as a user runs them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stores import TokenStore
from stores.codec import decode_window
from stores.layout import chunk_file

ROOT = Path(__file__).parents[2]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "cli.py", *map(str, arguments)]
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "100"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)


def test_inspect_store_prints_tables_that_fit_100_columns(store_path: Path) -> None:
    done = run("inspect-store", store_path)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 100
    for word in (TokenStore.open(store_path).digest, "train/mixed", "97.28 %", "TIMESTAMP_DELTA4"):
        assert word in done.stdout
    assert "…" not in done.stdout


def test_inspect_store_json_is_only_json(store_path: Path) -> None:
    done = run("inspect-store", store_path.parent, "--json", "--split", "train")
    report = json.loads(done.stdout)
    assert report["splits"].keys() == {"train"}
    assert report["splits"]["train"]["full"]["windows"] == 84
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("suffix", "begins"), [(".png", b"\x89PNG"), (".html", b"<!doctype html>")]
)
def test_plot_is_one_self_contained_file(
    store_path: Path, tmp_path: Path, suffix: str, begins: bytes
) -> None:
    plot = tmp_path / f"plot{suffix}"
    done = run("inspect-store", store_path, "--plot", plot)
    assert done.returncode == 0, done.stderr
    content = plot.read_bytes()
    assert content.startswith(begins)
    if suffix == ".html":
        assert b"<svg" in content
        assert b"<script" not in content
        assert b"src=" not in content


def test_plot_of_another_suffix_is_refused(store_path: Path, tmp_path: Path) -> None:
    done = run("inspect-store", store_path, "--plot", tmp_path / "plot.gif")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("plot.gif: expected a file name that ends in .png or .html\n")


def test_decode_json_is_the_window(store_path: Path) -> None:
    done = run(
        "decode",
        store_path,
        "--split",
        "test",
        "--mode",
        "mixed",
        "--index",
        3,
        "--count",
        2,
        "--json",
    )
    store = TokenStore.open(store_path)
    windows = json.loads(done.stdout)["windows"]
    assert [window["index"] for window in windows] == [3, 4]
    for window in windows:
        row = window["index"]
        tokens = store.gather("test", "mixed", [row])[0]
        length = int(store.lengths("test", "mixed")[row])
        assert window["tokens"] == tokens[:length].tolist()
        clock = None
        for found, expected in zip(
            window["measurements"], decode_window(tokens, length), strict=True
        ):
            assert (found["src"], found["dst"]) == (str(expected.src), str(expected.dst))
            assert (found["rtt_ms"], found["time"]) == (expected.rtt_ms, expected.time)
            if found["delta"] is not None:
                assert found["time"] == clock + found["delta"]
            clock = clock if found["time"] is None else found["time"]


def test_decode_shows_every_token_and_every_measurement(store_path: Path) -> None:
    done = run("decode", store_path, "--mode", "mixed", "--index", 7)
    store = TokenStore.open(store_path)
    tokens = store.gather("train", "mixed", [7])[0]
    measurements = decode_window(tokens, int(store.lengths("train", "mixed")[7]))
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert done.stdout.count("▪") == len(measurements) + 1  # and one in the legend
    for measurement in measurements:
        assert f"from {measurement.src} " in done.stdout
        assert f"to {measurement.dst} " in done.stdout
    assert done.stdout.count(" failed ") == sum(m.rtt_ms is None for m in measurements) + 1


def test_decode_of_a_window_that_is_not_there_says_how_many_there_are(store_path: Path) -> None:
    done = run("decode", store_path, "--index", 84)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no window 84 in train/full: expected an index from 0 to 83" in done.stderr
    assert done.stderr.count("\n") == 1


def test_verify_store_says_sound_or_names_the_damage(store_path: Path, tmp_path: Path) -> None:
    done = run("verify-store", store_path)
    assert done.returncode == 0, done.stderr
    assert "sound" in done.stdout
    path = shutil.copytree(store_path, tmp_path / "store.zarr")
    file = chunk_file(Path(path), "train", "none", "tokens", 3)
    content = bytearray(file.read_bytes())
    content[0] = 77
    file.write_bytes(content)
    done = run("verify-store", path, "--json")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert report["sound"] is False
    assert any(str(file) in problem for problem in report["problems"])
    done = run("verify-store", path)
    assert done.returncode == 1
    assert "damaged: 2 problems" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("command", ["inspect-store", "decode", "verify-store"])
def test_what_is_not_a_store_is_one_line_and_exit_1(command: str, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        done = run(command, path)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"error: {path}: no finished manifest")
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["inspect-store", "decode", "verify-store"])
def test_help_has_an_example(command: str) -> None:
    assert f"Example: pinglm {command}" in run(command, "--help").stdout
