"""The Python of docs/python.md runs as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that has what `make prepare` leaves, but small."""
    folder = tmp_path_factory.mktemp("clone")
    prepare = ("prepare", "--rows", "60000", "--workers", "1", "--out", str(folder / "data"))
    subprocess.run([sys.executable, str(ROOT / "cli.py"), *prepare], check=True)
    return folder


def run(program: str, folder: Path) -> str:
    """What a program prints that is run in a folder, with the project in reach."""
    path = folder / "program.py"
    path.write_text(f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{program}")
    done = subprocess.run(
        [sys.executable, str(path)], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_block_is_run_by_one_of_the_tests_below() -> None:
    assert len(BLOCKS) == 7


def test_a_model_is_asked_as_the_page_says(tmp_path: Path) -> None:
    said = run("\n".join(BLOCKS[:4]), tmp_path)
    assert said.startswith("PingModel(")
    assert "RttPrediction(median " in said
    assert "problem" in said
    assert said.count("%") > 8


def test_windows_are_read_as_the_page_says(clone: Path) -> None:

    pytest.importorskip("torch")
    said = run("\n".join(BLOCKS[4:6]) + "print(int(live.sum()), len(tokens))", clone)
    assert said.startswith("TokenStore(")
    live, rows = map(int, said.split()[-2:])
    assert rows == 32
    assert 0.5 * rows * 1024 < live <= rows * 1024


def test_measurements_are_read_as_the_page_says(clone: Path) -> None:
    run(BLOCKS[6], clone)
