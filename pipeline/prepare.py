"""All stages in a row: input files, or a simulated Internet, to a finished token store."""

from __future__ import annotations

import concurrent.futures
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pipeline.folder import OutputFolder
from pipeline.ingest.stage import IngestOptions, ingest
from pipeline.inputs import InputFile
from pipeline.provenance import configuration, inputs, ledger
from pipeline.simulate.stage import SimulateOptions, simulate
from pipeline.split.stage import SplitOptions, own_tables, split, tables_of
from pipeline.tokenize.stage import STORE, TokenizeOptions, tokenize
from pipeline.units import Progress
from stores.errors import ConfigError
from stores.files import write_json

REPORT = "report.json"


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
) -> dict[str, Any]:
    """Run what is not finished yet of all stages; write and return DIR/report.json.

    Without `files`, the input is the simulated Internet. Parquet files are taken as measurement tables,
    all others as RIPE Atlas results.
    """
    seconds: dict[str, float] = {}

    def run(stage: str, function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
        start = time.monotonic()
        record = function(*arguments, executor, progress)
        seconds[stage] = round(time.monotonic() - start, 3)
        return record

    _same_kind_of_input(folder, files)
    results = [file for file in files if file.kind == "atlas"]
    tables = tables_of([file for file in files if file.kind == "parquet"])
    if results:
        run("ingest", partial(ingest, left_out=left_out), results, folder, options.ingest)
    elif not tables:
        run("simulate", simulate, folder, options.simulate)
    divided = run("split", split, [*own_tables(folder), *tables], folder, options.split)
    store = run("tokenize", tokenize, folder, options.tokenize)

    report = {
        **ledger(folder),
        "left_out": list(left_out),
        "inputs": inputs(folder),
        "configuration": {**configuration(folder), "tokenize": store["options"]},
        "overlap": divided["overlap"],
        "store": {"path": STORE, "digest": store["digest"], "arrays": store["arrays"]},
        "seconds": seconds,
    }
    before = folder.path / REPORT
    if before.exists():  # an earlier run's times say more than those of finding everything finished
        known = json.loads(before.read_bytes())
        if known["store"]["digest"] == store["digest"]:
            return known
    write_json(before, report)
    return report


def _same_kind_of_input(folder: OutputFolder, files: Sequence[InputFile]) -> None:
    """A folder that began with a simulation must not go on with files, nor the other way round."""
    for stage, conflict in (("simulate", bool(files)), ("ingest", not files)):
        if conflict and (folder.record(stage) or folder.scratch(stage).exists()):
            raise ConfigError(
                f"{folder.path}: was started with {'no' if files else 'an'} --input: "
                "use the same options, another --out, or remove the folder"
            )
