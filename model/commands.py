"""The commands of the model side: training, evaluation, export, and queries to a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

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
StepsOption = Annotated[int | None, typer.Option("--steps", help="Number of training steps.")]
BatchOption = Annotated[int | None, typer.Option("--batch-size", help="Rows per batch.")]
SeedOption = Annotated[
    int | None, typer.Option("--seed", help="Seed of the weights, dropout and data order.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Set any field: FIELD=VALUE (`train --dry-run --json` lists them)."),
]


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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the plan.")] = False,
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
    as_json: JsonOption = False,
) -> None:
    """Train a transformer on a store. Run the same command again to continue, or to see the result.

    Example: `pinglm train --store data/store.zarr --out runs/a --preset tiny --set width=96`
    """
    from rich import print as rich_print

    from model.config import make_config, parse_assignments, with_shape
    from model.evaluate.first_look import take_first_look
    from model.evaluate.report.terminal import first_look_view
    from model.training.cluster import find_place, joined
    from model.training.loop import train
    from model.training.plan import default_preset, find_default_store, make_plan
    from model.training.progress import make_progress
    from model.training.views import plan_view, result_view

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
    place = find_place(coordinator, processes, process)
    with joined(None if dry_run else place) as peers:
        config = make_config(preset or default_preset(), overrides)
        start = None
        if init_from:
            from model.inference.ping_model import load_weights

            start = load_weights(init_from)
            config = with_shape(config, start.config)
        if dry_run:
            plan = make_plan(config, store or find_default_store())
            print_json(plan.as_dict()) if as_json else rich_print(plan_view(plan))
            return
        progress = make_progress(quiet=as_json)
        store = store or DEFAULT_STORE
        weights = start.arrays if start else None
        result = train(
            config, store, out, start=weights, progress=progress, profile=profile, peers=peers
        )
    if peers.process:
        return
    look = None
    if result.finished and peers.processes > 1:  # reading a model is work for one JAX alone
        progress.note("run the same command in one process for a first look at the model")
    elif result.finished:
        look = take_first_look(store, out, progress.note)
    if as_json:
        print_json(result.as_dict() | ({"first_look": look.as_dict()} if look else {}))
    else:
        rich_print(result_view(result))
        if look:
            rich_print(first_look_view(look))


@app.command("sweep")
def sweep_command(
    learning_rates: Annotated[
        str, typer.Option("--learning-rates", help="Rates to try, separated by commas.")
    ],
    store: StoreOption = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for the runs.")] = Path("runs/sweep"),
    preset: PresetOption = None,
    steps: StepsOption = None,
    batch_size: BatchOption = None,
    seed: SeedOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train with each learning rate and compare the results.

    Example: `pinglm sweep --learning-rates 1e-4,3e-4,1e-3 --steps 500 --preset small`
    """
    from rich import print as rich_print

    from model.config import make_config, parse_assignments
    from model.training.plan import default_preset
    from model.training.progress import make_progress
    from model.training.sweep import parse_rates, sweep
    from model.training.views import sweep_view

    overrides = {
        "steps": steps,
        "batch_size": batch_size,
        "seed": seed,
        **parse_assignments(settings or []),
    }
    config = make_config(preset or default_preset(), overrides)
    progress = make_progress(quiet=as_json)
    rows = sweep(config, store or DEFAULT_STORE, out, parse_rates(learning_rates), progress)
    print_json([row.as_dict() for row in rows]) if as_json else rich_print(sweep_view(rows))


ModelOption = Annotated[
    str,
    typer.Option("--model", help="Folder of a run or an export, or `pretrained`."),
]
ContextOption = Annotated[
    Path | None,
    typer.Option(
        "--context",
        help="Earlier measurements, oldest first: JSON lines or CSV with src, dst, rtt_ms (or failed), time.",
    ),
]


@app.command("predict-rtt")
def predict_rtt_command(
    src: Annotated[str, typer.Argument(metavar="SRC", help="Source address.")],
    dst: Annotated[str, typer.Argument(metavar="DST", help="Destination address.")],
    model: ModelOption = "pretrained",
    time: Annotated[
        float | None, typer.Option("--time", help="Time of the ping, in Unix seconds.")
    ] = None,
    context: ContextOption = None,
    as_json: JsonOption = False,
) -> None:
    """Predict a ping between two addresses: the probability of no answer, and the distribution of the RTT.

    Example: `pinglm predict-rtt --model runs/a 192.0.2.1 198.51.100.7 --context earlier.csv`
    """
    from model.inference.checks import parse_address, parse_time
    from model.inference.context_file import read_context_file
    from model.inference.ping_model import PingModel
    from model.inference.query import RttQuery, context_used
    from model.inference.views import rtt_view, working
    from stores.views import print_view

    query = RttQuery(
        parse_address("src", src),
        parse_address("dst", dst),
        parse_time("time", time),
        read_context_file(context) if context else (),
    )
    with working("predicting", silent=as_json):
        loaded = PingModel.load(model)
        answer = loaded.predict_rtt_batch([query])[0]
        used = context_used(query, loaded.config.context)
    if as_json:
        asked = {"src": str(query.src), "dst": str(query.dst), "time": query.time}
        print_json({**asked, "context_used": used, **answer.as_dict()})
    else:
        print_view(rtt_view(query, answer, used))


@app.command("complete-ip")
def complete_ip_command(
    prefix: Annotated[
        str,
        typer.Argument(
            metavar="PREFIX",
            help="Whole bytes: 192.0.2, 2001:db8: or a CIDR such as 2001:d00::/24.",
        ),
    ],
    model: ModelOption = "pretrained",
    k: Annotated[int, typer.Option("-k", "--k", help="Number of addresses, at most 256.")] = 10,
    field: Annotated[
        Literal["dst", "src"], typer.Option("--field", help="Complete destinations or sources.")
    ] = "dst",
    context: ContextOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the most probable addresses that begin with a prefix.

    Example: `pinglm complete-ip --model runs/a 192.0.2 -k 5`
    """
    from model.inference.context_file import read_context_file
    from model.inference.ping_model import PingModel
    from model.inference.query import CompletionQuery, context_used
    from model.inference.views import completions_view, working
    from stores.views import print_view

    query = CompletionQuery(prefix, k, read_context_file(context) if context else (), field)
    with working("completing", silent=as_json):
        loaded = PingModel.load(model)
        answer = loaded.complete_ip_batch([query])[0]
        used = context_used(query, loaded.config.context)
    if as_json:
        asked = {"prefix": prefix, "field": field, "context_used": used}
        print_json({**asked, "completions": [completion.as_dict() for completion in answer]})
    else:
        print_view(completions_view(query, answer, used))


@app.command("sample-ips")
def sample_ips_command(
    src: Annotated[str, typer.Argument(metavar="SRC", help="Source address.")],
    target_rtt_ms: Annotated[float, typer.Argument(metavar="RTT", help="Target RTT in ms.")],
    model: ModelOption = "pretrained",
    n: Annotated[int, typer.Option("-n", "--n", help="Number of addresses, at most 256.")] = 10,
    tolerance: Annotated[
        float, typer.Option("--tolerance", help="Share of the RTT by which a match may differ (±).")
    ] = 0.05,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the draws.")] = 0,
    context: ContextOption = None,
    as_json: JsonOption = False,
) -> None:
    """Sample destinations that are at a given RTT from a source.

    Example: `pinglm sample-ips --model runs/a 192.0.2.1 20 -n 5 --tolerance 0.1`
    """
    from model.inference.checks import parse_address
    from model.inference.context_file import read_context_file
    from model.inference.ping_model import PingModel
    from model.inference.query import SampleQuery, context_used
    from model.inference.views import samples_view, working
    from stores.views import print_view

    earlier = read_context_file(context) if context else ()
    query = SampleQuery(target_rtt_ms, parse_address("src", src), n, earlier, tolerance, seed)
    with working("drawing", silent=as_json):
        loaded = PingModel.load(model)
        answer = loaded.sample_ips_batch([query])[0]
        used = context_used(query, loaded.config.context)
    if as_json:
        asked = {"src": str(query.src), "target_rtt_ms": target_rtt_ms, "tolerance": tolerance}
        samples = [sample.as_dict() for sample in answer]
        print_json({**asked, "context_used": used, "samples": samples})
    else:
        print_view(samples_view(query, answer, used))


@app.command("evaluate")
def evaluate_command(
    store: Annotated[Path, typer.Option("--store", help="The store.")],
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
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Seed of samples, fits and draws.")
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Compare models and baselines on the same test rows: seen pairs, unseen pairs, new vantage points.

    Example: `pinglm evaluate --store data --model runs/a --truth data/truth/world.npz --out report`
    """
    from model.evaluate.evaluate import make_report, prepare_output, write_report
    from model.evaluate.records import report_json
    from model.evaluate.report.terminal import evaluation_progress, evaluation_view
    from stores.views import print_view

    prepare_output(out)
    with evaluation_progress(silent=as_json) as progress:
        report = make_report(store, models or (), truth, limit, seed, progress=progress)
    write_report(out, report)
    print_json(report_json(report)) if as_json else print_view(evaluation_view(report, out))


@app.command("model-card")
def model_card_command(
    run: Annotated[Path, typer.Option("--run", help="Folder of the training run.")],
    report: Annotated[
        Path, typer.Option("--report", help="The report.json of `evaluate` on the exported model.")
    ],
    store: Annotated[Path, typer.Option("--store", help="The store it was trained on.")],
    truth: Annotated[
        Path, typer.Option("--truth", help="The world.npz of the simulated Internet.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the exported model.")],
    as_json: JsonOption = False,
) -> None:
    """Write the card of an exported model: its data, training, evaluation and an example question.

    Example: `pinglm model-card --run runs/a --report report/report.json --store data/store.zarr
    --truth data/truth/world.npz --out exported`
    """
    from model.evaluate.card import CARD_FILE, write_card

    card = write_card(run, report, store, truth, out)
    print_json(card) if as_json else typer.echo(f"wrote {out / CARD_FILE}")


@app.command("export")
def export_command(
    model: ModelOption,
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")],
    dtype: Annotated[
        Literal["float32", "bfloat16"], typer.Option("--dtype", help="Type of the weights.")
    ] = "float32",
    as_json: JsonOption = False,
) -> None:
    """Write a trained model as safetensors, JSON configuration and vocabulary, usable without Orbax.

    Example: `pinglm export --model runs/a --out exported --dtype bfloat16`
    """
    from model.inference.export import write_export
    from model.inference.ping_model import load_weights
    from model.inference.views import export_view, working
    from stores.views import print_view

    with working("exporting", silent=as_json):
        record = write_export(load_weights(model), out, dtype)
    if as_json:
        print_json({"path": str(out), **record})
    else:
        print_view(export_view(out, record))
