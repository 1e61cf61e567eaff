"""The JAX that goes with a driver, as a fake `nvidia-smi` on PATH names it; and a GPU that is left unused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from model.devices import unused_gpu
from model.nvidia import extra_for, find_driver
from tests.model.conftest import run_train

ROOT = Path(__file__).parents[2]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """fake(lines of a shell script) puts an `nvidia-smi` on PATH that runs them."""

    def put(script: str) -> dict[str, str]:
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.delenv("JAX_PLATFORMS", raising=False)
        return dict(os.environ)

    return put


def chosen(*wanted: str) -> subprocess.CompletedProcess[str]:
    """What `make setup` asks, in an interpreter without any package."""
    command = [sys.executable, "-I", "-S", str(ROOT / "model/nvidia.py"), *wanted]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("driver", "extra"),
    [
        ("580.82.07", "cuda13"),
        ("595.10", "cuda13"),
        ("579.99", "cuda12"),
        ("525.60.13", "cuda12"),
        ("524.0", ""),
        ("470.256.02", ""),
    ],
)
def test_the_driver_decides(driver: str, extra: str, fake) -> None:
    fake(f'[ "$1" = --query-gpu=driver_version ] && echo "{driver}\n{driver}"')
    done = chosen()
    assert (done.returncode, done.stdout.strip()) == (0, extra)
    assert driver in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert (extra_for(driver) or "") == extra
    assert chosen("cpu").stdout.strip() == ""
    assert chosen("cuda12").stdout.strip() == "cuda12"


@pytest.mark.parametrize(
    "script", ["echo No devices were found; exit 6", "exit 9", "echo '[N/A]'", "echo"]
)
def test_a_driver_that_does_not_answer_counts_as_none(script: str, fake) -> None:
    fake(script)
    assert find_driver() is None
    assert chosen().stdout.strip() == ""
    assert "no NVIDIA driver found" in chosen().stderr
    assert unused_gpu() is None


def test_another_accelerator_is_refused_in_one_line() -> None:
    done = chosen("rocm")
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["ACCELERATOR=rocm: expected cpu, cuda12 or cuda13"]


def test_make_installs_what_was_chosen(fake) -> None:
    fake("echo 580.82.07")
    line = ["make", "--dry-run", "--always-make", "setup", "ACCELERATOR=cuda12"]
    said = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, timeout=60).stdout
    assert "model/nvidia.py 'cuda12'" in said
    assert '-e ".[dev${extra:+,$extra}]"' in said
    shell = 'extra=cuda12; echo ".[dev${extra:+,$extra}]"; extra=; echo ".[dev${extra:+,$extra}]"'
    shown = subprocess.run(["sh", "-c", shell], capture_output=True, text=True).stdout
    assert shown.splitlines() == [".[dev,cuda12]", ".[dev]"]


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="JAX uses the GPU of this machine")
def test_an_unused_gpu_is_named_with_the_command_that_helps(
    fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake("echo 580.82.07")
    said = unused_gpu()
    assert said is not None
    assert "driver 580.82.07" in said
    assert "the default preset is tiny, not 85m" in said
    assert "`make setup ACCELERATOR=cuda13`" in said
    fake("echo 470.1")
    assert "Update the driver" in (unused_gpu() or "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert "cannot use it" in (unused_gpu() or "")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert unused_gpu() is None


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="JAX uses the GPU of this machine")
def test_train_names_an_unused_gpu_before_it_begins(fake, tmp_path: Path) -> None:
    environment = fake("echo 580.82.07")
    done = run_train(tmp_path / "nothing", tmp_path / "run", env=environment)
    first, last = done.stderr.splitlines()
    assert first.startswith("WARNING: this machine has an NVIDIA GPU (driver 580.82.07), but JAX")
    assert last.startswith("error: ")
