"""The figure of `inspect-store`, as a PNG or inside a single HTML file."""

from __future__ import annotations

import html
import io
from pathlib import Path
from typing import Any

from stores.errors import ConfigError
from stores.files import write_bytes
from stores.inspect import DELTA_WIDTHS, ArrayStatistics, StoreReport
from stores.layout import MODES
from stores.printable import printable
from stores.vocabulary import ROLE_NAMES

COLOURS = {"full": "#2a6f97", "none": "#e09f3e", "mixed": "#6a994e"}
_WIDTH_COLOURS = {
    "absolute": "#9e2a2b",
    "delta1": "#e09f3e",
    "delta4": "#f2d492",
    "none": "#d9d9d9",
}
Arrays = dict[str, ArrayStatistics]
"""Statistics of one split by mode."""

_TICKS_MS = {0.1: "0.1", 1: "1", 10: "10", 100: "100", 1000: "1 s", 10000: "10 s"}


def check_plot_path(path: Path) -> None:
    """Raise `ConfigError` unless `path` ends in .png or .html, so that the command fails before it works."""
    if path.suffix not in (".png", ".html"):
        raise ConfigError(f"{path}: expected a file name that ends in .png or .html")


def plot_report(report: StoreReport, path: Path) -> None:
    """Draw `inspect_store`'s report into `path`, a `.png` or a self-contained `.html` (inline SVG).

    Shows token types, fill, delta widths, field orders and RTTs, of the train split if the report has it.
    """
    check_plot_path(path)
    picture = io.BytesIO()
    figure = _figure(report)
    if path.suffix == ".png":
        figure.savefig(picture, format="png", dpi=130)
        write_bytes(path, picture.getvalue())
    else:
        figure.savefig(picture, format="svg")
        svg = picture.getvalue().decode()
        write_bytes(path, _page(report, svg[svg.index("<svg") :]).encode())


def _figure(report: StoreReport) -> Any:
    from matplotlib.figure import Figure

    split = "train" if "train" in report.splits else next(iter(report.splits))
    arrays = report.splits[split]
    modes = [mode for mode in MODES if mode in arrays and arrays[mode].windows]
    figure = Figure(figsize=(13, 11), layout="constrained", facecolor="white")
    figure.suptitle(f"Token store {report.digest[:12]}, {split}", fontsize=14, weight="bold")
    grid = figure.add_gridspec(3, 2)
    panels = (
        (grid[0, 0], _plot_token_types),
        (grid[0, 1], _plot_fill),
        (grid[1, 0], _plot_delta_widths),
        (grid[1, 1], _plot_rtt),
        (grid[2, :], _plot_field_orders),
    )
    for place, plot in panels:
        axes = figure.add_subplot(place)
        axes.spines[["top", "right"]].set_visible(False)
        plot(axes, {mode: arrays[mode] for mode in modes})
    return figure


def _plot_token_types(axes: Any, arrays: Arrays) -> None:
    names = [
        name for name in ROLE_NAMES if any(counts.token_types[name] for counts in arrays.values())
    ]
    height = 0.8 / max(1, len(arrays))
    for number, (mode, counts) in enumerate(arrays.items()):
        shares = [100 * counts.token_types[name] / counts.tokens for name in names]
        places = [at + (number - (len(arrays) - 1) / 2) * height for at in range(len(names))]
        axes.barh(places, shares, height, color=COLOURS[mode], label=mode)
    axes.set_yticks(range(len(names)), [name.lower() for name in names])
    axes.invert_yaxis()
    axes.set_xlabel("% of tokens (the rest are bytes)")
    axes.set_title("Token types", loc="left", weight="bold")
    axes.legend(frameon=False, loc="center right")


def _plot_fill(axes: Any, arrays: Arrays) -> None:
    """From 90 % up: a window ends where the next measurement, of at most 47 tokens, did not fit."""
    for mode, counts in arrays.items():
        histogram = counts.fill_histogram
        shares = [100 * windows / counts.windows for windows in histogram.windows]
        edges = [100 * edge for edge in histogram.edges]
        label = f"{mode}: {100 * (counts.fill or 0):.2f} % in all"
        axes.stairs(shares[-10:], edges[-11:], color=COLOURS[mode], linewidth=2, label=label)
    axes.set_xlim(90, 100)
    axes.set_xlabel("% of a window's 1024 tokens in use, from 90 % up")
    axes.set_ylabel("% of windows")
    axes.set_title("Fill of windows", loc="left", weight="bold")
    axes.legend(frameon=False, loc="upper left")


def _plot_delta_widths(axes: Any, arrays: Arrays) -> None:
    for at, counts in enumerate(arrays.values()):
        left = 0.0
        for name in DELTA_WIDTHS:
            share = 100 * counts.delta_widths[name] / counts.measurements
            axes.barh(
                at, share, 0.6, left, color=_WIDTH_COLOURS[name], label=name if at == 0 else ""
            )
            if share >= 6:
                axes.text(left + share / 2, at, f"{share:.1f} %", ha="center", va="center")
            left += share
    axes.set_yticks(range(len(arrays)), list(arrays))
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of measurements")
    axes.set_title("Time fields", loc="left", weight="bold", pad=26)
    axes.legend(frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(0, 1), borderpad=0)


def _plot_rtt(axes: Any, arrays: Arrays) -> None:
    """All modes hold the same measurements, so one is enough."""
    for counts in list(arrays.values())[:1]:
        rtt = counts.rtt
        shares = [100 * count / counts.measurements for count in rtt.counts[1:-1]]
        axes.stairs(shares, rtt.edges_ms, fill=True, color="#8ecae6")
        for height, name in ((1.0, "p10"), (0.88, "p50"), (0.76, "p90")):  # so that none overlap
            if name in rtt.percentiles_ms:
                value = rtt.percentiles_ms[name]
                axes.axvline(value, color="#333333", linewidth=1, linestyle=":")
                axes.annotate(
                    f"{name}\n{value:.3g} ms",
                    (value, height),
                    xycoords=("data", "axes fraction"),
                    xytext=(4, -4),
                    textcoords="offset points",
                    va="top",
                    fontsize=9,
                )
        axes.set_ylim(0, 1.25 * max(shares))
        failed = 100 * rtt.failed / counts.measurements
        axes.set_title(f"RTT ({failed:.1f} % failed)", loc="left", weight="bold")
    axes.set_xscale("log")
    axes.set_xticks(list(_TICKS_MS), list(_TICKS_MS.values()))
    axes.set_xlabel("ms, ten bins a decade")
    axes.set_ylabel("% of measurements")


def _plot_field_orders(axes: Any, arrays: Arrays) -> None:
    """How often each order occurs, relative to an even share among those with as many fields."""
    orders = {name for counts in arrays.values() for name in counts.field_orders}
    names = sorted(orders, key=lambda name: (-len(name.split()), name))
    width = 0.8 / max(1, len(arrays))
    for number, (mode, counts) in enumerate(arrays.items()):
        shares = []
        for name in names:
            fields = len(name.split())
            same = [n for key, n in counts.field_orders.items() if len(key.split()) == fields]
            even = sum(same) / (24 if fields == 4 else 6)
            shares.append(100 * counts.field_orders.get(name, 0) / (even or 1))
        places = [at + (number - (len(arrays) - 1) / 2) * width for at in range(len(names))]
        axes.bar(places, shares, width, color=COLOURS[mode], label=mode)
    axes.axhline(100, color="#333333", linewidth=1)
    labels = ["".join(field[0] for field in name.split()) for name in names]
    axes.set_xticks(range(len(names)), labels, rotation=90, family="monospace")
    axes.set_xlim(-0.7, len(names) - 0.3)
    axes.set_ylabel("% of an even share")
    axes.set_xlabel("order of source, destination, result, time")
    axes.set_title("Field orders", loc="left", weight="bold")


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; }
code { color: #666; overflow-wrap: anywhere; }
table { border-collapse: collapse; margin: 1.5em 0; }
th, td { padding: .25em 1em; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
svg { width: 100%; height: auto; }
"""


def _page(report: StoreReport, svg: str) -> str:
    rows = "".join(
        f"<tr><td>{split}/{mode}</td><td>{counts.windows:,}</td>"
        f"<td>{counts.measurements:,}</td><td>{counts.tokens:,}</td>"
        f"<td>{100 * (counts.fill or 0):.2f} %</td>"
        f"<td>{counts.tokens_per_measurement or 0:.2f}</td></tr>"
        for split, modes in report.splits.items()
        for mode, counts in modes.items()
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Token store {report.digest[:12]}</title>
<style>{_STYLE}</style></head><body>
<h1>Token store</h1>
<p>{html.escape(printable(report.path))}<br><code>{report.digest}</code><br>
{report.ledger.equation}</p>
<table><tr><th>array</th><th>windows</th><th>measurements</th><th>tokens</th><th>fill</th>
<th>tokens per measurement</th></tr>{rows}</table>
{svg}
</body></html>
"""
