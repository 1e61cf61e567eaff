"""The commands that hints print, for each way in which the program can have been called."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from stores.program import command, script

ROOT = Path(__file__).parents[2]
PYTHON = sys.executable
PINGLM = f"""#!{PYTHON}
import sys
sys.path.insert(0, {str(ROOT)!r})
from cli import main
main()
"""


@pytest.mark.parametrize("called", ["python cli.py", "venv/bin/pinglm", "pinglm"])
def test_the_printed_next_step_works_where_it_is_printed(called: str, tmp_path: Path) -> None:
    """Pasted into the same shell, in the same folder."""
    folder = tmp_path / "a folder"
    script = folder / "venv/bin/pinglm"
    script.parent.mkdir(parents=True)
    script.write_text(PINGLM)
    script.chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if called == "pinglm":
        environment["PATH"] = f"{script.parent}:{os.environ['PATH']}"
    if called == "python cli.py":
        called = (
            f"{shlex.quote(os.path.relpath(PYTHON, folder))} {shlex.quote(str(ROOT / 'cli.py'))}"
        )

    def shell(line: str) -> str:
        done = subprocess.run(
            line, shell=True, cwd=folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, (line, done.stderr)
        return done.stdout

    printed = shell(f"{called} prepare --out 'my data' --rows 2000 --workers 1")
    hints = dict(line.split(": ", 1) for line in printed.splitlines()[-2:])
    look, learn = hints["Look inside"], hints["Train on it"]
    assert look == f"{called} inspect-store 'my data/store.zarr'"
    assert "1,800 train" in shell(look) or "train/full" in shell(look)
    assert learn == f"{called} train --store 'my data/store.zarr' --out 'runs/my data'"
    if find_spec("jax"):  # other Pythons are tested without what trains
        assert "tiny" in shell(f"{learn} --preset tiny --dry-run")


def test_where_nobody_called_the_program_hints_have_its_name() -> None:
    assert command("evaluate", "--store", Path("a b")) == "pinglm evaluate --store 'a b'"


def test_a_program_beside_python_is_named_so_that_it_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv/bin/python"))
    monkeypatch.setenv("PATH", "/nowhere")
    assert script("tensorboard") == "tensorboard"  # not installed
    tool = tmp_path / "venv/bin/tensorboard"
    tool.parent.mkdir(parents=True)
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    assert script("tensorboard") == "venv/bin/tensorboard"
    monkeypatch.setenv("PATH", str(tool.parent))
    assert script("tensorboard") == "tensorboard"
