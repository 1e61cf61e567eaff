"""`serve` before its model is ready."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.model.service.conftest import free_port, listening

START = "import sys; sys.modules[sys.argv.pop(1)] = None; import cli; cli.main()"


def serve(without: str, *options: str) -> subprocess.CompletedProcess[str]:
    """The command where a package is not installed."""
    return subprocess.run(
        [sys.executable, "-c", START, without, "serve", *options],
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("package", ["fastapi", "uvicorn", "fastapi_offline", "prometheus_client"])
def test_without_the_extra_it_says_what_to_install(package: str) -> None:
    done = serve(package)
    assert done.returncode == 1
    assert done.stderr == (
        f"error: serve: {package} is not installed: run pip install '.[serve]' in a clone of the "
        "repository, or install its wheel with the extra serve, as in 'FILE.whl[serve]'\n"
    )


def test_a_missing_model_is_one_line() -> None:
    done = serve("nothing_at_all", "--model", "nowhere/at/all")
    assert done.returncode == 1
    assert done.stderr.startswith("error: nowhere/at/all: does not exist")
    assert len(done.stderr.splitlines()) == 1


def test_a_malformed_host_name_is_one_line() -> None:
    done = serve("nothing_at_all", "--port", "0", "--allowed-host", "http://pings.example.org")
    assert done.returncode == 1
    assert done.stderr.startswith("error: --allowed-host 'http://pings.example.org': expected one")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_service_that_still_compiles_stops_cleanly(
    number: signal.Signals, exported: Path, tmp_path: Path
) -> None:
    """Python used to abort: the thread that compiles cannot be stopped."""
    with listening(exported, tmp_path / "empty", free_port()) as (process, _):
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert errors.splitlines()[-1] == "stopped"
    assert process.returncode == 0
