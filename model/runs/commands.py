"""The command that compares runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stores.commands import JsonOption, print_json

app = typer.Typer()


@app.command("runs")
def runs_command(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN…", help="Folders of runs, or a folder that holds some."),
    ],
    as_json: JsonOption = False,
) -> None:
    """Compare training runs: what differs in their configurations, steps, losses, errors in ms, and seconds.

    Example: `pinglm runs runs/a runs/b runs/sweep`
    """
    from model.runs.table import as_json as rows_as_json
    from model.runs.table import read_runs
    from model.runs.views import runs_view
    from stores.views import print_view

    rows = read_runs(runs)
    print_json(rows_as_json(rows)) if as_json else print_view(runs_view(rows))
