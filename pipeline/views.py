"""What the offline commands show in a terminal: progress bars while they run, tables at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from pipeline.records import (
    IngestRecord,
    Overlap,
    Report,
    SplitRecord,
    TokenizeRecord,
)
from pipeline.split import runs
from pipeline.units import Progress as ProgressCallback
from stores.layout import SPLITS, VALIDATION, WITH_VALIDATION
from stores.manifest import ArrayTotals, LedgerTotals
from stores.measurements import atlas_result
from stores.overlap import new_sources_warning
from stores.program import command
from stores.terminal import Terminal
from stores.vocabulary import CONTEXT

MEANINGS = {**atlas_result.REASONS, **runs.MEANINGS}
"""What each reason for a rejection means."""


@contextmanager
def progress_bars(silent: bool = False) -> Iterator[ProgressCallback]:
    """A callback for `run_units` that draws one bar per stage on standard error.

    Draws nothing when `silent`, or when standard error is not a terminal.
    """
    console = Terminal(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=silent or not console.is_terminal) as bars:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage)
            bars.update(tasks[stage], completed=done, total=total)

        yield show


def ledger_table(
    title: str,
    rows: int,
    taken: Mapping[str, int],
    rejected: Mapping[str, int],
    meanings: Mapping[str, str] = MEANINGS,
) -> Group:
    """A ledger as a table: `rows` in, what was `taken`, then the rejects by reason, most frequent first.

    `meanings` explains the reasons.
    """
    table = _table("ledger", "rows", "share")
    table.add_column("", style="dim")

    def add(name: str, count: int, meaning: str = "") -> None:
        table.add_row(name, f"{count:,}", f"{count / max(1, rows):.2%}", meaning)

    add("rows in", rows)
    for name, count in taken.items():
        add(name, count)
    add("rejected", sum(rejected.values()))
    for reason, count in sorted(rejected.items(), key=lambda item: -item[1]):
        add(f"  {reason}", count, meanings.get(reason, ""))
    return Group(title, table)


def print_report(report: Report, out: Path) -> None:
    """The end of `prepare`: ledger, overlap, store."""
    console = Terminal()
    console.print(_split_ledger(len(report.files), report.totals))
    _print_overlap(console, report.overlap)
    console.print(store_table(report.store.arrays))
    total = sum(report.seconds.values())
    stages = ", ".join(f"{stage} {value:.1f} s" for stage, value in report.seconds.items())
    rate = report.totals.rows / max(total, 1e-9)
    console.print(f"{total:.1f} s ({stages}), {rate:,.0f} rows/s", highlight=False)
    warn_of_split(report.totals, report.overlap, report.configuration["split"], console)
    _print_store_path(console, report.store.digest, out)


def print_ingest(record: IngestRecord, out: Path) -> None:
    """The end of `ingest`."""
    title = f"{len(record.files)} files to {out}/measurements"
    totals = record.totals
    taken = {"accepted": totals.accepted}
    Terminal().print(ledger_table(title, totals.rows, taken, totals.rejected, atlas_result.REASONS))


def print_split(record: SplitRecord, out: Path) -> None:
    """The end of `split`."""
    console = Terminal()
    console.print(_split_ledger(len(record.files), record.totals))
    _print_overlap(console, record.overlap)
    warn_of_split(record.totals, record.overlap, record.options, console)
    shards = ", ".join(f"{len(files)} {split}" for split, files in record.shards.items())
    console.print(f"{out}/splits: {shards} shards", soft_wrap=True, highlight=False)


def print_store(record: TokenizeRecord, out: Path) -> None:
    """The end of `tokenize`."""
    console = Terminal()
    console.print(store_table(record.arrays))
    _print_store_path(console, record.digest, out)


def overlap_table(overlap: Overlap, split: str = "test") -> Table:
    """Distinct sources, destinations and pairs in train, in test (or another split), and in both; and the time
    ranges."""
    table = _table("distinct", "train", split, "both", f"both ÷ {split}")
    for kind, counts in overlap.kinds.items():
        held_out, both = counts.held_out(split)
        share = both / held_out if held_out else 0.0
        numbers = (f"{count:,}" for count in (counts.train, held_out, both))
        table.add_row(kind, *numbers, f"{share:.1%}")
    for row, end in (("from", 0), ("to", 1)):
        times = (overlap.time.train, getattr(overlap.time, split))
        table.add_row(row, *(t[end][:16].replace("T", " ") if t else "-" for t in times), "", "")
    return table


def _print_overlap(console: Terminal, overlap: Overlap) -> None:
    if overlap.sources.validation:
        console.print(overlap_table(overlap, VALIDATION))
    console.print(overlap_table(overlap))


def warn_of_split(
    totals: LedgerTotals,
    overlap: Overlap,
    options: Mapping[str, Any],
    console: Terminal | None = None,
) -> None:
    """Say what of a split should not be overlooked; `options` are those of the split. Without a console,
    it is said on standard error, beside JSON."""
    console = console or Terminal(stderr=True)
    held_out = {"test": totals.test}
    if options.get("validation") is not None:
        held_out[VALIDATION] = totals.validation
    for split, rows in held_out.items():
        if not rows:
            console.print(
                f"The {split} split is empty: too few seconds or keys to divide.", style="yellow"
            )
    if warning := new_sources_warning(overlap.kinds, options["by"]):
        console.print(
            f"WARNING: {warning}.",
            style="bold yellow",
            highlight=False,
            soft_wrap=not console.is_terminal,  # one line in a log
        )


def store_table(arrays: Mapping[str, ArrayTotals]) -> Table:
    """Windows, measurements and fill of each array."""
    table = _table("array", "windows", "measurements", "tokens", "per meas.", "fill")
    for name, array in arrays.items():
        table.add_row(
            name,
            f"{array.windows:,}",
            f"{array.measurements:,}",
            f"{array.tokens:,}",
            f"{array.tokens / max(1, array.measurements):.2f}",
            f"{array.tokens / max(1, array.windows * CONTEXT):.2%}",
        )
    return table


def _split_ledger(files: int, totals: LedgerTotals) -> Group:
    taken = totals.taken([s for s in WITH_VALIDATION if s in SPLITS or totals.validation])
    return ledger_table(f"Rows of {files:,} files", totals.rows, taken, totals.rejected)


def _table(first: str, *numbers: str) -> Table:
    """An empty table: a column of names, then columns of numbers."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column(first)
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def _print_store_path(console: Terminal, digest: str, out: Path) -> None:
    store = out / "store.zarr"
    run = Path("runs") / out.resolve().name
    text = (
        f"{store}, digest {digest[:16]}…\n"
        f"Look inside: {command('inspect-store', store)}\n"
        f"Train on it: {command('train', '--store', store, '--out', run)}"
    )
    console.print(text, soft_wrap=True, highlight=False)
