"""The store that tests push and pull, and the commands that do it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CHUNK = "train/none/tokens/c/3/0"
FILES = 53  # chunk files of the store under test; 26 more are metadata, and one is the manifest
ALL = FILES + 26 + 1


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "cli.py", *map(str, arguments)]
    variables = {**os.environ, "NO_COLOR": "1", "COLUMNS": "100", **environment}
    return subprocess.run(command, capture_output=True, text=True, env=variables, timeout=120)


def content_of(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}
