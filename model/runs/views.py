"""The table that `runs` prints."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from model.runs.table import RunRow, differing

_DIGEST = 12  # characters of a store's digest that tell it from others
_HUGE = 10_000  # ms, as an untrained model may predict


def runs_view(rows: Sequence[RunRow]) -> RenderableType:
    """A row per run; a column that no run has a value for is left out."""
    names = differing(rows)
    groups = list(
        dict.fromkeys(
            group for row in rows for errors in row.errors_ms.values() for group in errors
        )
    )
    validated = any(row.validation_loss is not None for row in rows)
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("run", overflow="fold")
    if names:
        table.add_column("differs in", overflow="fold")
    losses = ["validation loss", "test loss"] if validated else ["test loss"]
    for column in ("steps", *losses, *(f"ms, {group.replace('_', ' ')}" for group in groups), "s"):
        table.add_column(column, justify="right")
    for row in rows:
        cells = [row.run]
        if names:
            cells.append("\n".join(f"{name} {_setting(row, name)}" for name in names))
        done = f"{row.steps:,}"
        cells.append(done if row.finished else f"{done} of {row.planned_steps:,}")
        if validated:
            cells.append(_loss(row.validation_loss))
        cells.append(_loss(row.test_loss))
        cells += [_errors(row, group) for group in groups]
        cells.append("-" if row.seconds is None else f"{row.seconds:,.0f}")
        table.add_row(*cells)
    notes = []
    if groups:
        notes.append("ms: median absolute error of the first look, without / with context")
    if "store" in names:
        notes.append("The stores differ, so the losses are over different rows.")
    return Group(table, *notes)


def _setting(row: RunRow, name: str) -> str:
    value = row.settings[name]
    if value is None:
        return "-"
    if name in ("store", "init_from"):
        return str(value)[:_DIGEST]
    return f"{value:g}" if isinstance(value, float) else str(value)


def _loss(loss: float | None) -> str:
    return "-" if loss is None else f"{loss:.4f}"


def _errors(row: RunRow, group: str) -> str:
    """Both errors of a group."""
    found = [row.errors_ms.get(name, {}).get(group) for name in ("without_context", "with_context")]
    if found == [None, None]:
        return "-"
    return " / ".join(map(_milliseconds, found))


def _milliseconds(error: float | None) -> str:
    if error is None:
        return "-"
    return f"{error:.2f}" if error < _HUGE else f"{error:.0e}"
