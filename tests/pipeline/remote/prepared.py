"""Ways to `prepare` from URLs, and what comes out."""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline.folder import open_folder
from pipeline.inputs import find_inputs
from pipeline.prepare import PrepareOptions, prepare
from pipeline.units import open_executor
from tests.pipeline.ingest.results import outputs

ROOT = Path(__file__).parents[3]
PIECE = 30_000


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def digest(inputs: list[str], out: Path, workers: int = 1, stop: str = "") -> str:
    """Digest of the store that `prepare` makes. Interrupted after two units of the step `stop`."""

    def interrupt(step: str, done: int, total: int) -> None:
        if step == stop and done == 2:
            raise KeyboardInterrupt

    with open_folder(out) as opened, open_executor(workers) as executor:
        files = find_inputs(inputs)
        return prepare(files, opened, PrepareOptions(), executor, interrupt).store.digest


def files_of(out: Path) -> dict[str, str]:
    """Digests of the user's files, but for the times in the report and the records of stages."""
    return {
        name: value
        for name, value in outputs(out).items()
        if name != "report.json" and not name.startswith(".pinglm")
    }


def command(inputs: list[str], out: Path, *more: object) -> list[str]:
    given = [part for url in inputs for part in ("--input", url)]
    return [
        sys.executable,
        str(ROOT / "cli.py"),
        "prepare",
        "--out",
        str(out),
        *given,
        *map(str, more),
    ]
