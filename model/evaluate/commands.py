"""The commands that say how good models are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stores.commands import JsonOption, local_stores, print_json
from stores.printable import printable

app = typer.Typer()


@app.command("evaluate")
def evaluate_command(
    store: Annotated[
        list[str],
        typer.Option("--store", help="The store, or its URL; repeat for several as one."),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for report.html and report.json.")],
    models: Annotated[
        list[str] | None,
        typer.Option("--model", help="A run, an export, or `pretrained`; repeat for more."),
    ] = None,
    truth: Annotated[
        Path | None, typer.Option("--truth", help="The world.npz of a simulated Internet.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            min=1,
            help="Test rows that every predictor answers.",
            show_default="20000; 1000 with a model",
        ),
    ] = None,
    searches: Annotated[
        int,
        typer.Option(
            "--searches",
            min=1,
            help="Searches for destinations at an RTT, of each model.",
        ),
    ] = 200,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Seed of samples, fits and draws.")
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Compare models and baselines on the same test rows of a store, or of several as one: seen pairs, unseen
    pairs, new vantage points.

    Example: `pinglm evaluate --store data --model runs/a --truth data/truth/world.npz --out report`
    """
    from model.evaluate.effort import Effort
    from model.evaluate.evaluate import make_report, prepare_output, write_report
    from model.evaluate.records import report_json
    from model.evaluate.report.terminal import evaluation_progress, evaluation_view
    from stores.views import print_view

    prepare_output(out)
    paths = local_stores(store, silent=as_json)
    with evaluation_progress(silent=as_json) as progress:
        effort = Effort(searches=searches)
        report = make_report(paths, models or (), truth, limit, seed, effort, progress)
    write_report(out, report)
    print_json(report_json(report)) if as_json else print_view(evaluation_view(report, out))


@app.command("model-card")
def model_card_command(
    run: Annotated[Path, typer.Option("--run", help="Folder of the training run.")],
    report: Annotated[
        Path, typer.Option("--report", help="The report.json of `evaluate` on the exported model.")
    ],
    store: Annotated[
        list[Path],
        typer.Option("--store", help="The store it was trained on; repeat for several, in order."),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the exported model.")],
    truth: Annotated[
        Path | None,
        typer.Option(
            "--truth", help="The world.npz of a simulated Internet: adds an example question."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the card of an exported model, as JSON and in prose: data, training, evaluation, limits and licence.

    Example: `pinglm model-card --run runs/a --report report/report.json --store data/store.zarr
    --truth data/truth/world.npz --out exported`
    """
    from model.evaluate.card import write_card
    from model.inference.card import CARD_FILE, README_FILE

    card = write_card(run, report, store, truth, out)
    print_json(card) if as_json else typer.echo(
        printable(f"wrote {out / CARD_FILE} and {README_FILE}")
    )
