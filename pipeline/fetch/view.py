"""What `fetch` shows in a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from pipeline.fetch.dumps import Fetched, Progress
from stores.program import command
from stores.terminal import Terminal
from stores.views import size_text


@contextmanager
def fetch_bar(silent: bool = False) -> Iterator[Progress]:
    """A callback for `fetch` that draws a bar of its slices, with the bytes so far, on standard error.

    Draws nothing when `silent`, or when standard error is not a terminal.
    """
    console = Terminal(stderr=True)
    columns = (
        TextColumn("fetch", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("files  {task.fields[size]}", markup=False),
        TimeElapsedColumn(),
    )
    with Bar(*columns, console=console, disable=silent or not console.is_terminal) as bars:
        task = bars.add_task("fetch", total=None, size="")

        def show(done: int, total: int, size: int) -> None:
            bars.update(task, completed=done, total=total, size=size_text(size))

        yield show


def print_fetched(fetched: Fetched) -> None:
    """The end of `fetch`."""
    folder = fetched.folder
    text = f"{folder}: {fetched.files:,} new files, {fetched.results:,} results, {size_text(fetched.bytes)}"
    if fetched.files_before:
        text += f"; {fetched.files_before:,} files were here before"
    text += f"\nNext: {command('prepare', '--input', folder, '--out', 'data')}"
    Terminal().print(text, soft_wrap=True, highlight=False)
