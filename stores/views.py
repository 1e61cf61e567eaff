"""Terminal views of a store: `inspect-store` in 80 columns, `verify-store` and `decode` in 100."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Group, RenderableType
from rich.progress import (
    BarColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from stores.decode import DecodedMeasurement, DecodedWindow
from stores.inspect import ArrayStatistics, StoreReport
from stores.layout import VALIDATION
from stores.printable import printable
from stores.progress import Progress
from stores.terminal import Terminal
from stores.verify import VerifyReport
from stores.vocabulary import BYTE0, CONTEXT

Arrays = dict[tuple[str, str], ArrayStatistics]
"""Statistics by (split, mode)."""

COLOURS = {
    "start": "bold white",
    "source": "cyan",
    "destination": "blue",
    "result": "green",
    "failed": "red",
    "time": "yellow",
}
_KINDS = (
    ("start", "▪"),
    ("source", "s4"),
    ("source", "s6"),
    ("destination", "d4"),
    ("destination", "d6"),
    ("time", "T="),
    ("time", "+1"),
    ("time", "+4"),
    ("result", "ms"),
    ("result", "tp"),
    ("failed", "XX"),
)
_LEGEND = "▪ start · s4 s6 source · d4 d6 destination · ms RTT · XX failed · T= absolute time · +1 +4 delta"
_TOKENS_PER_LINE = 30
_BARS = " ▁▂▃▄▅▆▇█"


# --- inspect-store ----------------------------------------------------------------------------------


def inspect_view(report: StoreReport) -> RenderableType:
    """`inspect_store`'s report as compact tables."""
    arrays = {
        (split, mode): counts
        for split, modes in report.splits.items()
        for mode, counts in modes.items()
    }
    return Group(
        _heading(report),
        _windows_table(arrays),
        _fields_table(arrays),
        _tokens_table(arrays),
        _orders_table(arrays),
        _rtt_table(arrays),
    )


def _heading(report: StoreReport) -> Text:
    ledger = report.ledger
    text = Text()
    text.append(printable(report.path), "bold")
    text.append(f"\ndigest {report.digest}\n", "dim")
    text.append(f"{size_text(report.bytes)} in {report.files} files")
    text.append(f" from {report.inputs} input file{'s' * (report.inputs != 1)}\n")
    text.append(ledger.equation)
    reasons = [f"{printable(reason)} {rows:,}" for reason, rows in ledger.rejected.items() if rows]
    if reasons:
        text.append(f" ({', '.join(reasons)})", "dim")
    if (sources := report.overlap.get("sources")) is not None:
        text.append(f"\n{sources.train:,} sources in train")
        for split in (VALIDATION, "test"):
            count, known = sources.held_out(split)
            if count:
                text.append(f", {count:,} in {split} ({known:,} of them also in train)")
    if report.new_sources:
        text.append(f"\nWARNING: {printable(report.new_sources)}", "bold yellow")
    return text


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", header_style="dim")
    return table


def _windows_table(arrays: Arrays) -> Table:
    table = _table(
        "\nWindows",
        *("array", "windows", "rows", "tokens", "fill"),
        *("tok/row", "row/win", "src/win"),
    )
    for (split, mode), counts in arrays.items():
        table.add_row(
            f"{split}/{mode}",
            *(f"{count:,}" for count in (counts.windows, counts.measurements, counts.tokens)),
            percent(counts.fill, 2),
            *(
                "–" if ratio is None else f"{ratio:.2f}"
                for ratio in (
                    counts.tokens_per_measurement,
                    counts.measurements_per_window,
                    counts.sources_per_window,
                )
            ),
        )
    return table


def _fields_table(arrays: Arrays) -> Table:
    table = _table(
        "\nFields, share of measurements",
        *("array", "IPv4", "IPv6", "failed", "│", "absolute", "delta1", "delta4", "no time"),
    )
    for (split, mode), counts in arrays.items():
        of = counts.measurements
        families, widths = counts.address_families, counts.delta_widths
        table.add_row(
            f"{split}/{mode}",
            *(share(families[name], of) for name in ("ipv4", "ipv6")),
            share(counts.rtt.failed, of),
            "│",
            *(share(widths[name], of) for name in ("absolute", "delta1", "delta4", "none")),
        )
    return table


def _tokens_table(arrays: Arrays) -> Table:
    table = _table("\nToken types, share of tokens", "", *(f"{s}/\n{m}" for s, m in arrays))
    table.columns[0].no_wrap = True
    names = next(iter(arrays.values())).token_types
    for name in names:
        counts = [(array.token_types[name], array.tokens) for array in arrays.values()]
        if any(count for count, _ in counts):
            table.add_row(name, *(share(count, of) for count, of in counts))
    return table


def _orders_table(arrays: Arrays) -> Table:
    table = _table(
        "\nField orders, how often each", "array", "time", "orders", "rarest", "", "most", ""
    )
    for (split, mode), counts in arrays.items():
        for fields, label in ((4, "with"), (3, "without")):
            orders = {
                name: count
                for name, count in counts.field_orders.items()
                if len(name.split()) == fields
            }
            if not orders:
                continue
            total = sum(orders.values())
            least, most = min(orders, key=orders.__getitem__), max(orders, key=orders.__getitem__)
            table.add_row(
                f"{split}/{mode}",
                label,
                str(len(orders)),
                *(share(orders[least], total), Text(initials(least), "dim")),
                *(share(orders[most], total), Text(initials(most), "dim")),
            )
    return table


def _rtt_table(arrays: Arrays) -> Table:
    """Percentiles, and the histogram as a line of bars, five a decade and one at each end."""
    names = ("p10", "p25", "p50", "p75", "p90")
    scale = " 0.1  1    10   100  1s   10s"
    table = _table("\nRTT, ms", "array", *names, scale)
    table.columns[-1].justify = "left"
    table.columns[-1].no_wrap = True
    for (split, mode), counts in arrays.items():
        rtt = counts.rtt
        bins = rtt.counts
        bins = [bins[0], *(sum(bins[at : at + 2]) for at in range(1, len(bins) - 1, 2)), bins[-1]]
        top = max(bins) or 1
        bars = "".join(_BARS[-(-count * (len(_BARS) - 1) // top)] for count in bins)
        values = [rtt.percentiles_ms.get(name) for name in names]
        table.add_row(
            f"{split}/{mode}",
            *("–" if value is None else f"{value:.4g}" for value in values),
            Text(bars, "green"),
        )
    return table


# --- verify-store -----------------------------------------------------------------------------------


def verify_view(report: VerifyReport) -> RenderableType:
    """The verdict, and a line for each problem of a damaged store."""
    text = Text()
    text.append(printable(report.path), "bold")
    text.append(
        f": {report.files} files, {size_text(report.bytes)}, {report.windows:,} windows, "
        f"{report.measurements:,} measurements checked\n"
    )
    if report.sound:
        text.append("sound", "bold green")
        text.append(f": digest {report.digest}")
    else:
        text.append(f"damaged: {len(report.problems)} problem", "bold red")
        text.append("s" * (len(report.problems) != 1), "bold red")
        for problem in report.problems:
            text.append(f"\n  {printable(problem)}")
    return text


# --- decode -----------------------------------------------------------------------------------------


def decode_view(windows: list[DecodedWindow]) -> RenderableType:
    """Windows as coloured tokens, with a legend, and as tables of measurements."""
    parts: list[RenderableType] = []
    for window in windows:
        parts += [_window_heading(window), _tokens_text(window.tokens), ""]
        parts.append(_measurements_table(window.measurements))
    return Group(*parts)


def _window_heading(window: DecodedWindow) -> RenderableType:
    title = (
        f"{window.split}/{window.mode} window {window.index}: "
        f"{window.length} of {CONTEXT} tokens, {len(window.measurements)} measurements"
    )
    legend = Text("  ", "dim")
    for part in _LEGEND.split(" · "):
        words = part.split()
        kind = next(kind for kind, mark in _KINDS if mark == words[0])
        legend.append(part + "  ", COLOURS[kind])
    return Group(Rule(title, align="left", style="dim"), legend)


def _tokens_text(tokens: list[int]) -> Text:
    """Tokens as a hex dump: two characters each, the position at the left."""
    text = Text()
    for position, (kind, mark) in enumerate(_coloured(tokens)):
        if position % _TOKENS_PER_LINE == 0:
            text.append(f"{chr(10) if position else ''}{position:5d} ", "dim")
        text.append(f" {mark:>2}", COLOURS[kind])
    return text


def _coloured(tokens: list[int]) -> Iterator[tuple[str, str]]:
    """(kind, mark) of each token; a payload byte has the kind of its role."""
    kind = "start"
    for token in tokens:
        if token < BYTE0:
            kind, mark = _KINDS[token]
        else:
            mark = f"{token - BYTE0:02x}"
        yield kind, mark


def _measurements_table(measurements: list[DecodedMeasurement]) -> Table:
    """One line each, below a line for the source wherever that changes."""
    table = _table(
        "", "#", "order", "from source / to destination", "RTT ms", "time UTC", "delta s"
    )
    for column in table.columns[1:3]:
        column.justify = "left"
    source = None
    for number, measurement in enumerate(measurements):
        rtt, delta = measurement.rtt_ms, measurement.delta
        if measurement.src != source:
            source = measurement.src
            table.add_row("", "", Text(f"from {source}", COLOURS["source"]))
        table.add_row(
            str(number),
            Text(initials(measurement.order), "dim"),
            Text(f"  to {measurement.dst}", COLOURS["destination"]),
            Text("failed", COLOURS["failed"]) if rtt is None else Text(f"{rtt:.3f}", "green"),
            Text(measurement.time_utc or "", COLOURS["time"]),
            Text("" if delta is None else f"+{delta}", COLOURS["time"]),
        )
    return table


# --- Progress and numbers ---------------------------------------------------------------------------


def one_line(text: str) -> Text:
    """Text that no width of the terminal breaks, such as a command to paste."""
    return Text(text, no_wrap=True, overflow="ignore")


def print_view(view: RenderableType) -> None:
    """Print to standard output, at least 100 columns wide where that is a pipe or file without a width."""
    console = Terminal()
    if not console.is_terminal:
        console.width = max(console.width, 100)
    console.print(view, crop=False)


@contextmanager
def progress_bar(title: str, silent: bool = False) -> Iterator[Progress]:
    """A progress bar on standard error that disappears when done."""
    console = Terminal(stderr=True)
    title_column = TextColumn("{task.description}", markup=False)
    columns = (title_column, BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    off = silent or not console.is_terminal
    with Bar(*columns, console=console, transient=True, disable=off) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def initials(order: str) -> str:
    """First letters of a field order: sdrt for "src dst result time"."""
    return "".join(field[0] for field in order.split())


def percent(part: float | None, digits: int = 1) -> str:
    return "–" if part is None else f"{100 * part:.{digits}f} %"


def share(part: int, whole: int) -> str:
    """Percentage; zero is shown as a dash, so that it stands out from a small share."""
    return percent(part / whole) if part and whole else "–"


def size_text(size: float) -> str:
    """Bytes in powers of 1000, three digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
