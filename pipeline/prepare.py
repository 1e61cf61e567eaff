"""All stages in sequence: from input files, or a simulated Internet, to a finished token store."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, TypeVar

from pipeline.folder import OutputFolder
from pipeline.ingest.stage import IngestOptions, ingest
from pipeline.inputs import InputFile
from pipeline.provenance import configuration, inputs, ledger
from pipeline.records import (
    IngestRecord,
    Report,
    SimulateRecord,
    StageRecord,
    StoreSummary,
    read_json_if_whole,
    to_json,
)
from pipeline.simulate.stage import SimulateOptions, simulate
from pipeline.split.stage import SplitOptions, own_tables, split, tables_of
from pipeline.tokenize.stage import STORE, TokenizeOptions, tokenize
from pipeline.units import Progress
from stores.errors import ConfigError
from stores.files import write_json

REPORT = "report.json"

R = TypeVar("R", bound=StageRecord)


@dataclass(frozen=True)
class PrepareOptions:
    """Options of every stage."""

    ingest: IngestOptions = field(default_factory=IngestOptions)
    simulate: SimulateOptions = field(default_factory=SimulateOptions)
    split: SplitOptions = field(default_factory=SplitOptions)
    tokenize: TokenizeOptions = field(default_factory=TokenizeOptions)


def prepare(
    files: Sequence[InputFile],
    folder: OutputFolder,
    options: PrepareOptions,
    executor: concurrent.futures.Executor,
    progress: Progress,
    left_out: Sequence[str] = (),
) -> Report:
    """Run every stage that is not finished yet; write DIR/report.json and return it.

    Without `files`, the input is the simulated Internet. Parquet files are read as measurement tables,
    all others, and RIPE's BigQuery tables, as RIPE Atlas results. `left_out` names the files that were skipped,
    for the report.
    Raises `ConfigError` when the folder was started with other input or options, and what the stages raise.
    """
    seconds: dict[str, float] = {}

    def run(function: Callable[..., R], *arguments: Any) -> R:
        start = time.monotonic()
        record = function(*arguments, executor, progress)
        seconds[record.STAGE] = round(time.monotonic() - start, 3)
        return record

    _same_kind_of_input(folder, files)
    results = [file for file in files if file.kind != "parquet"]
    tables = tables_of([file for file in files if file.kind == "parquet"])
    if results:
        run(partial(ingest, left_out=left_out), results, folder, options.ingest)
    elif not tables:
        run(simulate, folder, options.simulate)
    divided = run(split, [*own_tables(folder), *tables], folder, options.split)
    store = run(tokenize, folder, options.tokenize)

    rows = ledger(folder)
    report = Report(
        files=rows.files,
        totals=rows.totals,
        left_out=tuple(left_out),
        inputs=inputs(folder),
        configuration={**configuration(folder), "tokenize": asdict(options.tokenize)},
        overlap=divided.overlap,
        store=StoreSummary(STORE, store.digest, store.arrays),
        seconds=seconds,
    )
    path = folder.path / REPORT
    known = read_json_if_whole(path, Report)
    if known is not None and known.store.digest == store.digest:
        return known  # the times of the run that did the work say more than those of this one
    write_json(path, to_json(report))
    return report


def _same_kind_of_input(folder: OutputFolder, files: Sequence[InputFile]) -> None:
    """A folder that began with a simulation must not go on with files, nor the other way round."""
    conflict = folder.has_begun(SimulateRecord) if files else folder.has_begun(IngestRecord)
    if conflict:
        raise ConfigError(
            f"{folder.path}: was started with {'no' if files else 'an'} --input: "
            "use the same options, another --out, or remove the folder"
        )
