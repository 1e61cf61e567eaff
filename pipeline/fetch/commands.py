"""The command that downloads results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from stores.commands import JsonOption, print_json

app = typer.Typer()


@app.command("fetch")
def fetch_command(
    measurements: Annotated[
        str, typer.Option("--msm", metavar="IDS", help="Measurements, separated by commas.")
    ],
    start: Annotated[
        str, typer.Option("--start", metavar="TIME", help="First time: ISO 8601 or Unix seconds.")
    ],
    stop: Annotated[
        str, typer.Option("--stop", metavar="TIME", help="The time before which to stop.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the files.")],
    probes: Annotated[
        str | None,
        typer.Option(
            "--probes",
            metavar="IDS",
            help="Only these probes, or ranges of them: 1,2,10-20.",
            show_default="all",
        ),
    ] = None,
    every: Annotated[
        Literal["hour", "day"],
        typer.Option("--every", help="How much time a file, and a request, holds."),
    ] = "day",
    url: Annotated[
        str, typer.Option("--url", help="Server of the API.")
    ] = "https://atlas.ripe.net",
    as_json: JsonOption = False,
) -> None:
    """Download results from the RIPE Atlas API, a file for each measurement and day. Run the same command again to
    continue, or to add measurements and times.

    A key in the environment variable RIPE_ATLAS_API_KEY is sent along, and shown nowhere.

    Example: `pinglm fetch --msm 1001,1004 --start 2024-01-01 --stop 2024-01-03 --probes 1-999 --out dumps`
    """
    from pipeline.fetch.api import find_key
    from pipeline.fetch.dumps import fetch
    from pipeline.fetch.question import make_question
    from pipeline.fetch.view import fetch_bar, print_fetched

    question = make_question(url, measurements, start, stop, probes, every)
    key = find_key(question.url)
    with fetch_bar(silent=as_json) as progress:
        fetched = fetch(question, out, key, progress)
    print_json(fetched.as_dict()) if as_json else print_fetched(fetched)
