"""The command line as a user meets it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.main import get_command

import cli

ROOT = Path(__file__).parent.parent
OF_EXTRAS = ",".join(cli.EXTRA_OF)

BLOCKING = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

blocked = set(sys.argv.pop(1).split(","))
sys.meta_path.insert(0, Missing())
import cli
cli.main()
"""
"""Runs the command line as it is where the packages named first are not installed."""

COMMANDS = get_command(cli.app).commands  # type: ignore[attr-defined]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "cli.py"), *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


def run_without(packages: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BLOCKING, packages, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help_with_an_example_and_json(name: str) -> None:
    text = COMMANDS[name].help or ""
    assert re.search(rf"Examples?: `pinglm {name}", text)
    assert any("--json" in parameter.opts for parameter in COMMANDS[name].params)


def test_usage_errors_exit_2_and_failures_exit_1_with_one_line(tmp_path: Path) -> None:
    assert run("nonsense").returncode == 2
    assert run("split").returncode == 2
    assert run("prepare", "--rows", 0, "--out", tmp_path / "o").returncode == 2
    missing = run("inspect-store", tmp_path / "nothing")
    assert missing.returncode == 1
    assert missing.stderr.startswith("error: ")
    assert len(missing.stderr.splitlines()) == 1


def test_help_of_the_whole_fits_a_terminal() -> None:
    shown = run("--help")
    assert shown.returncode == 0
    assert all(name in shown.stdout for name in COMMANDS)


def test_the_version_is_that_of_the_package() -> None:
    assert run("--version").stdout == f"pinglm {version('pinglm')}\n"


@pytest.mark.parametrize(
    "asked",
    [
        {"_PINGLM_COMPLETE": "complete_bash", "COMP_WORDS": "pinglm predict", "COMP_CWORD": "1"},
        {"_PINGLM_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "pinglm predict"},
        {"_PINGLM_COMPLETE": "complete_fish", "_TYPER_COMPLETE_ARGS": "pinglm predict"}
        | {"_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    ],
    ids=["bash", "zsh", "fish"],
)
def test_shells_complete_commands(asked: dict[str, str]) -> None:
    command = [sys.executable, "-c", "import sys; sys.argv[0] = 'pinglm'; import cli; cli.main()"]
    shown = subprocess.run(
        command, capture_output=True, text=True, timeout=60, cwd=ROOT, env={**os.environ, **asked}
    )
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "predict-rtt" in shown.stdout
    assert "sample-ips" not in shown.stdout


def test_an_interrupted_command_says_how_to_continue(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "cli.py"), "prepare", "--rows", "20000000"]
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path / "out"), "--workers", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (tmp_path / "out/measurements").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "error: interrupted; run the same command again to continue\n"


def test_the_core_alone_shows_help_and_looks_into_a_store(store: Path) -> None:
    shown = run_without(OF_EXTRAS, "--help")
    assert shown.returncode == 0
    assert all(name in shown.stdout for name in COMMANDS)
    for command in ("inspect-store", "verify-store", "decode"):
        looked = run_without(OF_EXTRAS, command, store, "--json")
        assert looked.returncode == 0, looked.stderr
        assert json.loads(looked.stdout)


@pytest.mark.parametrize(
    ("arguments", "package", "extra"),
    [
        (("prepare", "--rows", "1000", "--out", "OUT"), "pyarrow", "prepare"),
        (("train", "--dry-run"), "jax", "train"),
        (("push", "STORE", "s3://bucket/x"), "obstore", "cloud"),
        (("pull", "https://host.invalid/x", "OUT/x"), "obstore", "cloud"),
        (("predict-rtt", "192.0.2.1", "192.0.2.2"), "jax", "train"),
        (("inspect-store", "STORE", "--plot", "OUT/plot.png"), "matplotlib", "train"),
    ],
)
def test_a_missing_extra_is_named_in_one_line(
    arguments: tuple[str, ...], package: str, extra: str, store: Path, tmp_path: Path
) -> None:
    places = {"STORE": str(store), "OUT": str(tmp_path)}
    filled = [places.get(word, word.replace("OUT/", f"{tmp_path}/")) for word in arguments]
    failed = run_without(package, *filled)
    assert failed.returncode == 1
    assert failed.stderr == (
        f"error: {package} is not installed: this command needs the extra `{extra}`: "
        f"run pip install '.[{extra}]' in the clone\n"
    )


def test_a_missing_package_of_no_extra_is_not_explained_away() -> None:
    failed = run_without("typer", "--help")
    assert failed.returncode == 1
    assert "ModuleNotFoundError" in failed.stderr


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(28, "No space left on device", "/full/a\nb"),
            "/full/a b: No space left on device",
        ),
        (OSError(24, "Too many open files"), "Too many open files"),
        (TimeoutError("timed out"), "timed out"),
    ],
)
def test_an_error_of_the_system_is_one_line_that_names_the_file(
    error: OSError,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err == f"error: {said}\n"
