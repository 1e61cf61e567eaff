"""The offline commands: input files to a token store, in one go or stage by stage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from stores.commands import JsonOption, print_json

app = typer.Typer()

WorkersOption = Annotated[
    int | None, typer.Option("--workers", min=1, help="Worker processes.", show_default="all cores")
]
SchedulerOption = Annotated[
    str | None, typer.Option("--scheduler", help="Address of a Dask scheduler to run on instead.")
]
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
IMPORT_STAGES = partial(import_module, "pipeline.prepare")
"""What new worker processes do first: import every stage, while this process prepares their work."""


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
        open_executor(workers or available_cores(), scheduler, IMPORT_STAGES) as executor,
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
    from pipeline.inputs import find_inputs, find_left_out

    if inputs and rows is not None:
        raise typer.BadParameter("--rows is for the simulated Internet, not for --input")
    files, left_out = (find_inputs(inputs), find_left_out(inputs)) if inputs else ([], [])
    with _working(out, workers, scheduler, as_json) as (folder, executor, progress):
        # imported only now, while the workers import theirs
        from pipeline.ingest.stage import IngestOptions
        from pipeline.prepare import PrepareOptions, prepare
        from pipeline.simulate.stage import SimulateOptions
        from pipeline.split.stage import SplitOptions
        from pipeline.tokenize.stage import TokenizeOptions
        from pipeline.views import print_report

        options = PrepareOptions(
            IngestOptions(source, allow_private, rtt),
            SimulateOptions(seed=seed, **({} if rows is None else {"rows": rows})),
            SplitOptions(
                by,
                rows_per_shard=rows_per_shard,
                train_shards=train_shards,
                test_shards=test_shards,
            ),
            TokenizeOptions(seed, passes),
        )
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
    from pipeline.split.stage import SplitOptions, own_tables, split, tables_of
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
    from pipeline.tokenize.stage import TokenizeOptions, tokenize
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

    from pipeline.folder import open_folder
    from pipeline.ingest.atlas_result import REASONS
    from pipeline.ingest.stage import IngestOptions, ingest
    from pipeline.inputs import find_inputs, find_left_out
    from pipeline.units import available_cores, open_executor
    from pipeline.views import ledger_table, progress_bars

    files, left_out = find_inputs(inputs), find_left_out(inputs)
    options = IngestOptions(source, allow_private, rtt)
    with (
        open_folder(out) as folder,
        open_executor(workers or available_cores(), scheduler, IMPORT_STAGES) as executor,
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

    from pipeline.simulate.stage import SimulateOptions, simulate_file
    from pipeline.simulate.view import simulate_view
    from pipeline.units import available_cores, open_executor
    from pipeline.views import progress_bars

    options = SimulateOptions(rows, seed, networks, probes, targets)
    with (
        open_executor(workers or available_cores(), scheduler, IMPORT_STAGES) as executor,
        progress_bars(silent=as_json) as progress,
    ):
        record = simulate_file(out, options, executor, progress)
    if as_json:
        print_json(record)
    else:
        rich_print(simulate_view(out, record))
