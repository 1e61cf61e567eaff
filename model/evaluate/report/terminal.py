"""Tables and progress of `evaluate` in a terminal of 80 columns or more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Group, RenderableType
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from model.evaluate.first_look import evaluation_command
from model.evaluate.questions import WITHOUT_TIME
from model.evaluate.records import Report, RttErrors
from model.evaluate.report.wide_table import WideTable
from model.run_folder import FirstLook
from stores.terminal import Terminal
from stores.union import StorePaths
from stores.views import one_line

HEADINGS = {
    "context_lacks_pair": "pair not in context",
    "unseen_pairs": "unseen pairs",
    "unseen_sources_lack_pair": "unseen sources without pair in context",
    "seen_pairs": "seen pairs",
    "seen_sources": "seen sources",
    "unseen_sources": "unseen sources",
    "context_has_pair": "pair in context",
    "all": "all",
}
"""Columns of the tables; those that tell predicting from copying come first."""


FEW = 100  # rows: a column of fewer says little, and comes last
FEW_ROWS = " *"
FELL_BACK = " †"
"""Marks of a column of few rows, and of a number that at least half of it comes from a fall-back."""


def model_of(report: Report, predictor: str) -> str | None:
    """The trained model behind a predictor, with timestamps or without; `None` for a baseline."""
    name = predictor.removesuffix(WITHOUT_TIME)
    return next((model for model in (predictor, name) if model in report.models), None)


def groups_with_answers(report: Report) -> list[str]:
    """Groups that have an answered row in the order of `HEADINGS`, but those of few rows last."""
    counts = next(iter(report.rtt.values()))
    answered = [group for group in HEADINGS if group in counts and counts[group].count]
    return sorted(answered, key=lambda group: counts[group].count < FEW)


def by_source(report: Report) -> list[str]:
    """The groups to tell apart where test has both known and new sources; otherwise all rows together."""
    parts = ["seen_sources", "unseen_sources"]
    groups = groups_with_answers(report)
    return parts if set(parts) <= set(groups) else ["all"]


HUGE = 10_000  # an untrained model may predict as much


def evaluation_view(report: Report, out: Path) -> RenderableType:
    """What `evaluate` prints: errors of every predictor by group, then distributions and failures."""
    questions = report.questions
    return Group(
        Text(f"{report.store.path}, digest {report.store.digest[:16]}…"),
        Text(
            f"{questions.asked:,} of {questions.of:,} test rows asked, "
            f"{questions.failed:,} of them failed; up to {questions.context_rows} rows of context"
        ),
        *(
            Text(f"{name}: {model.simulated}")
            for name, model in report.models.items()
            if model.simulated
        ),
        *(
            Text(
                f"{name}: its checkpoint was chosen on test, by the loss on these rows, so its numbers are a "
                "little too good; `prepare --validation` sets rows aside for choosing"
            )
            for name, model in report.models.items()
            if model.flattered
        ),
        _errors_table(report, groups_with_answers(report)),
        *(_distributions_table(report, group) for group in by_source(report)),
        *([_models_table(report)] if report.models else []),
        Text(f"Everything else is in {out / 'report.html'} and {out / 'report.json'}"),
    )


def first_look_view(look: FirstLook, stores: StorePaths, run: Path) -> RenderableType:
    """What `train` prints last: what the errors of the model are in ms, beside those of others, and the command
    that says more about the run and its stores."""
    table = Table(title="Median absolute error (ms) on test rows", title_justify="left")
    table.add_column("predictor", no_wrap=True)
    for group, count in look.asked.items():
        table.add_column(f"{HEADINGS[group]} ({count})", justify="right")
    for name, errors in look.errors_ms.items():
        table.add_row(name, *(_number(errors[group]) for group in look.asked))
    return Group(
        table,
        "A pair is seen if the training data have it. To compare more rows and predictors:",
        one_line(evaluation_command(stores, run)),
    )


def _errors_table(report: Report, groups: list[str]) -> WideTable:
    answered = next(iter(report.rtt.values()))
    columns = [
        [
            HEADINGS[group] + (FEW_ROWS if answered[group].count < FEW else ""),
            f"{answered[group].count:,}",
            *(_error(errors[group]) for errors in report.rtt.values()),
        ]
        for group in groups
    ]
    few = any(answered[group].count < FEW for group in groups)
    fell_back = any(
        errors[group].fell_back >= 0.5 for errors in report.rtt.values() for group in groups
    )
    notes = [f"{FEW_ROWS.strip()} fewer than {FEW} rows"] * few
    notes += [f"{FELL_BACK.strip()} mostly answered by the predictor's fall-back"] * fell_back
    names = ["predictor", "answered rows", *report.rtt]
    caption = "   ".join(notes) or None
    return WideTable("Median absolute error (ms)", names, columns, dim=1, caption=caption)


def _error(errors: RttErrors) -> str:
    mark = FELL_BACK if errors.fell_back >= 0.5 else ""
    return _number(errors.median_abs_error_ms) + mark


def _distributions_table(report: Report, group: str) -> WideTable:
    of = "All rows" if group == "all" else f"Rows of {HEADINGS[group]}"
    columns = [
        [heading]
        for heading in (
            *("MAE ms", "relative p50", "relative p90", "CRPS ms"),
            *("in 50%", "in 80%", "in 95%", "AUC failure"),
        )
    ]
    for name, errors in report.rtt.items():
        error = errors[group]
        calibration = report.calibration[name][group] if name in report.calibration else None
        failure = report.failure[name][group] if name in report.failure else None
        cells = (
            _number(error.mae_ms),
            _percent(error.relative_error_p50),
            _percent(error.relative_error_p90),
            _number(calibration.crps_ms if calibration else None),
            _percent(calibration.coverage_50 if calibration else None),
            _percent(calibration.coverage_80 if calibration else None),
            _percent(calibration.coverage_95 if calibration else None),
            _number(failure.auc if failure else None),
        )
        for column, cell in zip(columns, cells, strict=True):
            column.append(cell)
    return WideTable(of, ["predictor", *report.rtt], columns)


def _models_table(report: Report) -> Table:
    table = Table(title="Trained models", title_justify="left")
    searches = max((found.searches for found in report.search.values()), default=0)
    table.add_column("", no_wrap=True)
    for heading in (
        "nats/row",
        "no timestamps",
        "3 of 4 bytes known: top 1",
        f"{searches} searches: within 20 %",
    ):
        table.add_column(heading, justify="right")
    for name in (*report.models, "most_frequent", "by_chance"):
        likelihood = report.likelihood.get(name)
        completed = report.completions.get(name, {}).get("ipv4", {}).get("3")
        search = report.search.get(name)
        table.add_row(
            name,
            _number(likelihood.full.total if likelihood else None),
            _number(likelihood.none.total if likelihood else None),
            _percent(completed.top_1 if completed else None),
            _percent(search.within_20_percent if search else None),
        )
    return table


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if abs(value) < HUGE else f"{value:.0e}"


def _percent(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1%}" if value < HUGE / 100 else f"{value:.0e}"


@contextmanager
def evaluation_progress(silent: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """A bar on standard error that shows what is going on and how long it takes; it vanishes at the end."""
    console = Terminal(stderr=True)
    bar = Progress(
        *(TextColumn("{task.description:28}", markup=False), BarColumn(), TaskProgressColumn()),
        *(TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()),
        console=console,
        transient=True,
        disable=silent or not console.is_terminal,
    )
    with bar:
        task = bar.add_task("", total=None)

        def show(what: str, done: int, total: int) -> None:
            if what != bar.tasks[0].description:
                bar.reset(task, description=what, total=total)  # its own clock
            bar.update(task, completed=done, total=total)

        yield show
