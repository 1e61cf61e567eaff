"""Measurements of the simulated Internet, with their truth.

Row j of a source is a pure function of the schedule and j, and its randomness comes from its block. So
blocks are independent units, and more rows with the same seed cover a longer time in the same world,
ending at the same moment.

    DIR/measurements/part-*.parquet   canonical table with prb_id, source after source
    DIR/truth/part-*.parquet          the same rows in the same order: keys, noise-free RTT, noise
    DIR/truth/world.npz               `stores.truth.World`: the truth about any pair of addresses
"""

from __future__ import annotations

import concurrent.futures
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.folder import OutputFolder, open_folder
from pipeline.measurements import PRB_ID, SCHEMA, SIMULATED
from pipeline.records import (
    MeasurementFile,
    Record,
    SimulateRecord,
    TableFile,
    read_results,
    to_json,
)
from pipeline.simulate.schedule import (
    ONE_OFF_SHARE,
    Schedule,
    build_internet,
    pair_paths,
)
from pipeline.simulate.summary import (
    BlockCounts,
    Rows,
    count_block,
    distinct_pairs,
    sum_marginals,
)
from pipeline.simulate.world import Hosts, quotas
from pipeline.units import Progress, Unit, run_units
from stores.errors import ConfigError
from stores.files import atomic_path, sha256_file, sync_file
from stores.truth import World

END = int(datetime(2025, 7, 1, tzinfo=UTC).timestamp())  # no row is later than this
LATE = 0.095  # of the time at its end: within the last tenth of rows, whatever the split's rounding
ROWS_PER_BLOCK = 250_000
MAX_DELAY = 3  # seconds that a probe may be late
PACKETS, PACKET_SIZE = 3, 64
ONE_LOST, TWO_LOST = 0.016, 0.004  # of answered pings: some packet lost; two of the three
BUILT_IN_ID, ONE_OFF_ID, PROBE_ID = 1_000, 10_000_000, 1_000  # first ids

MEASUREMENTS_SCHEMA = pa.schema([*SCHEMA, PRB_ID])
TRUTH_SCHEMA = pa.schema(
    [
        pa.field("event_time", pa.timestamp("us", tz="UTC")),
        pa.field("src_addr", pa.string()),
        pa.field("dst_addr", pa.string()),
        pa.field("noise_free_rtt_ms", pa.float64()),
        pa.field("jitter", pa.string()),  # name of the distribution of RTT - noise-free RTT
        pa.field("jitter_scale_ms", pa.float64()),  # also its median
        pa.field("jitter_shape", pa.float64()),
        pa.field("p_failed", pa.float64()),
    ]
)
_TEXT = ["src_addr", "dst_addr", "jitter"]
_REPEATED = [*_TEXT, "msm_id", "prb_id", "ip_version", "size", "packet_error_count"]
_REPEATED += ["noise_free_rtt_ms", "jitter_shape", "p_failed"]  # worth a Parquet dictionary


@dataclass(frozen=True)
class SimulateOptions:
    """What to simulate. The world depends on everything except `rows`; more rows cover more days of it."""

    rows: int = 2_000_000
    seed: int = 0
    networks: int = 96
    probes: int = 300
    """Each has an IPv4 address, and 73 % of them an IPv6 address too."""
    targets: int = 320
    """Each has an IPv4 address, and 75 % of them an IPv6 address too."""

    def __post_init__(self) -> None:
        for name, least, most in (
            ("rows", 1, 10**12),
            ("seed", 0, 2**63),
            ("networks", 16, 1_000),
            ("probes", 8, 100_000),
            ("targets", 32, 100_000),
        ):
            if not least <= (value := getattr(self, name)) <= most:
                raise ConfigError(f"simulate: {name} {value}: expected {least} to {most}")


class WrittenBlock(Record, frozen=True):
    """What `write_block` returns; paths are relative to the output folder."""

    measurements: str
    truth: str
    rows: int
    counts: BlockCounts
    sha256: str = ""
    """Of the measurements; earlier versions did not note it."""


def simulate(
    folder: OutputFolder,
    options: SimulateOptions,
    executor: concurrent.futures.Executor,
    progress: Progress,
) -> SimulateRecord:
    """Run the stage "simulate" in `folder` and return its record; compare its marginals to
    `pipeline.simulate.summary.MARGINALS`.

    The same options give the same bytes with any executor. Simulates about 1 M rows/s per core and takes
    170 MB per worker, whatever the number of rows. Raises `ConfigError` when the folder was made with
    other options.
    """
    noted = asdict(options)
    if (record := folder.begin(SimulateRecord, noted)) is not None:
        return record
    world, schedule = _internet(options)
    world.save(folder.path / "truth/world.npz")
    blocks = -(-options.rows // ROWS_PER_BLOCK)
    units = [
        Unit(f"block-{number:05d}", write_block, (options, folder.path, number))
        for number in range(blocks)
    ]
    markers = folder.scratch("simulate") / "units"
    results = run_units("simulate", units, markers, executor, progress)
    done = read_results(results, WrittenBlock, markers)
    counts = [block.counts for block in done]
    early, late = distinct_pairs(counts)
    pairs = np.union1d(early, late)
    targets = len(schedule.targets.text)
    record = SimulateRecord(
        options=noted,
        rows=options.rows,
        days=schedule.span(options.rows) / 86_400,
        outputs=tuple(
            MeasurementFile(
                b.measurements, (folder.path / b.measurements).stat().st_size, b.rows, b.sha256
            )
            for b in done
        ),
        truth=tuple(_table_file(folder.path, b.truth, b.rows) for b in done),
        sources=len(np.unique(pairs // targets)),
        destinations=len(np.unique(pairs % targets)),
        pairs=len(pairs),
        new_pairs_in_last_tenth=float((~np.isin(late, early)).sum() / max(1, len(late))),
        marginals=sum_marginals(counts),
    )
    return folder.finish(record)


def simulate_file(
    out: Path, options: SimulateOptions, executor: concurrent.futures.Executor, progress: Progress
) -> SimulateRecord:
    """Write the rows of `simulate` as one Parquet file `out`, and beside it `.truth.parquet` and
    `.world.npz` with the same stem. Returns the stage's record with these as `outputs`, `truth` and `world`.

    Works in a hidden folder beside `out`, so that it continues when it was killed and is run again.
    Raises `ConfigError` when `out` is a folder.
    """
    work = out.with_name(f".{out.name}.pinglm")
    truth, world = out.with_suffix(".truth.parquet"), out.with_suffix(".world.npz")
    if out.is_dir():
        raise ConfigError(
            f"--out {out}: is a folder: expected the name of the Parquet file to write"
        )
    with open_folder(work) as folder:
        record = simulate(folder, options, executor, progress)
        for parts, target in ((record.truth, truth), (record.outputs, out)):
            _join([work / part.path for part in parts], target, progress)
        with atomic_path(world) as temporary:
            shutil.copyfile(work / "truth/world.npz", temporary)
    for written in (out, truth, world):
        sync_file(written)
    shutil.rmtree(work)
    return msgspec.structs.replace(
        record,
        outputs=(_table_file(out.parent, out.name, options.rows),),
        truth=(_table_file(out.parent, truth.name, options.rows),),
        world=world.name,
    )


def write_block(options: SimulateOptions, folder: Path, number: int) -> dict[str, Any]:
    """A unit: write block `number` of rows and of truth. Returns a `WrittenBlock` as JSON."""
    first = number * ROWS_PER_BLOCK
    last = min(first + ROWS_PER_BLOCK, options.rows)
    world, schedule = _internet(options)
    rng = np.random.default_rng([options.seed, 4, number])
    rows = _plan_rows(rng, schedule, options.rows, first, last)

    sources, source_at = np.unique(rows.source, return_inverse=True)
    targets, target_at = np.unique(rows.target, return_inverse=True)
    grid = np.broadcast_to(targets, (len(sources), len(targets)))
    paths = pair_paths(world, schedule.sources, schedule.targets, sources, grid)
    paths = paths.take(source_at * len(targets) + target_at)

    truth = paths.at(rows.time)
    rtt = np.maximum(np.round(truth.quantile(rng.random(len(rows.time))), 3), 0.001)
    rtt[rng.random(len(rtt)) < truth.p_failed] = -1.0
    time = pa.array(rows.time * 1_000_000).cast(pa.timestamp("us", tz="UTC"))
    addresses = (_texts(schedule.sources, rows.source), _texts(schedule.targets, rows.target))
    names = (f"measurements/part-{number:05d}.parquet", f"truth/part-{number:05d}.parquet")
    _write(
        folder / names[0],
        MEASUREMENTS_SCHEMA,
        [
            np.where(rows.one_off, ONE_OFF_ID, BUILT_IN_ID) + rows.target,
            time,
            *addresses,
            np.where(schedule.sources.ipv6[rows.source], 6, 4),
            rtt,
            np.full(len(rtt), PACKET_SIZE),
            _packet_errors(rng, rtt),
            PROBE_ID + schedule.sources.machine[rows.source],
        ],
    )
    noise = [truth.noise_free_ms, truth.jitter_ms, truth.jitter_shape, truth.p_failed]
    name = pa.DictionaryArray.from_arrays(np.zeros(len(rtt), np.int32), ["log-logistic"])
    _write(folder / names[1], TRUTH_SCHEMA, [time, *addresses, noise[0], name, *noise[1:]])
    counts = count_block(schedule, rows, rtt, END - schedule.span(options.rows) / 10)
    digest = sha256_file(folder / names[0])
    return to_json(WrittenBlock(*names, last - first, counts, digest))


def _internet(options: SimulateOptions) -> tuple[World, Schedule]:
    return build_internet(options.seed, options.networks, options.probes, options.targets)


def _plan_rows(
    rng: np.random.Generator, schedule: Schedule, total: int, first: int, last: int
) -> Rows:
    """Rows `first` to `last` of `total`: who measures whom, and when.

    Each row of a source takes one period: either a turn of the rotation at its start, up to 3 s late, or a
    one-off at any time after that. So the times of a source strictly increase.
    """
    ends = np.cumsum(quotas(1 / schedule.period, total))
    row = np.arange(first, last)
    source = np.searchsorted(ends, row, side="right")
    turn = ends[source] - row  # 1: the source's last
    period = schedule.period[source]
    delay = rng.integers(0, MAX_DELAY + 1, len(row))
    one_off = rng.random(len(row)) < ONE_OFF_SHARE
    delay[one_off] = rng.integers(MAX_DELAY + 1, period[one_off])
    time = END - turn * period - schedule.phase[source] + delay

    length = schedule.rotation.shape[1]
    place = np.where(one_off, rng.integers(0, length, len(row)), turn % length)
    late = time >= END - LATE * schedule.span(total)
    lists = np.stack(  # by (one-off, late)
        [schedule.early_rotation, schedule.rotation, schedule.early_one_offs, schedule.one_offs]
    )
    return Rows(source, lists[one_off * 2 + late, source, place], time, one_off)


def _packet_errors(rng: np.random.Generator, rtt: NDArray[np.float64]) -> NDArray[np.int64]:
    """(n,) lost packets: all of a failed ping, occasionally one or two of an answered one."""
    luck = rng.random(len(rtt))
    lost = (luck < ONE_LOST).astype(np.int64) + (luck < TWO_LOST)
    return np.where(rtt < 0, PACKETS, lost)


def _texts(hosts: Hosts, index: NDArray[np.int64]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(index.astype(np.int32), hosts.text)


def _write(path: Path, schema: pa.Schema, columns: Sequence[Any]) -> None:
    """Write one Parquet part. Text is passed as dictionaries, and read back as plain strings."""
    table = pa.table(list(columns), names=schema.names)
    with atomic_path(path) as temporary, _writer(temporary, table.schema) as writer:
        writer.write_table(table)


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    repeated = [name for name in _REPEATED if name in schema.names]
    return pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        compression_level=1,
        use_dictionary=repeated,
        store_schema=False,
    )


def _join(parts: Sequence[Path], out: Path, progress: Progress) -> None:
    """Copy Parquet parts into one file, part by part, and mark it as simulated."""
    names = pq.read_schema(parts[0]).names
    text = [name for name in _TEXT if name in names]  # kept as dictionaries: faster
    schema = pq.ParquetFile(parts[0], read_dictionary=text).schema_arrow
    with atomic_path(out) as temporary, _writer(temporary, schema) as writer:
        writer.add_key_value_metadata({SIMULATED: b"true"})
        for number, part in enumerate(parts):
            progress(f"join {out.name}", number, len(parts))
            writer.write_table(pq.ParquetFile(part, read_dictionary=text).read())
        progress(f"join {out.name}", len(parts), len(parts))


def _table_file(folder: Path, path: str, rows: int) -> TableFile:
    return TableFile(path, (folder / path).stat().st_size, rows)
