"""The commands of the model side: training, evaluation and export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from stores.commands import DEFAULT_STORE, JsonOption, local_stores, print_json
from stores.errors import ConfigError

app = typer.Typer()

StoreOption = Annotated[
    list[str] | None,
    typer.Option(
        "--store",
        help="The store, or its URL; repeat for several as one.",
        show_default="data/store.zarr",
    ),
]
PresetOption = Annotated[
    str | None,
    typer.Option("--preset", help="85m, small or tiny.", show_default="85m on a GPU, else tiny"),
]
StepsOption = Annotated[int | None, typer.Option("--steps", help="Number of training steps.")]
BatchOption = Annotated[int | None, typer.Option("--batch-size", help="Rows per batch.")]
SeedOption = Annotated[
    int | None, typer.Option("--seed", help="Seed of the weights, dropout and data order.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Set any field: FIELD=VALUE (`train --dry-run --json` lists them)."),
]


def _warn_of_unused_gpu() -> None:
    """Say it also beside JSON: hours of training on CPUs should not be a surprise."""
    from model.devices import unused_gpu
    from stores.terminal import Terminal

    if warning := unused_gpu():
        console = Terminal(stderr=True)
        console.print(f"WARNING: {warning}", style="bold yellow", highlight=False, soft_wrap=True)


@app.command("train")
def train_command(
    store: StoreOption = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for the run.")] = Path("runs/default"),
    preset: PresetOption = None,
    steps: StepsOption = None,
    batch_size: BatchOption = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    log_every: Annotated[int | None, typer.Option(help="Steps between log lines.")] = None,
    eval_every: Annotated[int | None, typer.Option(help="Steps between evaluations.")] = None,
    save_every: Annotated[int | None, typer.Option(help="Steps between checkpoints.")] = None,
    seed: SeedOption = None,
    fsdp: Annotated[
        int | None,
        typer.Option("--fsdp", help="Divide weights and optimizer state over so many devices."),
    ] = None,
    settings: SetOption = None,
    overfit_one_batch: Annotated[
        bool,
        typer.Option(
            "--overfit-one-batch", help="For debugging: use the first batch at every step."
        ),
    ] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Write an XLA trace of a few early steps.")
    ] = False,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Compare all files with their digests first, not meanwhile."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the plan.")] = False,
    devices: Annotated[
        int | None,
        typer.Option(
            "--devices",
            min=1,
            help="With --dry-run: plan for so many devices.",
            show_default="those that are here",
        ),
    ] = None,
    device_memory: Annotated[
        float | None,
        typer.Option(
            "--device-memory",
            min=0,
            metavar="GIB",
            help="With --dry-run: what each device has.",
            show_default="what they tell",
        ),
    ] = None,
    init_from: Annotated[
        str | None,
        typer.Option(
            "--init-from",
            metavar="MODEL",
            help="Start from these weights: a run, an export, or `pretrained`. Its shape is taken over.",
        ),
    ] = None,
    coordinator: Annotated[
        str | None,
        typer.Option(
            "--coordinator",
            metavar="HOST:PORT",
            help="Train in several processes, which meet at process 0 there. SLURM and Open MPI need none "
            "of these three options.",
        ),
    ] = None,
    processes: Annotated[
        int | None, typer.Option("--processes", help="How many processes train together.")
    ] = None,
    process: Annotated[
        int | None, typer.Option("--process", help="Which of them this is, counted from 0.")
    ] = None,
    stopped_status: Annotated[
        int,
        typer.Option(
            "--stopped-status",
            min=0,
            max=255,
            help="Exit status when SIGTERM or SIGUSR1 stopped it, for a script that runs it again.",
        ),
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Train a transformer on a store, or on several as one. Run the same command again to continue, or to see the
    result.

    Example: `pinglm train --store data/store.zarr --out runs/a --preset tiny --set width=96`

    Two days as one: `pinglm train --store monday --store tuesday --out runs/b`
    """
    from model.config import make_config, parse_assignments, with_shape
    from model.evaluate.first_look import take_first_look
    from model.evaluate.report.terminal import first_look_view
    from model.training.cluster import find_place, joined, start_alone
    from model.training.loop import train
    from model.training.plan import default_preset, find_default_store, make_plan
    from model.training.progress import make_progress, verify_content
    from model.training.views import plan_view, result_view
    from stores.views import print_view

    overrides = {
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "log_every": log_every,
        "eval_every": eval_every,
        "save_every": save_every,
        "seed": seed,
        "fsdp": fsdp,
        "overfit_one_batch": overfit_one_batch or None,
        **parse_assignments(settings or []),
    }
    if not dry_run and (devices, device_memory) != (None, None):
        raise ConfigError("--devices and --device-memory: only for a plan: add --dry-run")
    place = find_place(coordinator, processes, process)
    with joined(None if dry_run else place) as peers:
        if not peers.process:
            _warn_of_unused_gpu()
        config = make_config(preset or default_preset(), overrides)
        start = base = None
        if init_from:
            from model.inference.ping_model import load_weights
            from model.run_folder import Base

            start = load_weights(init_from)
            base = Base(start.origin.get("store_digest", "unknown"), start.provenance)
            config = with_shape(config, start.config)
        if dry_run:
            planned = local_stores(store, silent=as_json) if store else find_default_store()
            memory = None if device_memory is None else round(device_memory * 2**30)
            plan = make_plan(config, planned, devices=devices, device_memory=memory)
            print_json(plan.as_dict()) if as_json else print_view(plan_view(plan))
            return
        quiet = as_json or peers.process > 0
        progress = make_progress(quiet)
        paths = local_stores(store or [DEFAULT_STORE], silent=quiet)
        if verify:
            verify_content(paths, progress)
        weights = start.arrays if start else None
        result = train(
            config,
            paths,
            out,
            start=weights,
            base=base,
            progress=progress,
            profile=profile,
            peers=peers,
            verified=verify,
        )
    if not peers.process:
        if peers.processes > 1 and result.finished:
            start_alone()  # it finds the run finished, and takes a first look at the model
        look = take_first_look(paths, out, result.steps, progress.note) if result.finished else None
        if as_json:
            print_json(result.as_dict() | ({"first_look": look.as_dict()} if look else {}))
        else:
            print_view(result_view(result))
            if look:
                print_view(first_look_view(look, paths, out))
    if not result.finished:
        raise typer.Exit(stopped_status)


@app.command("sweep")
def sweep_command(
    learning_rates: Annotated[
        str | None,
        typer.Option("--learning-rates", help="The same as --set learning_rate=RATE,RATE…"),
    ] = None,
    store: StoreOption = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for the runs.")] = Path("runs/sweep"),
    preset: PresetOption = None,
    steps: StepsOption = None,
    batch_size: BatchOption = None,
    seed: SeedOption = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Try the values of any field: FIELD=VALUE,VALUE…; or set it: FIELD=VALUE."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train with each value of a field, or each combination of several fields' values, and compare the results.

    Examples: `pinglm sweep --set learning_rate=1e-4,3e-4,1e-3 --steps 500 --preset small` ·
    `pinglm sweep --set width=96,128 --set dropout=0,0.1`
    """
    from model.config import parse_assignments
    from model.training.plan import default_preset
    from model.training.progress import make_progress
    from model.training.sweep import make_variants, sweep
    from model.training.views import sweep_view
    from stores.views import print_view

    given = parse_assignments(settings or [])
    tried = {name: value.split(",") for name, value in given.items() if "," in value}
    if learning_rates is not None:
        if "learning_rate" in given:
            raise ConfigError("--learning-rates and --set learning_rate: give one of them")
        tried["learning_rate"] = learning_rates.split(",")
    fixed = {"steps": steps, "batch_size": batch_size, "seed": seed, **given}
    _warn_of_unused_gpu()
    variants = make_variants(preset or default_preset(), fixed, tried)
    progress = make_progress(quiet=as_json)
    paths = local_stores(store or [DEFAULT_STORE], silent=as_json)
    rows = sweep(variants, paths, out, progress)
    print_json([row.as_dict() for row in rows]) if as_json else print_view(sweep_view(rows))


@app.command("export")
def export_command(
    model: Annotated[
        str, typer.Option("--model", help="Folder of a run or an export, or `pretrained`.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")],
    dtype: Annotated[
        Literal["float32", "bfloat16"], typer.Option("--dtype", help="Type of the weights.")
    ] = "float32",
    store: Annotated[
        list[str] | None,
        typer.Option(
            "--store",
            help="The store that it was trained on, or its URL: for a run that did not note what its data are. "
            "Repeat for several, in order.",
        ),
    ] = None,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate",
            help="Find out on the validation split of --store how wide predicted intervals should be; 20 s "
            "for tiny on a CPU.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a trained model as safetensors, JSON configuration and vocabulary, usable without Orbax, with a card
    that says what it was trained on.

    Examples: `pinglm export --model runs/a --out exported --dtype bfloat16` · `pinglm export --model runs/a
    --store data/store.zarr --calibrate --out exported`
    """
    from model.evaluate.temperature import with_temperature
    from model.inference.export import write_export
    from model.inference.ping_model import load_weights
    from model.inference.views import export_view, working
    from model.inference.weights import with_provenance
    from stores.union import open_stores
    from stores.views import print_view, progress_bar

    if calibrate and not store:
        raise ConfigError("--calibrate: needs --store, the store that the model was trained on")
    paths = local_stores(store, silent=as_json) if store else None
    with working("loading the model", silent=as_json):
        weights = load_weights(model)
        if paths:
            weights = with_provenance(weights, open_stores(paths))
    if paths and calibrate:
        with progress_bar("calibrate", silent=as_json) as progress:
            weights = with_temperature(weights, open_stores(paths), progress)
    with working("exporting", silent=as_json):
        record = write_export(weights, out, dtype)
    print_json({"path": str(out), **record}) if as_json else print_view(export_view(out, record))
