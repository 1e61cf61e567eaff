"""The part of the HTML report that is about trained models alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from model.evaluate.report.plots import FLOOR, byte_plot, completion_plot, conditionals_plot
from model.evaluate.report.tables import Columns, fine, grid, number, numbers_table, percent, text

MODES = {"full": "With times", "none": "Without times"}


def model_sections(report: dict[str, Any]) -> str:
    """Everything below the tables that baselines share."""
    sections = (_time, _likelihoods, _bytes, _completions, _search)
    return "\n".join(section(report) for section in sections)


def _time(report: dict[str, Any]) -> str:
    rows = [
        (name, [fine(t["nats"]), number(t["median_abs_error_ms"])])
        for model, by_time in report["time"].items()
        for name, t in (
            (f"{model}, with time", by_time["with_time"]),
            (f"{model}, without", by_time["without_time"]),
        )
    ]
    count = next(iter(report["time"].values()))["with_time"]["count"]
    return f"""<h2>With and without time</h2><p>The same {count:,} questions, with all
times and with none, in question and context.</p>{grid(("", "nats of the result", "median error, ms"), rows)}"""


def _likelihoods(report: dict[str, Any]) -> str:
    parts = [
        "<h2>Likelihood by field order</h2><p>Nats of a field's content in windows of the test split, "
        "given all before it: the fewer, the better known. Which field comes next is a coin flip, and "
        "not counted. The plots show each field by what its measurement had before it.</p>"
    ]
    for name, table in report["likelihood"].items():
        fields = [*table["full"]["nats"]]
        rows = [
            (
                title.lower(),
                [fine(table[mode]["nats"].get(field)) for field in fields]
                + [fine(table[mode]["total"])],
            )
            for mode, title in MODES.items()
        ]
        orders = sorted(table["full"]["orders"].items(), key=lambda item: item[1]["nats"])
        spread = (
            f"<p>Whole measurements by field order: from {fine(orders[0][1]['nats'])} nats "
            f"(<i>{orders[0][0]}</i>) to {fine(orders[-1][1]['nats'])} (<i>{orders[-1][0]}</i>). A model of one "
            "joint distribution would have the same for all, up to chance.</p>"
            if orders
            else ""
        )
        plots = "".join(
            conditionals_plot(table[mode]["conditionals"], title) for mode, title in MODES.items()
        )
        parts += [
            f"<h3>{text(name)}</h3>",
            grid(("nats per measurement", *fields, "total"), rows),
            f"{spread}<div class=plots>{plots}</div>",
        ]
    return "\n".join(parts)


def _bytes(report: dict[str, Any]) -> str:
    parts = [
        "<h2>Bytes of addresses</h2><p><i>again</i>: the window already has that address in this field. "
        "Perplexity per byte is 256 where nothing is known, 1 where all is.</p>"
    ]
    for name, table in report["likelihood"].items():
        rows = [
            (
                f"{family.replace('ip', 'IP')} {field}, {kind}",
                [f"{t['count']:,}", fine(t["perplexity"]), percent(_mean(t["accuracy"]))],
            )
            for family, by_field in table["bytes"].items()
            for field, kinds in by_field.items()
            for kind, t in kinds.items()
        ]
        plots = "".join(byte_plot(table["bytes"], family) for family in table["bytes"])
        heading = ("", "addresses", "perplexity", "bytes right")
        parts += [
            f"<h3>{text(name)}</h3>",
            grid(heading, rows),
            f"<div class=plots>{plots}</div>",
        ]
    return "\n".join(parts)


def _completions(report: dict[str, Any]) -> str:
    tables = report["completions"]
    families = next(iter(tables.values()))
    parts = [
        "<h2>Completing destinations</h2><p>After the query's context, with the first bytes told. "
        "<i>most frequent</i>: the destinations of train that begin alike, by rows. In brackets: "
        "destinations that the context lacks.</p>"
    ]
    for family, lengths in families.items():
        count = next(iter(lengths.values()))["count"]
        rows = [
            (
                f"{name.replace('_', ' ')}, top {top}",
                [
                    f"{percent(t[f'top_{top}'])} ({percent(t['not_in_context'][f'top_{top}'])})"
                    for t in table[family].values()
                ],
            )
            for name, table in tables.items()
            for top in (1, 5, 10)
        ]
        heading = (f"{family.replace('ip', 'IP')}, {count} rows", *(f"{n} told" for n in lengths))
        parts.append(grid(heading, rows))
    plots = "".join(completion_plot(report, family) for family in families)
    return "\n".join([*parts, f"<div class=plots>{plots}</div>"])


def _search(report: dict[str, Any]) -> str:
    columns: Columns = {
        "searches": ("searches", str),
        "found": ("found", str),
        "truth_known": ("true RTT known", percent),
        "within_20_percent": ("within 20 %", percent),
        "distinct": ("different", percent),
        "distinct_prefixes": ("different /24, /48", percent),
        "in_train_prefix": ("in train's /24, /48", percent),
        "in_train": ("in train", percent),
        "in_context": ("in context", percent),
    }
    note = (
        "The truth knows every address; one that it does not know does not exist, and counts as a miss."
        if FLOOR in report["rtt"]
        else "True RTTs are known of measured pairs only; <i>within 20 %</i> is of these."
    )
    return f"""<h2>Finding destinations at an RTT</h2><p>The RTT wanted is that of a test row;
found destinations are near enough where their true RTT is within 20 % of it. {note}
<i>by chance</i>: destinations of train rows, whatever the RTT.</p>
{numbers_table(report, report["search"], columns)}"""


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
