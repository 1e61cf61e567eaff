"""The command line. Thin: one command, one call, one rendering."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from stores.errors import PinglmError

app = typer.Typer(
    name="pinglm",
    no_args_is_help=True,
    add_completion=False,
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

StoreArgument = Annotated[
    Path, typer.Argument(metavar="STORE", help="The store, or the output folder it lies in.")
]
SplitName = Literal["train", "test"]
ModeName = Literal["full", "none", "mixed"]
DEFAULT_STORE = Path("data/store.zarr")


OutOption = Annotated[Path, typer.Option("--out", help="Output folder.")]
SourceOption = Annotated[
    Literal["from", "src_addr"], typer.Option(help="Preferred source address of a result.")
]
PrivateOption = Annotated[
    bool, typer.Option("--allow-private", help="Take source addresses that are not global.")
]
RttOption = Annotated[
    Literal["mean", "min", "median"], typer.Option(help="RTT of a result's packets.")
]
ByOption = Annotated[
    Literal["time", "source", "pair"],
    typer.Option(help="Test is the last tenth of the time, or a tenth of the sources or pairs."),
]
RowsPerShardOption = Annotated[int, typer.Option(min=1, help="About this many rows a shard.")]
TrainShardsOption = Annotated[int | None, typer.Option(min=1, help="Number of train shards.")]
TestShardsOption = Annotated[int | None, typer.Option(min=1, help="Number of test shards.")]
PassesOption = Annotated[int, typer.Option(min=1, help="Differently shuffled copies of the data.")]
SeedOption = Annotated[
    int, typer.Option(min=0, help="Seed of the simulation and of every shuffle.")
]


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    json.dump(value, sys.stdout, indent=1, ensure_ascii=False)
    print()


@app.callback()
def commands() -> None:
    """Train transformers on Internet latency: RIPE Atlas pings to token store to predictions."""


@contextmanager
def _working(
    out: Path, workers: int | None, scheduler: str | None, as_json: bool
) -> Iterator[tuple[Any, Any, Any]]:
    """Output folder, executor and progress callback of an offline stage."""
    from pipeline.folder import open_folder
    from pipeline.units import available_cores, open_executor
    from pipeline.views import progress_bars

    with (
        open_folder(out) as folder,
        open_executor(workers or available_cores(), scheduler) as executor,
        progress_bars(silent=as_json) as progress,
    ):
        yield folder, executor, progress


@app.command("prepare")
def prepare_command(
    out: OutOption,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            help="RIPE Atlas results or measurement Parquet: file, folder or glob. Repeatable. "
            "Without it, a simulated Internet.",
        ),
    ] = None,
    rows: Annotated[
        int | None, typer.Option(min=1, help="Rows to simulate, without --input.")
    ] = None,
    source: SourceOption = "from",
    allow_private: PrivateOption = False,
    rtt: RttOption = "mean",
    by: ByOption = "time",
    rows_per_shard: RowsPerShardOption = 500_000,
    train_shards: TrainShardsOption = None,
    test_shards: TestShardsOption = None,
    passes: PassesOption = 1,
    seed: SeedOption = 0,
    workers: WorkersOption = None,
    scheduler: SchedulerOption = None,
    as_json: JsonOption = False,
) -> None:
    """All stages: input files, or a simulated Internet, to a verified token store.

    Interrupted or killed, the same command continues.

    Examples: `pinglm prepare --out data` · `pinglm prepare --input dumps/ --by source --out data`
    """
    from pipeline.ingest import IngestOptions
    from pipeline.inputs import find_inputs, find_left_out
    from pipeline.prepare import PrepareOptions, prepare
    from pipeline.simulate import SimulateOptions
    from pipeline.split import SplitOptions
    from pipeline.tokenize import TokenizeOptions
    from pipeline.views import print_report

    if inputs and rows is not None:
        raise typer.BadParameter("--rows is for the simulated Internet, not for --input")
    files, left_out = (find_inputs(inputs), find_left_out(inputs)) if inputs else ([], [])
    simulated = {} if rows is None else {"rows": rows}
    options = PrepareOptions(
        IngestOptions(source, allow_private, rtt),
        SimulateOptions(seed=seed, **simulated),
        SplitOptions(
            by, rows_per_shard=rows_per_shard, train_shards=train_shards, test_shards=test_shards
        ),
        TokenizeOptions(seed, passes),
    )
    with _working(out, workers, scheduler, as_json) as (folder, executor, progress):
        report = prepare(files, folder, options, executor, progress, left_out)
    print_json(report) if as_json else print_report(report, out)


@app.command("split")
def split_command(
    out: OutOption,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            help="Measurement Parquet: file, folder or glob. Repeatable. "
            "Without it, what `ingest` left in the output folder.",
        ),
    ] = None,
    by: ByOption = "time",
    rows_per_shard: RowsPerShardOption = 500_000,
    train_shards: TrainShardsOption = None,
    test_shards: TestShardsOption = None,
    workers: WorkersOption = None,
    scheduler: SchedulerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measurement tables to train and test shards, 90/10.

    Example: `pinglm split --input pings.parquet --by pair --out data`
    """
    from pipeline.inputs import find_inputs
    from pipeline.split import SplitOptions, own_tables, split, tables_of
    from pipeline.views import print_split

    options = SplitOptions(
        by, rows_per_shard=rows_per_shard, train_shards=train_shards, test_shards=test_shards
    )
    with _working(out, workers, scheduler, as_json) as (folder, executor, progress):
        tables = tables_of(find_inputs(inputs)) if inputs else own_tables(folder)
        record = split(tables, folder, options, executor, progress)
    print_json(record) if as_json else print_split(record, out)


@app.command("tokenize")
def tokenize_command(
    out: OutOption,
    passes: PassesOption = 1,
    seed: SeedOption = 0,
    workers: WorkersOption = None,
    scheduler: SchedulerOption = None,
    as_json: JsonOption = False,
) -> None:
    """The shards in a folder to its token store, in all three timestamp modes.

    Example: `pinglm tokenize --out data --passes 2`
    """
    from pipeline.tokenize import TokenizeOptions, tokenize
    from pipeline.views import print_store

    with _working(out, workers, scheduler, as_json) as (folder, executor, progress):
        record = tokenize(folder, TokenizeOptions(seed, passes), executor, progress)
    print_json(record) if as_json else print_store(record, out)


@app.command("ingest")
def ingest_command(
    inputs: Annotated[
        list[str],
        typer.Option("--input", help="File, folder or glob of RIPE Atlas results. Repeatable."),
    ],
    out: OutOption,
    source: SourceOption = "from",
    allow_private: PrivateOption = False,
    rtt: RttOption = "mean",
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


@app.command("simulate")
def simulate_command(
    out: Annotated[Path, typer.Option("--out", help="Parquet file to write.")],
    rows: Annotated[int, typer.Option("--rows", help="Measurements.")] = 2_000_000,
    seed: Annotated[int, typer.Option("--seed", help="Which Internet, and which luck.")] = 0,
    networks: Annotated[int, typer.Option("--networks", help="Networks in its world.")] = 96,
    probes: Annotated[int, typer.Option("--probes", help="Machines that measure.")] = 300,
    targets: Annotated[int, typer.Option("--targets", help="Machines that are measured.")] = 320,
    workers: WorkersOption = None,
    scheduler: SchedulerOption = None,
    as_json: JsonOption = False,
) -> None:
    """The simulated Internet as Parquet, and beside it its truth, row by row and for any two addresses.

    Example: `pinglm simulate --rows 2000000 --seed 0 --out sim.parquet`
    """
    from rich import print as rich_print

    from pipeline.simulate import SimulateOptions, simulate_file
    from pipeline.simulate_view import simulate_view
    from pipeline.units import available_cores, open_executor
    from pipeline.views import progress_bars

    options = SimulateOptions(rows, seed, networks, probes, targets)
    with (
        open_executor(workers or available_cores(), scheduler) as executor,
        progress_bars(silent=as_json) as progress,
    ):
        record = simulate_file(out, options, executor, progress)
    if as_json:
        print_json(record)
    else:
        rich_print(simulate_view(out, record))


@app.command("inspect-store")
def inspect_store_command(
    store: StoreArgument,
    split: Annotated[SplitName | None, typer.Option("--split", help="Only this split.")] = None,
    mode: Annotated[ModeName | None, typer.Option("--mode", help="Only this mode.")] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw it too, into a .png or .html file.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Token statistics of a store: fill, field mix, delta widths, field orders, RTTs.

    Example: `pinglm inspect-store data/store.zarr --plot store.html`
    """
    from stores.inspect import inspect_store
    from stores.layout import MODES, SPLITS
    from stores.plot import check_plot_path, plot_report
    from stores.views import inspect_view, print_view, progress_bar

    if plot:
        check_plot_path(plot)
    with progress_bar("inspect", silent=as_json) as progress:
        report = inspect_store(
            store, [split] if split else SPLITS, [mode] if mode else MODES, progress
        )
    if plot:
        plot_report(report, plot)
    if as_json:
        print_json(report)
    else:
        print_view(inspect_view(report))


@app.command("decode")
def decode_command(
    store: StoreArgument,
    split: Annotated[SplitName, typer.Option("--split", help="Which split.")] = "train",
    mode: Annotated[ModeName, typer.Option("--mode", help="Which timestamp mode.")] = "full",
    index: Annotated[int, typer.Option("--index", help="First window to show.")] = 0,
    count: Annotated[int, typer.Option("--count", help="How many windows.", min=1)] = 1,
    as_json: JsonOption = False,
) -> None:
    """Show windows of a store as tokens and as measurements.

    Example: `pinglm decode data/store.zarr --split train --mode mixed --index 7`
    """
    from stores import TokenStore
    from stores.decode import decode_windows
    from stores.views import decode_view, print_view

    opened = TokenStore.open(store)
    windows = decode_windows(opened, split, mode, index, count)
    if as_json:
        print_json({"path": str(opened.path), "digest": opened.digest, "windows": windows})
    else:
        print_view(decode_view(windows))


@app.command("verify-store")
def verify_store_command(store: StoreArgument, as_json: JsonOption = False) -> None:
    """Check every byte of a store: digests, grammar, ledger. Exits 1 on any damage, naming it.

    Example: `pinglm verify-store data/store.zarr`
    """
    from dataclasses import asdict

    from stores.verify import verify_store
    from stores.views import print_view, progress_bar, verify_view

    with progress_bar("verify", silent=as_json) as progress:
        report = verify_store(store, progress)
    if as_json:
        print_json({"sound": report.sound, **asdict(report)})
    else:
        print_view(verify_view(report))
    if not report.sound:
        raise typer.Exit(1)


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

    overrides = {"steps": steps, "batch_size": batch_size, "seed": seed}
    overrides |= parse_assignments(settings or [])
    config = make_config(preset or default_preset(), overrides)
    progress = make_progress(quiet=as_json)
    rows = sweep(config, store or DEFAULT_STORE, out, parse_rates(learning_rates), progress)
    print_json(rows) if as_json else rich_print(sweep_view(rows))


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
