"""The import rule: pipeline and model meet in stores alone, and what each side may load."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    "stores": {"pipeline", "model", "polars", "pyarrow", "numba", "jax", "flax", "optax"},
    "stores/measurements": {"pipeline", "model", "polars", "jax", "flax", "optax"},
    "pipeline": {"model", "jax", "flax", "optax", "orbax"},
    "model": {"pipeline", "polars", "pyarrow", "numba"},
}


def imported(file: Path) -> set[str]:
    """Top-level names of everything a file imports, at any depth of it."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("side", FORBIDDEN)
def test_no_side_imports_what_it_must_not(side: str) -> None:
    files = sorted((ROOT / side).rglob("*.py"))
    if side == "stores":  # what reads files of pings has a rule of its own
        files = [file for file in files if "measurements" not in file.parts]
    assert files
    broken = {file.name: bad for file in files if (bad := imported(file) & FORBIDDEN[side])}
    assert not broken


@pytest.mark.parametrize(("room", "other"), [("training", "inference"), ("inference", "training")])
def test_training_and_inference_do_not_import_each_other(room: str, other: str) -> None:
    files = sorted((ROOT / "model" / room).glob("*.py"))
    assert files
    assert not [file.name for file in files if f"model.{other}" in file.read_text()]


def test_reading_a_store_loads_none_of_the_heavy_packages() -> None:
    """A trainer's machine needs neither Polars nor PyArrow nor Numba nor zarr to read."""
    heavy = {"polars", "pyarrow", "numba", "zarr", "jax", "pandas"}
    code = f"import sys, stores; print(sorted({heavy!r} & set(sys.modules)))"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


def test_no_file_of_the_project_is_over_350_lines() -> None:
    rooms = [*FORBIDDEN, "benchmarks", "tests"]
    files = [ROOT / "cli.py", *(file for room in rooms for file in (ROOT / room).rglob("*.py"))]
    assert not {f.name: n for f in files if (n := len(f.read_text().splitlines())) > 350}
