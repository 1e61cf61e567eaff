"""The HTML report of `evaluate`: one file, no scripts, nothing loaded; for phones, desktops and dark mode.

What it says is in templates/*.html, which escape every text; here are its tables and plots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jinja2

from model.evaluate.records import Calibration, FailureScores, Report, RttErrors
from model.evaluate.report.model_page import model_sections
from model.evaluate.report.plots import FLOOR, context_plot, error_cdf_plot, pit_plot
from model.evaluate.report.tables import (
    Columns,
    Scores,
    Table,
    error_table,
    fine,
    number,
    percent,
    scores_table,
)
from model.evaluate.report.terminal import HEADINGS, by_source, groups_with_answers

CONTEXT_GROUPS = ("context_lacks_pair", "unseen_pairs", "unseen_sources_lack_pair")
FEW = 20  # rows: a column of fewer says little

_OTHER_ERRORS: Columns[RttErrors] = (
    ("MAE, ms", lambda errors: number(errors.mae_ms)),
    ("relative, p50", lambda errors: percent(errors.relative_error_p50)),
    ("relative, p75", lambda errors: percent(errors.relative_error_p75)),
    ("relative, p90", lambda errors: percent(errors.relative_error_p90)),
    ("relative, p95", lambda errors: percent(errors.relative_error_p95)),
)
_CALIBRATION: Columns[Calibration] = (
    ("CRPS, ms", lambda scores: number(scores.crps_ms)),
    ("in 50 % interval", lambda scores: percent(scores.coverage_50)),
    ("in 80 % interval", lambda scores: percent(scores.coverage_80)),
    ("in 95 % interval", lambda scores: percent(scores.coverage_95)),
)
_FAILURES: Columns[FailureScores] = (
    ("AUC", lambda scores: number(scores.auc)),
    ("Brier score", lambda scores: fine(scores.brier)),
)


@dataclass(frozen=True)
class Lead:
    """The group of the first column."""

    heading: str
    count: int

    @property
    def few(self) -> bool:
        """Whether it has too few rows to say much."""
        return self.count < FEW


def report_page(report: Report) -> str:
    """The page of what `make_report` returned. Takes a few seconds, for the plots."""
    groups = groups_with_answers(report)
    lead = groups[0]
    shown = list(dict.fromkeys((lead, *by_source(report))))
    return (
        _environment()
        .get_template("report.html")
        .render(
            report=report,
            has_floor=FLOOR in report.rtt,
            lead=Lead(HEADINGS[lead], next(iter(report.rtt.values()))[lead].count),
            errors=error_table(report, report.rtt, groups),
            error_plots=[
                error_cdf_plot(report, lead),
                context_plot(report, _context_group(report)),
            ],
            contexts=_contexts(report, groups),
            by_family=error_table(report, report.rtt_by_family, _columns(report.rtt_by_family)),
            by_range=error_table(report, report.rtt_by_range, _columns(report.rtt_by_range)),
            other_errors=[
                (HEADINGS[group], scores_table(report, _of_group(report.rtt, group), _OTHER_ERRORS))
                for group in shown
            ],
            calibration=[
                (
                    HEADINGS[group],
                    scores_table(report, _of_group(report.calibration, group), _CALIBRATION),
                )
                for group in shown
            ],
            calibration_plots=[pit_plot(report, group) for group in shown],
            failures=[
                (
                    HEADINGS[group],
                    scores_table(report, _of_group(report.failure, group), _FAILURES),
                )
                for group in by_source(report)
            ],
            models=model_sections(report) if report.models else None,
        )
    )


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("model.evaluate.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["thousands"] = lambda value: f"{value:,}"
    return environment


def _contexts(report: Report, groups: Sequence[str]) -> list[tuple[str, Table]]:
    """Heading and errors by size of context, for the groups that are about predicting."""
    counts = report.questions.groups
    shown = {counts[g]: g for g in reversed(CONTEXT_GROUPS) if g in groups}
    tables = []
    for group in reversed(shown.values()):  # of groups with the same rows, the first
        by_size = {
            name: {
                ("all that fit" if size == "as_many_as_fit" else size): by_group[group]
                for size, by_group in sizes.items()
            }
            for name, sizes in report.rtt_by_context.items()
        }
        sizes = sorted(_columns(by_size), key=lambda s: int(s) if s.isdigit() else 999)
        tables.append((HEADINGS[group], error_table(report, by_size, sizes)))
    return tables


def _context_group(report: Report) -> str:
    """What the curve over context sizes shows: new vantage points, if the test set has enough of them."""
    counts = next(iter(report.rtt_by_context.values()))["0"]
    new = counts["unseen_sources_lack_pair"].count
    return "unseen_sources_lack_pair" if new >= FEW else "context_lacks_pair"


def _columns(tables: Mapping[str, Mapping[str, object]]) -> list[str]:
    return list(next(iter(tables.values())))


def _of_group(tables: Mapping[str, Mapping[str, Scores]], group: str) -> dict[str, Scores]:
    """Each predictor's scores of one group."""
    return {name: table[group] for name, table in tables.items()}
