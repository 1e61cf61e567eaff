"""Tables and plots of the part of the HTML report that is about trained models only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from model.evaluate.records import CompletionShares, Likelihood, Report
from model.evaluate.report.plots import byte_plot, completion_plot, conditionals_plot
from model.evaluate.report.tables import (
    Cell,
    Columns,
    Table,
    fine,
    number,
    percent,
    plain_table,
    score_cell,
    scores_table,
    whole,
)

_SEARCH: Columns = (
    ("searches", "searches", whole),
    ("found", "found", whole),
    ("true RTT known", "truth_known", percent),
    ("within 20 %", "within_20_percent", percent),
    ("different", "distinct", percent),
    ("different /24, /48", "distinct_prefixes", percent),
    ("in a /24, /48 of training", "in_train_prefix", percent),
    ("in training", "in_train", percent),
    ("in context", "in_context", percent),
)


@dataclass(frozen=True)
class OrderCost:
    """Nats of whole measurements of one field order."""

    order: str
    nats: str


@dataclass(frozen=True)
class Section:
    """A table of one model, with plots."""

    name: str
    table: Table
    plots: Sequence[Markup]
    least: OrderCost | None = None
    """The cheapest field order."""
    most: OrderCost | None = None


@dataclass(frozen=True)
class ModelSections:
    """What templates/models.html shows."""

    time_questions: int
    time: Table
    likelihoods: Sequence[Section]
    bytes: Sequence[Section]
    completions: Sequence[Table]
    completion_plots: Sequence[Markup]
    search: Table


def model_sections(report: Report) -> ModelSections:
    """Everything below the tables that models share with baselines."""
    families = next(iter(report.completions.values()))
    return ModelSections(
        time_questions=next(iter(report.time.values())).with_time.count,
        time=_time(report),
        likelihoods=[_likelihood(name, table) for name, table in report.likelihood.items()],
        bytes=[_bytes(name, table) for name, table in report.likelihood.items()],
        completions=[_completions(report, family) for family in families],
        completion_plots=[completion_plot(report, family) for family in families],
        search=scores_table(report, report.search, _SEARCH),
    )


def _time(report: Report) -> Table:
    rows = [
        (
            name,
            [
                score_cell(scores, "nats", fine),
                score_cell(scores, "median_abs_error_ms", number),
            ],
        )
        for model, times in report.time.items()
        for name, scores in (
            (f"{model}, with timestamps", times.with_time),
            (f"{model}, without", times.without_time),
        )
    ]
    return plain_table(("", "nats of the result", "median error, ms"), rows)


def _likelihood(name: str, likelihood: Likelihood) -> Section:
    fields = list(likelihood.full.nats)
    modes = (("With timestamps", likelihood.full), ("Without timestamps", likelihood.none))
    rows = [
        (title.lower(), [*(fine(mode.nats.get(field)) for field in fields), fine(mode.total)])
        for title, mode in modes
    ]
    orders = sorted(likelihood.full.orders.items(), key=lambda item: item[1].nats)
    costs = [OrderCost(order, fine(found.nats)) for order, found in orders]
    return Section(
        name,
        plain_table(("nats per measurement", *fields, "total"), rows),
        [conditionals_plot(mode.conditionals, title) for title, mode in modes],
        least=costs[0] if costs else None,
        most=costs[-1] if costs else None,
    )


def _bytes(name: str, likelihood: Likelihood) -> Section:
    rows = [
        (
            f"{family.replace('ip', 'IP')} {field}, {kind}",
            [f"{scores.count:,}", number(scores.perplexity), percent(_mean(scores.accuracy))],
        )
        for family, by_field in likelihood.bytes.items()
        for field, kinds in by_field.items()
        for kind, scores in kinds.items()
    ]
    return Section(
        name,
        plain_table(("", "addresses", "perplexity", "bytes right"), rows),
        [byte_plot(likelihood.bytes, family) for family in likelihood.bytes],
    )


def _completions(report: Report, family: str) -> Table:
    def cells(name: str, top: int) -> list[Cell]:
        return [_top(shares, top) for shares in report.completions[name][family].values()]

    lengths = next(iter(report.completions.values()))[family]
    rows = [
        (f"{name.replace('_', ' ')}, top {top}", cells(name, top))
        for name in report.completions
        for top in (1, 5, 10)
    ]
    count = next(iter(lengths.values())).count
    known = (f"known bytes: {length}" for length in lengths)
    return plain_table((f"{family.replace('ip', 'IP')}, {count} rows", *known), rows)


def _top(shares: CompletionShares, top: int) -> Cell:
    """Share of all destinations, and in brackets of those that are not in the context."""
    of_all = score_cell(shares, f"top_{top}", percent)
    return replace(of_all, text=f"{of_all.text} ({percent(shares.not_in_context.top(top))})")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
