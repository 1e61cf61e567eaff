"""A table in as many parts, one below the other, as the width of a terminal asks for."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table


@dataclass(frozen=True)
class WideTable:
    """A column of names, and columns of numbers. Those that do not fit beside the others without breaking a word
    or a number stand in a further table with the same names."""

    title: str
    names: Sequence[str]
    """The heading of the first column, then one name for each row."""
    columns: Sequence[Sequence[str]]
    """For each column its heading, which may be broken between words, then its cells."""
    dim: int = 0
    """So many of the first rows are dim."""
    caption: str | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rest = list(self.columns)
        title: str | None = self.title
        while rest or title:
            count = len(rest)
            while count > 1 and self._width(console, options, count, rest) > options.max_width:
                count -= 1
            table = self._table(rest[:count], title)
            rest, title = rest[count:], None
            if not rest:
                table.caption, table.caption_justify = self.caption, "left"
            yield table

    def _width(
        self, console: Console, options: ConsoleOptions, count: int, rest: Sequence[Sequence[str]]
    ) -> int:
        unlimited = options.update(width=10_000)
        return Measurement.get(console, unlimited, self._table(rest[:count], None)).maximum

    def _table(self, columns: Sequence[Sequence[str]], title: str | None) -> Table:
        table = Table(title=title, title_justify="left")
        heading, *names = self.names
        table.add_column(heading, no_wrap=True)
        for column in columns:
            unbroken = [
                *column[0].split(),
                *column[1:],
            ]  # words of the heading, and numbers with their marks
            widest = max(map(cell_len, unbroken))
            heading = "\n".join(textwrap.wrap(column[0], widest))
            table.add_column(heading, justify="right", no_wrap=True)
        for row, name in enumerate(names):
            cells = [column[row + 1] for column in columns]
            table.add_row(name, *cells, style="dim" if row < self.dim else None)
        return table
