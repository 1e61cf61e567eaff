"""Commands that get a time and a memory limit, and the files to attack them with."""

from __future__ import annotations

import gzip
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.attack.limits import held

ROOT = Path(__file__).parent.parent.parent
CLI = [sys.executable, str(ROOT / "cli.py")]


@dataclass(frozen=True)
class Ended:
    """How a command ended. `most` is the memory, in MiB, that it and its workers held."""

    code: int
    out: str
    error: str
    most: int


def bounded(*arguments: object, seconds: float, mebibytes: int) -> Ended:
    """Run the command line; it fails the test if it takes longer or holds more."""
    command = [*CLI, *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    watched = psutil.Process(process.pid)
    deadline, most = time.monotonic() + seconds, 0
    try:
        while process.poll() is None:
            try:
                most = max(most, held(watched) >> 20)
            except psutil.Error:
                break
            assert most <= mebibytes, f"holds {most} MiB"
            assert time.monotonic() < deadline, f"still runs after {seconds} s"
            time.sleep(0.05)
        out, error = process.communicate(timeout=30)
    finally:
        for child in watched.children(recursive=True) if watched.is_running() else ():
            child.kill()
        process.kill()
    return Ended(process.returncode, out.decode(), error.decode(), most)


def refused(*arguments: object, seconds: float = 60, mebibytes: int = 1500) -> str:
    """The one line with which the command refuses its input; nothing in it could obey a terminal."""
    ended = bounded(*arguments, seconds=seconds, mebibytes=mebibytes)
    assert ended.code == 1, ended
    line = ended.error.strip().split("\n")[-1]
    assert line.startswith("error: "), ended.error
    assert ended.error.replace("\n", "").isprintable()
    assert "Traceback" not in ended.error
    return line


def bomb(path: Path, start: bytes, fill: bytes, mebibytes: int, end: bytes) -> Path:
    """A gzip file that says `start`, that many MiB of `fill`, and `end`."""
    block = fill * ((1 << 20) // len(fill))
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(start)
        for _ in range(mebibytes):
            file.write(block)
        file.write(end)
    return path
