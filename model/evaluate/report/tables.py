"""Tables of the HTML report: a row for each predictor, the trained models in bold."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from model.evaluate.report.plots import FLOOR
from model.evaluate.report.terminal import HEADINGS, HUGE, model_of

Columns = Mapping[str, tuple[str, Callable[[Any], str]]]
"""Heading of each number, and how it is written, by its key."""


def error_table(report: dict[str, Any], tables: dict[str, Any], columns: Sequence[str]) -> str:
    """Median absolute errors, the best of each column marked, with the distance to the floor."""
    errors = {
        name: [table[column]["median_abs_error_ms"] for column in columns]
        for name, table in tables.items()
    }
    floor = errors.get(FLOOR)
    best = [
        min(
            (row[at] for name, row in errors.items() if name != FLOOR and row[at] is not None),
            default=None,
        )
        for at in range(len(columns))
    ]
    first = next(iter(tables.values()))
    counts = "".join(f"<td class=dim>{first[column]['count']:,}</td>" for column in columns)
    lines = [f"<tr><th class=dim>answered rows</th>{counts}</tr>"]
    for name, row in errors.items():
        cells = []
        for at, value in enumerate(row):
            gap = ""
            if floor and name != FLOOR and value is not None and floor[at] is not None:
                sign = "+" if value >= floor[at] else "−"
                gap = f"<small>{sign}{number(abs(value - floor[at]))}</small>"
            marked = " class=best" if value is not None and value == best[at] else ""
            cells.append(f"<td{marked}>{number(value)}{gap}</td>")
        lines.append(_row(report, name, cells))
    heads = "".join(
        f"<th>{text(HEADINGS.get(c, c.replace('_', ' ').replace('ipv', 'IPv')))}</th>"
        for c in columns
    )
    return _wide(f"<th></th>{heads}", lines)


def numbers_table(
    report: dict[str, Any],
    tables: dict[str, Any],
    columns: Columns,
) -> str:
    """A row for each predictor, a column for each of its numbers: heading and format by key."""
    lines = [
        _row(report, name, [f"<td>{show(table[key])}</td>" for key, (_, show) in columns.items()])
        for name, table in tables.items()
    ]
    heads = "".join(f"<th>{heading}</th>" for heading, _ in columns.values())
    return _wide(f"<th></th>{heads}", lines)


def grid(headings: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]]) -> str:
    """A plain table of texts."""
    heads = "".join(f"<th>{text(heading)}</th>" for heading in headings)
    lines = [
        f"<tr><th>{text(name)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
        for name, cells in rows
    ]
    return _wide(heads, lines)


def _row(report: dict[str, Any], name: str, cells: Sequence[str]) -> str:
    kind = " class=model" if model_of(report, name) else ""
    return f"<tr{kind}><th>{text(name.replace('_', ' '))}</th>{''.join(cells)}</tr>"


def _wide(heads: str, lines: Sequence[str]) -> str:
    """A table that scrolls by itself where the screen is narrow."""
    body = "\n".join(lines)
    return (
        f"<div class=wide><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def text(value: object) -> str:
    return html.escape(str(value))


def number(value: float | None) -> str:
    if value is None:
        return "–"
    return (
        f"{value:.2f}"
        if abs(value) < 100
        else f"{value:,.1f}"
        if abs(value) < HUGE
        else f"{value:.1e}"
    )


def fine(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def percent(value: float | None) -> str:
    if value is None:
        return "–"
    return (
        f"{value:.1%}"
        if value < 0.9995
        else f"{value:.0%}"
        if value < HUGE / 100
        else f"{value:.0e}"
    )
