"""Tables of the HTML report as plain records: a row for each predictor, the trained models marked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from model.evaluate.records import ByGroup, Report
from model.evaluate.report.plots import FLOOR
from model.evaluate.report.terminal import HEADINGS, HUGE, model_of


@dataclass(frozen=True)
class Cell:
    """One number, as text."""

    text: str
    best: bool = False
    """Of its column."""
    gap: str = ""
    """Its distance to the best possible number."""


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    name: str
    cells: Sequence[Cell]
    model: bool = False
    """Whether it is of a trained model."""
    dim: bool = False


@dataclass(frozen=True)
class Table:
    """Plain text throughout; the template escapes it."""

    headings: Sequence[str]
    """Of all columns, that of the names included."""
    rows: Sequence[Row]


Scores = TypeVar("Scores")
Columns = Sequence[tuple[str, Callable[[Scores], str]]]
"""Heading of each column, and how its cell is made from a predictor's scores."""


def error_table(report: Report, tables: Mapping[str, ByGroup], columns: Sequence[str]) -> Table:
    """Median absolute errors, the best of each column marked, with the distance to the floor."""
    errors = {
        name: [table[column].median_abs_error_ms for column in columns]
        for name, table in tables.items()
    }
    floor = errors.get(FLOOR, [None] * len(columns))
    rivals = [row for name, row in errors.items() if name != FLOOR]
    best = [
        min((value for value in column if value is not None), default=None)
        for column in zip(*rivals, strict=True)
    ]
    first = next(iter(tables.values()))
    counts = [Cell(f"{first[column].count:,}") for column in columns]
    rows = [Row("answered rows", counts, dim=True)]
    for name, values in errors.items():
        cells = [
            Cell(
                number(value),
                best=value is not None and value == best[at],
                gap="" if name == FLOOR else _gap(value, floor[at]),
            )
            for at, value in enumerate(values)
        ]
        rows.append(_row(report, name, cells))
    return Table(["", *map(_heading, columns)], rows)


def scores_table(report: Report, tables: Mapping[str, Scores], columns: Columns[Scores]) -> Table:
    """A row for each predictor, a column for each of its scores."""
    rows = [
        _row(report, name, [Cell(show(scores)) for _, show in columns])
        for name, scores in tables.items()
    ]
    return Table(["", *(heading for heading, _ in columns)], rows)


def text_table(headings: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]]) -> Table:
    """A plain table of texts."""
    return Table(headings, [Row(name, [Cell(text) for text in texts]) for name, texts in rows])


def _row(report: Report, name: str, cells: Sequence[Cell]) -> Row:
    return Row(name.replace("_", " "), cells, model=model_of(report, name) is not None)


def _heading(column: str) -> str:
    return HEADINGS.get(column, column.replace("_", " ").replace("ipv", "IPv"))


def _gap(value: float | None, floor: float | None) -> str:
    if value is None or floor is None:
        return ""
    return f"{'+' if value >= floor else '−'}{number(abs(value - floor))}"


def number(value: float | None) -> str:
    if value is None:
        return "–"
    if abs(value) < 100:
        return f"{value:.2f}"
    return f"{value:,.1f}" if abs(value) < HUGE else f"{value:.1e}"


def fine(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def percent(value: float | None) -> str:
    if value is None:
        return "–"
    if value < 0.9995:
        return f"{value:.1%}"
    return f"{value:.0%}" if value < HUGE / 100 else f"{value:.0e}"
