"""What an offline command works with: its output folder, an executor and progress bars."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from pipeline.folder import OutputFolder
    from pipeline.inputs import InputFile
    from pipeline.units import Progress

IMPORT_STAGES = partial(import_module, "pipeline.prepare")
"""What new worker processes do first: import every stage, while this process prepares their work."""
_BYTES_PER_WORKER = 1 << 20  # of input, for the workers that start before their work is known


@contextmanager
def executor_for(
    workers: int | None,
    scheduler: str | None,
    size: int,
    shared: Path,
    files: Sequence[InputFile] = (),
) -> Iterator[Executor]:
    """An executor of at most as many workers as memory suffices for; `size` is that of the input in bytes.
    Those of a cluster must see the folder `shared` and the `files`."""
    from pipeline.units import WORKER_BYTES, affordable_workers, available_cores, open_executor
    from stores.urls import is_url

    wanted = workers or available_cores()
    count = wanted if scheduler else affordable_workers(wanted)
    if count < wanted:
        print(
            f"{count} of {wanted} workers: there is no memory for more ({WORKER_BYTES >> 20} MB each)",
            file=sys.stderr,
        )
    local = [(file.path, file.size) for file in files if not is_url(file.path)]
    at_once = 1 + size // _BYTES_PER_WORKER
    with open_executor(count, scheduler, IMPORT_STAGES, at_once, shared, local) as executor:
        yield executor


@contextmanager
def working(
    out: Path,
    workers: int | None,
    scheduler: str | None,
    as_json: bool,
    size: int,
    files: Sequence[InputFile] = (),
) -> Iterator[tuple[OutputFolder, Executor, Progress]]:
    """Output folder, executor and progress callback of an offline stage with `size` bytes of input in `files`."""
    from pipeline.folder import WORK, open_folder
    from pipeline.views import progress_bars

    with (
        open_folder(out) as folder,
        executor_for(workers, scheduler, size, folder.path / WORK, files) as executor,
        progress_bars(silent=as_json) as progress,
    ):
        yield folder, executor, progress
