"""The command line. Thin: one command, one call, one rendering."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from stores.errors import PinglmError

app = typer.Typer(
    name="pinglm",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

JsonOption = Annotated[bool, typer.Option("--json", help="Print only JSON on standard output.")]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", min=1, help="Worker processes.", show_default="all cores")
]
SchedulerOption = Annotated[
    str | None, typer.Option("--scheduler", help="Address of a Dask scheduler to run on instead.")
]


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    json.dump(value, sys.stdout, indent=1, ensure_ascii=False)
    print()


@app.callback()
def commands() -> None:
    """Train transformers on Internet latency: RIPE Atlas pings to token store to predictions."""


@app.command("ingest")
def ingest_command(
    inputs: Annotated[
        list[str],
        typer.Option("--input", help="File, folder or glob of RIPE Atlas results. Repeatable."),
    ],
    out: Annotated[Path, typer.Option("--out", help="Output folder.")],
    source: Annotated[
        Literal["from", "src_addr"], typer.Option(help="Preferred source address.")
    ] = "from",
    allow_private: Annotated[
        bool, typer.Option("--allow-private", help="Take source addresses that are not global.")
    ] = False,
    rtt: Annotated[
        Literal["mean", "min", "median"], typer.Option(help="RTT of a result's packets.")
    ] = "mean",
    workers: WorkersOption = None,
    scheduler: SchedulerOption = None,
    as_json: JsonOption = False,
) -> None:
    """RIPE Atlas results to the measurement table.

    Example: `pinglm ingest --input 'dumps/ping-*.bz2' --input more/ --out data`
    """
    from rich import print as rich_print

    from pipeline.atlas_result import REASONS
    from pipeline.folder import open_folder
    from pipeline.ingest import IngestOptions, ingest
    from pipeline.inputs import find_inputs, find_left_out
    from pipeline.units import available_cores, open_executor
    from pipeline.views import ledger_table, progress_bars

    files, left_out = find_inputs(inputs), find_left_out(inputs)
    options = IngestOptions(source, allow_private, rtt)
    with (
        open_folder(out) as folder,
        open_executor(workers or available_cores(), scheduler) as executor,
        progress_bars(silent=as_json) as progress,
    ):
        record = ingest(files, folder, options, executor, progress, left_out)
    if as_json:
        print_json(record)
    else:
        title = f"{len(record['files'])} files to {out}/measurements"
        rich_print(ledger_table(title, record["totals"], REASONS))


def main() -> None:
    """Run the app: 0 done, 1 failed with one line on standard error, 2 usage, 130 interrupted."""
    try:
        app()
    except PinglmError as error:
        _fail(str(error), 1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}", 1)
    except KeyboardInterrupt:
        _fail("interrupted; run the same command again to continue", 130)


def _fail(message: str, code: int) -> None:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
