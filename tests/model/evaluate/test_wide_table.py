"""Tables that are wider than the terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from model.evaluate.report.wide_table import WideTable

NAMES = ["predictor", "answered rows", "pretrained_without_time"]
HEADINGS = [
    "seen pairs",
    "unseen sources without pair in context *",
    "all",
    "MAE ms",
    "unseen sources",
]
TABLE = WideTable(
    "Errors",
    NAMES,
    [[heading, "1,234", f"{number}8.061 †"] for number, heading in enumerate(HEADINGS)],
    dim=1,
    caption="* few",
)


def printed(width: int) -> list[str]:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(TABLE)
    return console.export_text().splitlines()


@pytest.mark.parametrize(("width", "parts"), [(120, 1), (70, 2), (50, 3)])
def test_no_number_is_cut_off_and_names_are_repeated(width: int, parts: int) -> None:
    lines = printed(width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "…" not in text
    rows = [line for line in lines if NAMES[2] in line]
    assert len(rows) == parts
    cells = [cell.strip() for row in rows for cell in row.strip("│").split("│")[1:]]
    assert cells == [f"{number}8.061 †" for number in range(len(HEADINGS))]
    assert text.count("Errors") == text.count("* few") == 1
    assert (lines[0].strip(), lines[-1].strip()) == ("Errors", "* few")


def test_where_not_even_one_column_fits_each_stands_alone() -> None:
    assert sum(NAMES[2] in line or "pretrained" in line for line in printed(30)) == len(HEADINGS)
