"""Tables of the HTML report as plain records: a row for each predictor, the trained models marked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from model.evaluate.records import ByGroup, Intervals, Report
from model.evaluate.report.plots import FLOOR
from model.evaluate.report.terminal import FELL_BACK, FEW, FEW_ROWS, HEADINGS, HUGE, model_of


@dataclass(frozen=True)
class Cell:
    """One number, as text."""

    text: str
    best: bool = False
    """Of its column."""
    interval: str = ""
    """Its 95 % interval."""


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
Show = Callable[[float | None], str]
Columns = Sequence[tuple[str, str, Show]]
"""Heading of each column, the field of the scores that it shows, and how."""


def error_table(report: Report, tables: Mapping[str, ByGroup], columns: Sequence[str]) -> Table:
    """Median absolute errors with their intervals, the best of each column marked."""
    first = next(iter(tables.values()))
    best = [
        min(
            (
                value
                for name, table in tables.items()
                if name != FLOOR and (value := table[column].median_abs_error_ms) is not None
            ),
            default=None,
        )
        for column in columns
    ]
    counts = [Cell(f"{first[column].count:,}") for column in columns]
    rows = [Row("answered rows", counts, dim=True)]
    for name, table in tables.items():
        cells = []
        for least, column in zip(best, columns, strict=True):
            errors = table[column]
            value = errors.median_abs_error_ms
            fell_back = FELL_BACK if errors.fell_back >= 0.5 else ""
            cells.append(
                Cell(
                    number(value) + fell_back,
                    best=name != FLOOR and value is not None and value == least,
                    interval=_interval(errors.intervals, "median_abs_error_ms", number),
                )
            )
        rows.append(_row(report, name, cells))
    few = [FEW_ROWS if first[column].count < FEW else "" for column in columns]
    headings = [_heading(column) + mark for column, mark in zip(columns, few, strict=True)]
    return Table(["", *headings], rows)


def scores_table(report: Report, tables: Mapping[str, Scores], columns: Columns) -> Table:
    """A row for each predictor, a column for each of its scores, with their intervals."""
    rows = [
        _row(report, name, [score_cell(scores, field, show) for _, field, show in columns])
        for name, scores in tables.items()
    ]
    return Table(["", *(heading for heading, _, _ in columns)], rows)


def score_cell(scores: Any, field: str, show: Show) -> Cell:
    """One number of a record of scores, with its interval."""
    return Cell(show(getattr(scores, field)), interval=_interval(scores.intervals, field, show))


def plain_table(headings: Sequence[str], rows: Iterable[tuple[str, Sequence[str | Cell]]]) -> Table:
    """A table of texts and ready cells."""
    return Table(
        headings,
        [
            Row(name, [cell if isinstance(cell, Cell) else Cell(cell) for cell in cells])
            for name, cells in rows
        ],
    )


def _row(report: Report, name: str, cells: Sequence[Cell]) -> Row:
    return Row(name.replace("_", " "), cells, model=model_of(report, name) is not None)


def _heading(column: str) -> str:
    return HEADINGS.get(column, column.replace("_", " ").replace("ipv", "IPv"))


def _interval(intervals: Intervals, field: str, show: Show) -> str:
    if field not in intervals:
        return ""
    low, high = map(show, intervals[field])
    return f"{low} to {high}"


def number(value: float | None) -> str:
    if value is None:
        return "–"
    if abs(value) < 100:
        return f"{value:.2f}"
    return f"{value:,.1f}" if abs(value) < HUGE else f"{value:.1e}"


def whole(value: float | None) -> str:
    return "–" if value is None else f"{value:,}"


def fine(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def percent(value: float | None) -> str:
    if value is None:
        return "–"
    if value < 0.9995:
        return f"{value:.1%}"
    return f"{value:.0%}" if value < HUGE / 100 else f"{value:.0e}"
