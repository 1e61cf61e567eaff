"""The commands of the model side: training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stores.commands import DEFAULT_STORE, JsonOption, print_json

app = typer.Typer()

StoreOption = Annotated[
    Path | None,
    typer.Option("--store", help="The store.", show_default="data/store.zarr"),
]
PresetOption = Annotated[
    str | None,
    typer.Option("--preset", help="85m, small or tiny.", show_default="85m on a GPU, else tiny"),
]
StepsOption = Annotated[int | None, typer.Option("--steps", help="Steps to train.")]
BatchOption = Annotated[int | None, typer.Option("--batch-size", help="Rows of a batch.")]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Of weights, dropout and order.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="FIELD=VALUE of any field (`train --dry-run --json` lists them)."),
]


@app.command("train")
def train_command(
    store: StoreOption = None,
    out: Annotated[Path, typer.Option("--out", help="Folder of the run.")] = Path("runs/default"),
    preset: PresetOption = None,
    steps: StepsOption = None,
    batch_size: BatchOption = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    log_every: Annotated[int | None, typer.Option(help="Steps from log line to log line.")] = None,
    eval_every: Annotated[int | None, typer.Option(help="Steps between evaluations.")] = None,
    save_every: Annotated[int | None, typer.Option(help="Steps between checkpoints.")] = None,
    seed: SeedOption = None,
    settings: SetOption = None,
    overfit_one_batch: Annotated[
        bool, typer.Option("--overfit-one-batch", help="Debugging: the first batch at every step.")
    ] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Write an XLA trace of a few early steps.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan only.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train a transformer on a store. The same command again continues, or prints what it reached.

    Example: `pinglm train --store data/store.zarr --out runs/a --preset tiny --set width=96`
    """
    from rich import print as rich_print

    from model.config import make_config, parse_assignments
    from model.plan import default_preset, find_default_store, make_plan
    from model.progress import make_progress
    from model.train import train
    from model.views import plan_view, result_view

    overrides = {
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "log_every": log_every,
        "eval_every": eval_every,
        "save_every": save_every,
        "seed": seed,
        "overfit_one_batch": overfit_one_batch or None,
        **parse_assignments(settings or []),
    }
    config = make_config(preset or default_preset(), overrides)
    if dry_run:
        plan = make_plan(config, store or find_default_store())
        print_json(plan) if as_json else rich_print(plan_view(plan))
        return
    progress = make_progress(quiet=as_json)
    result = train(config, store or DEFAULT_STORE, out, progress=progress, profile=profile)
    print_json(result) if as_json else rich_print(result_view(result))


@app.command("sweep")
def sweep_command(
    learning_rates: Annotated[
        str, typer.Option("--learning-rates", help="Rates to try, with commas between.")
    ],
    store: StoreOption = None,
    out: Annotated[Path, typer.Option("--out", help="Folder of the runs.")] = Path("runs/sweep"),
    preset: PresetOption = None,
    steps: StepsOption = None,
    batch_size: BatchOption = None,
    seed: SeedOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train with each learning rate and compare what they reached.

    Example: `pinglm sweep --learning-rates 1e-4,3e-4,1e-3 --steps 500 --preset small`
    """
    from rich import print as rich_print

    from model.config import make_config, parse_assignments
    from model.plan import default_preset
    from model.progress import make_progress
    from model.sweep import parse_rates, sweep
    from model.views import sweep_view

    overrides = {
        "steps": steps,
        "batch_size": batch_size,
        "seed": seed,
        **parse_assignments(settings or []),
    }
    config = make_config(preset or default_preset(), overrides)
    progress = make_progress(quiet=as_json)
    rows = sweep(config, store or DEFAULT_STORE, out, parse_rates(learning_rates), progress)
    print_json(rows) if as_json else rich_print(sweep_view(rows))
