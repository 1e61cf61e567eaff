"""The offline commands: from input files to a token store, in one go or stage by stage."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from pipeline.working import executor_for, working
from stores.commands import JsonOption, print_json

app = typer.Typer()

WorkersOption = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Number of worker processes.", show_default="all cores"),
]
SchedulerOption = Annotated[
    str | None,
    typer.Option("--scheduler", help="Run on the Dask cluster whose scheduler has this address."),
]
OutOption = Annotated[Path, typer.Option("--out", help="Output folder.")]
SourceOption = Annotated[
    Literal["from", "src_addr"],
    typer.Option(help="Which field of a result to prefer as source address."),
]
PrivateOption = Annotated[
    bool,
    typer.Option(
        "--allow-private", help="Also accept source addresses that are not globally routable."
    ),
]
RttOption = Annotated[
    Literal["mean", "min", "median"],
    typer.Option(help="How to combine the RTTs of a result's packets."),
]
ByOption = Annotated[
    Literal["time", "source", "pair"],
    typer.Option(
        help="What makes the test split: the last tenth of the time, or a tenth of the sources or pairs."
    ),
]
ValidationOption = Annotated[
    float | None,
    typer.Option(
        "--validation",
        metavar="SHARE",
        help="Share of the rows to set aside from train, by the same rule, to choose checkpoints and settings on.",
        show_default="none: they are chosen on test",
    ),
]
RowsPerShardOption = Annotated[
    int, typer.Option(min=1, help="Approximate number of rows per shard.")
]
TrainShardsOption = Annotated[int | None, typer.Option(min=1, help="Number of train shards.")]
TestShardsOption = Annotated[int | None, typer.Option(min=1, help="Number of test shards.")]
PassesOption = Annotated[
    int, typer.Option(min=1, help="Number of differently shuffled copies of the data.")
]
SeedOption = Annotated[
    int, typer.Option(min=0, help="Random seed of the simulation and of every shuffle.")
]
_SIMULATED_ROWS, _SIMULATED_ROW = 2_000_000, 10  # rows, and bytes of one


def _size_of(folder: Path) -> int:
    """Bytes of the Parquet files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*.parquet"))


@app.command("prepare")
def prepare_command(
    out: OutOption,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            help="RIPE Atlas results, RIPE's BigQuery tables or measurement tables: file, folder, glob, or URL "
            "(s3://, gs://, https://), or - for standard input. "
            "Repeatable. Without it, a simulated Internet is used.",
        ),
    ] = None,
    rows: Annotated[
        int | None, typer.Option(min=1, help="Number of rows to simulate; only without --input.")
    ] = None,
    source: SourceOption = "from",
    allow_private: PrivateOption = False,
    rtt: RttOption = "mean",
    by: ByOption = "time",
    validation: ValidationOption = None,
    rows_per_shard: RowsPerShardOption = 500_000,
    train_shards: TrainShardsOption = None,
    test_shards: TestShardsOption = None,
    passes: PassesOption = 1,
    seed: SeedOption = 0,
    workers: WorkersOption = None,
    scheduler: SchedulerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run all stages: turn input files, or a simulated Internet, into a verified token store.

    If it is interrupted or killed, run the same command again to continue.

    Examples: `pinglm prepare --out data` · `pinglm prepare --input dumps/ --by source --out data`
    """
    from pipeline.inputs import find_inputs, find_left_out
    from pipeline.standard_input import spooled

    if inputs and rows is not None:
        raise typer.BadParameter("--rows applies only to the simulated Internet, not to --input")
    with spooled(inputs or [], out) as paths:
        files, left_out = (find_inputs(paths), find_left_out(paths)) if paths else ([], [])
        simulated = _SIMULATED_ROW * (rows or _SIMULATED_ROWS)
        size = sum(file.size for file in files) if files else simulated
        where = working(out, workers, scheduler, as_json, size, files)
        with where as (folder, executor, progress):
            # imported only now, while the workers import theirs
            from pipeline.ingest.stage import IngestOptions
            from pipeline.prepare import PrepareOptions, prepare
            from pipeline.records import to_json
            from pipeline.simulate.stage import SimulateOptions
            from pipeline.split.stage import SplitOptions
            from pipeline.tokenize.stage import TokenizeOptions
            from pipeline.views import print_report, warn_of_split

            options = PrepareOptions(
                IngestOptions(source, allow_private, rtt),
                SimulateOptions(seed=seed, **({} if rows is None else {"rows": rows})),
                SplitOptions(
                    by,
                    rows_per_shard=rows_per_shard,
                    train_shards=train_shards,
                    test_shards=test_shards,
                    validation=validation,
                ),
                TokenizeOptions(seed, passes),
            )
            report = prepare(files, folder, options, executor, progress, left_out)
    if as_json:
        print_json(to_json(report))
        warn_of_split(report.totals, report.overlap, report.configuration["split"])
    else:
        print_report(report, out)


@app.command("split")
def split_command(
    out: OutOption,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            help="Measurement tables in Parquet: file, folder, glob or URL. Repeatable. "
            "Without it, the tables that `ingest` wrote to the output folder.",
        ),
    ] = None,
    by: ByOption = "time",
    validation: ValidationOption = None,
    rows_per_shard: RowsPerShardOption = 500_000,
    train_shards: TrainShardsOption = None,
    test_shards: TestShardsOption = None,
    workers: WorkersOption = None,
    scheduler: SchedulerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Divide measurement tables into train and test shards, 90/10, and perhaps some for validation.

    Example: `pinglm split --input pings.parquet --by pair --out data`
    """
    from pipeline.inputs import find_inputs
    from pipeline.records import to_json
    from pipeline.split.stage import SplitOptions, own_tables, split, tables_of
    from pipeline.views import print_split, warn_of_split

    options = SplitOptions(
        by,
        rows_per_shard=rows_per_shard,
        train_shards=train_shards,
        test_shards=test_shards,
        validation=validation,
    )
    files = find_inputs(inputs) if inputs else []
    size = sum(file.size for file in files) or _size_of(out / "measurements")
    with working(out, workers, scheduler, as_json, size, files) as (folder, executor, progress):
        tables = tables_of(files) or own_tables(folder)
        record = split(tables, folder, options, executor, progress)
    if as_json:
        print_json(to_json(record))
        warn_of_split(record.totals, record.overlap, record.options)
    else:
        print_split(record, out)


@app.command("tokenize")
def tokenize_command(
    out: OutOption,
    passes: PassesOption = 1,
    seed: SeedOption = 0,
    workers: WorkersOption = None,
    scheduler: SchedulerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Encode the shards in the output folder as a token store, in all three timestamp modes.

    Example: `pinglm tokenize --out data --passes 2`
    """
    from pipeline.records import to_json
    from pipeline.tokenize.stage import TokenizeOptions, tokenize
    from pipeline.views import print_store

    size = _size_of(out / "splits")
    with working(out, workers, scheduler, as_json, size) as (folder, executor, progress):
        record = tokenize(folder, TokenizeOptions(seed, passes), executor, progress)
    print_json(to_json(record)) if as_json else print_store(record, out)


@app.command("ingest")
def ingest_command(
    inputs: Annotated[
        list[str],
        typer.Option(
            "--input",
            help="File, folder, glob or URL of RIPE Atlas results, in JSON or BigQuery tables, or - for standard "
            "input. Repeatable.",
        ),
    ],
    out: OutOption,
    source: SourceOption = "from",
    allow_private: PrivateOption = False,
    rtt: RttOption = "mean",
    workers: WorkersOption = None,
    scheduler: SchedulerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Turn RIPE Atlas results into a measurement table.

    Example: `pinglm ingest --input 'dumps/ping-*.bz2' --input more/ --out data`
    """
    from pipeline.ingest.stage import IngestOptions, ingest
    from pipeline.inputs import find_inputs, find_left_out
    from pipeline.records import to_json
    from pipeline.standard_input import spooled
    from pipeline.views import print_ingest

    options = IngestOptions(source, allow_private, rtt)
    with spooled(inputs, out) as paths:
        files, left_out = find_inputs(paths), find_left_out(paths)
        size = sum(file.size for file in files)
        where = working(out, workers, scheduler, as_json, size, files)
        with where as (folder, executor, progress):
            record = ingest(files, folder, options, executor, progress, left_out)
    print_json(to_json(record)) if as_json else print_ingest(record, out)


@app.command("simulate")
def simulate_command(
    out: Annotated[Path, typer.Option("--out", help="Parquet file to write.")],
    rows: Annotated[int, typer.Option("--rows", help="Number of measurements.")] = _SIMULATED_ROWS,
    seed: Annotated[
        int, typer.Option("--seed", help="Random seed of the Internet and of its noise.")
    ] = 0,
    networks: Annotated[int, typer.Option("--networks", help="Number of networks.")] = 96,
    probes: Annotated[int, typer.Option("--probes", help="Number of machines that measure.")] = 300,
    targets: Annotated[
        int, typer.Option("--targets", help="Number of machines that are measured.")
    ] = 320,
    workers: WorkersOption = None,
    scheduler: SchedulerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Simulate an Internet: write its measurements as Parquet, and beside them the truth behind each row
    and behind any two addresses.

    Example: `pinglm simulate --rows 2000000 --seed 0 --out sim.parquet`
    """
    from pipeline.records import to_json
    from pipeline.simulate.stage import SimulateOptions, simulate_file
    from pipeline.simulate.view import simulate_view
    from pipeline.views import progress_bars
    from stores.views import print_view

    options = SimulateOptions(rows, seed, networks, probes, targets)
    with (
        executor_for(workers, scheduler, _SIMULATED_ROW * rows, out.resolve().parent) as executor,
        progress_bars(silent=as_json) as progress,
    ):
        record = simulate_file(out, options, executor, progress)
    if as_json:
        print_json(to_json(record))
    else:
        print_view(simulate_view(out, record))
