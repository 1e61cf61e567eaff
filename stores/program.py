"""How this program was called, for hints that can be pasted where they are printed."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

NAME = "pinglm"


def command(*arguments: str | os.PathLike[str]) -> str:
    """A command of this program as a line for the shell that it was started from, in the same folder: as in
    `.venv/bin/pinglm inspect-store data`, `pinglm …` or `python cli.py …`."""
    return shlex.join([*_program(), *map(str, arguments)])


def script(name: str) -> str:
    """Another program of the environment that this one runs in, as in `.venv/bin/tensorboard`; only its name where
    the shell finds it, or where it is not installed."""
    beside = Path(sys.executable).parent / name
    if shutil.which(name) or not beside.exists():
        return name
    return shlex.quote(os.path.relpath(beside))


def _program() -> list[str]:
    called = sys.argv[0]
    if Path(called).name == "cli.py":
        return [sys.orig_argv[0], called]
    if Path(called).name != NAME:
        return [NAME]  # used as a library: nobody called it
    found = shutil.which(NAME)
    return [NAME] if found and os.path.samefile(found, called) else [called]
