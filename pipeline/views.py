"""What the offline commands show in a terminal: progress bars while they run, tables at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from pipeline.units import Progress as ProgressCallback


@contextmanager
def progress_bars(silent: bool = False) -> Iterator[ProgressCallback]:
    """A callback for `run_units` that draws one bar a stage on standard error.

    Draws nothing when `silent`, or when standard error is no terminal.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=silent or not console.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage)
            bars.update(tasks[stage], completed=done, total=total)

        yield show


def ledger_table(title: str, totals: Mapping[str, Any], meanings: Mapping[str, str]) -> Group:
    """A ledger as a table: rows, what was taken, then the rejects by reason, most frequent first.

    `totals` has `rows`, `rejected` {reason: rows}, and what else rows came to, such as `accepted`;
    `meanings` explains the reasons.
    """
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("ledger")
    table.add_column("rows", justify="right")
    table.add_column("share", justify="right")
    table.add_column("", style="dim")
    rows = totals["rows"]

    def add(name: str, count: int, meaning: str = "") -> None:
        table.add_row(name, f"{count:,}", f"{count / max(1, rows):.2%}", meaning)

    add("rows in", rows)
    for name, count in totals.items():
        if name not in ("rows", "rejected"):
            add(name, count)
    add("rejected", sum(totals["rejected"].values()))
    for reason, count in sorted(totals["rejected"].items(), key=lambda item: -item[1]):
        add(f"  {reason}", count, meanings.get(reason, ""))
    return Group(title, table)
