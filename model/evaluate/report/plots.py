"""The plots of the report as inline SVG, which takes its text colour from the page: light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from model.evaluate.records import ByteTable, FieldNats, Report
from model.evaluate.report.terminal import HEADINGS, model_of

INK = "#010203"  # replaced by the page's own text colour
SIZE = (5.4, 4.2)  # inches: two beside each other on a desk, one on a phone
FLOOR = "best_possible"
MODEL_COLOURS = ("#2f8fd0", "#d1495b", "#8d6fd1", "#3aa6a0")
COLOURS = {
    FLOOR: INK,
    "nearest_vantage": "#3a9d5d",
    "dmfsgd": "#e09f3e",
    "vivaldi": "#b5652b",
    "pair_median": "#9a6f9e",
    "destination_median": "#8c8c8c",
    "most_frequent": "#8c8c8c",
    "by_chance": "#8c8c8c",
}
"""Of the predictors that are drawn; the others are only in the tables."""
FIELD_COLOURS = {"src": "#8d6fd1", "dst": "#2f8fd0", "result": "#3a9d5d", "time": "#e09f3e"}
_POWERS_MS = [0.01, 0.1, 1, 10, 100, 1_000, 10_000, 100_000]
_TICKS_MS = [unit * power for power in _POWERS_MS for unit in (1, 2, 5)]


def error_cdf_plot(report: Report, group: str) -> Markup:
    """Share of the rows whose error stays below each number of ms, by predictor."""

    def draw(axes: Any) -> None:
        errors = {name: table[group] for name, table in report.error_cdf.items()}
        for name, style in _lines(report, errors):
            axes.plot([max(e, 1e-3) for e in errors[name]], range(1, 100), **style)
        axes.set_xscale("log")
        _ticks_ms(axes.set_xticks, (0.02, 500))
        axes.set_xlim(0.02, 500)
        axes.set_ylim(0, 100)
        axes.set_xlabel("absolute error, ms")
        axes.set_ylabel("% of rows below it")
        _legend(axes, columns=3)

    return svg(draw, f"Errors: {HEADINGS[group]}")


def context_plot(report: Report, group: str) -> Markup:
    """Median error by number of context rows, by predictor."""

    def draw(axes: Any) -> None:
        tables = report.rtt_by_context
        sizes = [size for size in next(iter(tables.values())) if size.isdigit()]
        for name, style in _lines(report, tables):
            errors = [tables[name][size][group].median_abs_error_ms for size in sizes]
            known = [(at, error) for at, error in enumerate(errors) if error is not None]
            if known:
                axes.plot(*zip(*known, strict=True), marker="o", markersize=4, **style)
        axes.set_yscale("log")
        _ticks_ms(axes.set_yticks, axes.get_ylim())
        axes.set_xticks(range(len(sizes)), sizes)
        axes.set_xlabel("rows of context")
        axes.set_ylabel("median absolute error, ms")
        _legend(axes, columns=3)

    return svg(draw, f"By context: {HEADINGS[group]}")


def pit_plot(report: Report, group: str) -> Markup:
    """Histogram of where outcomes fell in the predicted distributions: flat if calibrated."""

    def draw(axes: Any) -> None:
        tables = {name: table[group].pit_histogram for name, table in report.calibration.items()}
        for name, style in _lines(report, {name: t for name, t in tables.items() if t}):
            bins = len(tables[name])
            edges = [at / bins for at in range(bins + 1)]
            axes.stairs([100 * share for share in tables[name]], edges, **style)
            axes.axhline(100 / bins, color=INK, linewidth=0.8, linestyle=":")
        axes.set_xlim(0, 1)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("predicted probability of an RTT below the true one")
        axes.set_ylabel("% of rows")
        _legend(axes, columns=3)

    return svg(draw, f"PIT histogram: {HEADINGS[group]}")


def byte_plot(table: ByteTable, family: str) -> Markup:
    """Accuracy of the likeliest byte by position, for addresses new in the window and repeated ones."""

    def draw(axes: Any) -> None:
        for field, name in (("src", "source"), ("dst", "destination")):
            for kind, line in (("new", "-"), ("again", ":")):
                found = table.get(family, {}).get(field, {}).get(kind)
                if found:
                    percent = [100 * share for share in found.accuracy]
                    label = f"{name}, {kind} ({found.count:,})"
                    style = {"color": FIELD_COLOURS[field], "linestyle": line, "marker": "o"}
                    places = range(1, len(percent) + 1)
                    axes.plot(places, percent, markersize=4, linewidth=2, label=label, **style)
                    axes.set_xticks(places)
        axes.set_ylim(0, 102)
        axes.set_xlabel("byte of the address")
        axes.set_ylabel("% right")
        _legend(axes, columns=2)

    return svg(draw, f"{_family(family)}: likeliest byte is right")


def completion_plot(report: Report, family: str) -> Markup:
    """Top-1 and top-10 of completions by known bytes."""

    def draw(axes: Any) -> None:
        tables = {name: table.get(family, {}) for name, table in report.completions.items()}
        lengths = list(next(iter(tables.values())))
        for name, style in _lines(report, tables):
            for top, line in ((1, "-"), (10, ":")):
                percent = [_percent(tables[name][length].top(top)) for length in lengths]
                shown = {**style, "linestyle": line, "label": f"{style['label']}, top {top}"}
                axes.plot(range(len(lengths)), percent, marker="o", markersize=4, **shown)
        axes.set_xticks(range(len(lengths)), lengths)
        axes.set_ylim(0, 102)
        axes.set_xlabel("known bytes of the destination")
        axes.set_ylabel("% of destinations found")
        _legend(axes, columns=2)

    return svg(draw, f"{_family(family)}: destination among the completions")


def conditionals_plot(conditionals: Mapping[str, Mapping[str, FieldNats]], title: str) -> Markup:
    """Nats of each field by which fields its measurement had before it."""
    bars = [
        (field, known, found.nats)
        for field, by_known in conditionals.items()
        for known, found in sorted(by_known.items(), key=lambda item: -item[1].nats)
    ]

    def draw(axes: Any) -> None:
        axes.barh(
            range(len(bars)),
            [nats for _, _, nats in bars],
            color=[FIELD_COLOURS[field] for field, _, _ in bars],
        )
        for at, (_, _, nats) in enumerate(bars):
            axes.text(nats, at, f" {nats:.2f}", va="center", fontsize=8)
        axes.set_yticks(
            range(len(bars)),
            [f"{field} | {known.replace(' ', ', ')}" for field, known, _ in bars],
            fontsize=8,
        )
        axes.invert_yaxis()
        axes.margins(x=0.12, y=0.01)
        axes.set_xlabel("nats, given the window before it")

    height = 0.9 + 0.22 * len(bars)
    return svg(draw, title, height)


# --- Figures ------------------------------------------------------------------------------------------


def svg(draw: Any, title: str, height: float = SIZE[1]) -> Markup:
    """One pair of axes as an `<svg>` element, of which a page can have many."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": title, "font.size": 10}
    for part in ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"):
        settings[part] = INK
    with rc_context(settings):
        figure = Figure(figsize=(SIZE[0], height), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes)
        axes.set_title(title, loc="left", weight="bold", fontsize=11)
        picture = io.StringIO()
        figure.savefig(picture, format="svg", metadata={"Date": None})
    text = picture.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r'<g id="[^"]*">', "<g>", text)  # ids are for one picture a page
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return Markup(text.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1))


def _percent(share: float | None) -> float:
    return float("nan") if share is None else 100 * share


def _lines(report: Report, tables: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The predictors to draw that `tables` has values for, and their line styles."""
    models: Sequence[str] = list(report.models)
    result = []
    for name, table in tables.items():
        model = model_of(report, name)
        if not table or (model is None and name not in COLOURS):
            continue
        if model is not None:
            colour = MODEL_COLOURS[models.index(model) % len(MODEL_COLOURS)]
            style = {"color": colour, "linewidth": 2.6, "zorder": 3}
            if name != model:
                style["linestyle"] = ":"
        else:
            style = {"color": COLOURS[name], "linewidth": 1.4}
        if name == FLOOR:
            style["linestyle"] = "--"
        result.append((name, {**style, "label": name.replace("_", " ")}))
    return result


def _ticks_ms(set_ticks: Any, limits: tuple[float, float]) -> None:
    """Plain numbers on a logarithmic axis of ms: 1, 10, 100; in between also 2 and 5 where it spans little."""
    wide = limits[1] > 100 * limits[0]
    shown = [ms for ms in (_POWERS_MS if wide else _TICKS_MS) if limits[0] <= ms <= limits[1]]
    set_ticks(shown, [f"{ms:g}" if ms < 1000 else f"{ms / 1000:g} s" for ms in shown])
    set_ticks([], [], minor=True)


def _legend(axes: Any, columns: int) -> None:
    """A legend below the axes, where it covers nothing."""
    if axes.get_legend_handles_labels()[0]:
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2)}
        axes.legend(frameon=False, fontsize=8.5, ncols=columns, **place)


def _family(name: str) -> str:
    return name.replace("ipv", "IPv")
