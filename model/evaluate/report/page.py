"""The HTML report of `evaluate`: one file, no scripts, nothing loaded; for phones, desktops and dark mode.

What it says is in templates/*.html, which escape every text; here are its tables and plots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jinja2

from model.evaluate.predictors.definitions import DEFINITIONS
from model.evaluate.questions import WITHOUT_TIME
from model.evaluate.records import Report
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
from model.evaluate.report.terminal import FEW, HEADINGS, by_source, groups_with_answers

CONTEXT_GROUPS = ("context_lacks_pair", "unseen_pairs", "unseen_sources_lack_pair")
_OTHER_ERRORS: Columns = (
    ("MAE, ms", "mae_ms", number),
    ("relative, p50", "relative_error_p50", percent),
    ("relative, p75", "relative_error_p75", percent),
    ("relative, p90", "relative_error_p90", percent),
    ("relative, p95", "relative_error_p95", percent),
)
_CALIBRATION: Columns = (
    ("CRPS, ms", "crps_ms", number),
    ("in 50 % interval", "coverage_50", percent),
    ("in 80 % interval", "coverage_80", percent),
    ("in 95 % interval", "coverage_95", percent),
)
_FAILURES: Columns = (
    ("AUC", "auc", number),
    ("Brier score", "brier", fine),
)


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
            few=FEW,
            all_few=next(iter(report.rtt.values()))[lead].count < FEW,
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
            predictors=[(name.replace("_", " "), text) for name, text in _definitions(report)],
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


def _definitions(report: Report) -> list[tuple[str, str]]:
    """What each predictor of the tables is."""
    found = {name: text for name, text in DEFINITIONS.items() if name in report.rtt}
    for model in report.models:
        found[model] = "The trained model, told the times of question and context."
        found[model + WITHOUT_TIME] = "The trained model, told no times."
    return list(found.items())
