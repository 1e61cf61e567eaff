"""The HTML report of `evaluate`: one file, no scripts, nothing from outside; for phone, desk and dark."""

from __future__ import annotations

from typing import Any

from model.evaluate.report.model_page import model_sections
from model.evaluate.report.plots import FLOOR, context_plot, error_cdf_plot, pit_plot
from model.evaluate.report.tables import (
    Columns,
    error_table,
    fine,
    number,
    numbers_table,
    percent,
    text,
)
from model.evaluate.report.terminal import HEADINGS

CONTEXT_GROUPS = ("context_lacks_pair", "unseen_pairs", "unseen_sources_lack_pair")
FEW = 20  # rows: below, a column says little

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --page: #fff; --dim: #667; --line: #dde; --best: #e3f1e6; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e6ea; --page: #15171a; --dim: #9aa; --line: #34383e; --best: #1f3a2a; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page);
  max-width: 1120px; margin: 0 auto; padding: 1em; }
h1 { margin: .4em 0 0; } h2 { margin: 2em 0 .2em; } h3 { margin: 1.4em 0 .2em; font-size: 1em; }
p { max-width: 75ch; margin: .4em 0 .8em; } .dim, small { color: var(--dim); }
code { overflow-wrap: anywhere; } .warn { border-left: 4px solid #d1495b; padding-left: .7em; }
.wide { overflow-x: auto; margin-bottom: 1em; }
table { border-collapse: separate; border-spacing: 0; font-variant-numeric: tabular-nums; }
th, td { padding: .25em .7em; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
thead th { white-space: normal; vertical-align: bottom; min-width: 4.2em; max-width: 8em; }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--page); padding-left: 0; }
th { font-weight: 500; } td.best { background: var(--best); } tr.model th { font-weight: 700; }
small { display: block; line-height: 1.1; font-size: .75em; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); gap: 1em;
  margin-top: 1.5em; }
svg { width: 100%; max-width: 580px; height: auto; } svg text { font-family: system-ui, sans-serif !important; }
"""


def report_page(report: dict[str, Any]) -> str:
    """The page for what `make_report` returned."""
    sections = [_heading(report), _errors(report), _contexts(report), _details(report)]
    sections += [_calibration(report), _failures(report)]
    if report["models"]:
        sections.append(model_sections(report))
    body = "\n".join(sections)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Evaluation {report["store"]["digest"][:12]}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>{_STYLE}</style></head><body>
{body}
</body></html>
"""


def _heading(report: dict[str, Any]) -> str:
    store, asked = report["store"], report["questions"]
    lines = [
        "<h1>Evaluation</h1>",
        f"<p>{text(store['path'])} <code class=dim>{store['digest'][:16]}…</code><br>",
        f"{store['train_rows']:,} train rows, {store['test_rows']:,} test rows; {asked['asked']:,} "
        f"of them asked (seed {report['seed']}), {asked['failed']:,} of these failed; "
        f"up to {asked['context_rows']} rows of context.</p>",
    ]
    for name, model in report["models"].items():
        step = f", step {model['step']:,}" if model.get("step") is not None else ""
        loss = model.get("test_loss")
        reached = f", test loss {loss:.2f} nats per measurement" if loss is not None else ""
        lines.append(
            f"<p><b>{text(name)}</b>: {model['parameters']:,} parameters, context of "
            f"{model['context']} tokens{step}{reached}</p>"
        )
        if not model["trained_on_this_store"]:
            lines.append(
                f"<p class=warn>{text(name)} was trained on another store: whether it has seen these "
                "test rows, or more than this train split, is not known here.</p>"
            )
    return "\n".join(lines)


def _errors(report: dict[str, Any]) -> str:
    groups = _groups(report)
    lead = groups[0]
    return f"""<h2>RTT: median absolute error</h2>
<p>In ms, of answered rows. What tells predicting from copying comes first: <i>pair not in context</i> has no
earlier row of the queried pair before it. Best in green{_floor_note(report)}.</p>{_few_note(report, lead)}
{error_table(report, report["rtt"], groups)}
<div class=plots>{error_cdf_plot(report, lead)}{context_plot(report, _context_group(report))}</div>
<p class=dim>Over the sizes of context rows differ, as a longer context holds more pairs.</p>"""


def _contexts(report: dict[str, Any]) -> str:
    parts = ["<h2>By rows of context</h2>"]
    of_questions = report["questions"]["groups"]
    shown = {of_questions[g]: g for g in reversed(CONTEXT_GROUPS) if g in _groups(report)}
    for group in reversed(shown.values()):  # of groups of the same rows, the first
        tables = {
            name: {
                ("all that fit" if size == "as_many_as_fit" else size): by_group[group]
                for size, by_group in sizes.items()
            }
            for name, sizes in report["rtt_by_context"].items()
        }
        sizes = sorted(next(iter(tables.values())), key=lambda s: int(s) if s.isdigit() else 999)
        parts += [f"<h3>{HEADINGS[group]}</h3>", error_table(report, tables, sizes)]
    return "\n".join(parts)


def _details(report: dict[str, Any]) -> str:
    parts = ["<h2>By family, by RTT, and other errors</h2>"]
    families, ranges = report["rtt_by_family"], report["rtt_by_range"]
    parts.append(error_table(report, families, list(next(iter(families.values())))))
    parts.append(error_table(report, ranges, list(next(iter(ranges.values())))))
    columns: Columns = {
        "mae_ms": ("MAE, ms", number),
        **{f"relative_error_p{p}": (f"relative, p{p}", percent) for p in (50, 75, 90, 95)},
    }
    for group in dict.fromkeys((_groups(report)[0], "all")):
        tables = {name: table[group] for name, table in report["rtt"].items()}
        parts += [f"<h3>{HEADINGS[group]}</h3>", numbers_table(report, tables, columns)]
    return "\n".join(parts)


def _calibration(report: dict[str, Any]) -> str:
    lead = _groups(report)[0]
    columns: Columns = {
        "crps_ms": ("CRPS, ms", number),
        **{f"coverage_{p}": (f"in {p} % interval", percent) for p in (50, 80, 95)},
    }
    parts = [
        "<h2>Calibration</h2>",
        "<p>Of predictors that give a distribution. CRPS: the lower, the better; an 80 % interval should "
        "hold 80 % of the outcomes; the histograms should be flat.</p>",
    ]
    for group in dict.fromkeys((lead, "all")):
        tables = {name: table[group] for name, table in report["calibration"].items()}
        parts += [f"<h3>{HEADINGS[group]}</h3>", numbers_table(report, tables, columns)]
    plots = "".join(pit_plot(report, group) for group in dict.fromkeys((lead, "all")))
    return "\n".join([*parts, f"<div class=plots>{plots}</div>"])


def _failures(report: dict[str, Any]) -> str:
    tables = {name: table["all"] for name, table in report["failure"].items()}
    columns: Columns = {"auc": ("AUC", number), "brier": ("Brier score", fine)}
    failed = report["questions"]["failed"]
    return f"""<h2>Failures</h2><p>{failed:,} of {report["questions"]["asked"]:,} rows got no answer.
AUC 1 is perfect, 0.5 is chance.</p>{numbers_table(report, tables, columns)}"""


def _groups(report: dict[str, Any]) -> list[str]:
    """Columns in the order of `HEADINGS` that have an answered row."""
    counts = next(iter(report["rtt"].values()))
    return [group for group in HEADINGS if counts[group]["count"]]


def _context_group(report: dict[str, Any]) -> str:
    """What the curve over context sizes shows: new vantage points, where the test set has enough."""
    counts = next(iter(report["rtt_by_context"].values()))["0"]
    new = counts["unseen_sources_lack_pair"]["count"]
    return "unseen_sources_lack_pair" if new >= FEW else "context_lacks_pair"


def _few_note(report: dict[str, Any], lead: str) -> str:
    count = next(iter(report["rtt"].values()))[lead]["count"]
    if count >= FEW:
        return ""
    return f"<p class=warn>Only {count} rows are in “{HEADINGS[lead]}”: a larger --limit asks more.</p>"


def _floor_note(report: dict[str, Any]) -> str:
    return "; below each, the distance to the best possible" if FLOOR in report["rtt"] else ""
