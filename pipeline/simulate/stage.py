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
from pipeline.measurements import PRB_ID, SCHEMA
from pipeline.records import Record, SimulateRecord, TableFile, read_results, to_json
from pipeline.simulate.schedule import (
    ONE_OFF_SHARE,
    RTT_QUANTILES,
    Schedule,
    build_internet,
    pair_paths,
)
from pipeline.simulate.world import Hosts, quotas
from pipeline.units import Progress, Unit, run_units
from stores.errors import ConfigError
from stores.files import atomic_path
from stores.truth import World

MARGINALS = {
    "ipv4": 0.577,
    "failed": 0.035,
    **{f"rtt_p{percent}_ms": rtt for percent, rtt in RTT_QUANTILES.items()},
    "gap_p50_s": 60.0,
    "gap_p90_s": 180.0,
    "gap_p99_s": 600.0,
}
"""Marginals of the corpus that the simulated Internet imitates; it matches them to within 15 %."""

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

_RTT_EDGES = np.geomspace(0.01, 1e6, 2001)  # ms, 0.9 % apart
_MAX_GAP = 2000  # seconds that gaps are counted up to


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


class BlockCounts(Record, frozen=True):
    """Counts of a block of rows, which add up over blocks."""

    ipv4: int
    failed: int
    rtt: list[int]
    """Answers by `_RTT_EDGES`."""
    gap: list[int]
    """Gaps within a source, by seconds."""
    early_pairs: list[int]
    """Distinct pairs before the last tenth of the time, and in it."""
    late_pairs: list[int]


class WrittenBlock(Record, frozen=True):
    """What `write_block` returns; paths are relative to the output folder."""

    measurements: str
    truth: str
    rows: int
    counts: BlockCounts


@dataclass(frozen=True)
class Rows:
    """A block of rows, each field (rows,)."""

    source: NDArray[np.int64]  # host index, see `Schedule`
    target: NDArray[np.int64]
    time: NDArray[np.int64]  # Unix seconds
    one_off: NDArray[np.bool_]


def simulate(
    folder: OutputFolder,
    options: SimulateOptions,
    executor: concurrent.futures.Executor,
    progress: Progress,
) -> SimulateRecord:
    """Run the stage "simulate" in `folder` and return its record; compare its marginals to `MARGINALS`.

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
    early, late = _distinct_pairs(counts)
    pairs = np.union1d(early, late)
    targets = len(schedule.targets.text)
    record = SimulateRecord(
        options=noted,
        rows=options.rows,
        days=schedule.span(options.rows) / 86_400,
        outputs=tuple(_table_file(folder.path, b.measurements, b.rows) for b in done),
        truth=tuple(_table_file(folder.path, b.truth, b.rows) for b in done),
        sources=len(np.unique(pairs // targets)),
        destinations=len(np.unique(pairs % targets)),
        pairs=len(pairs),
        new_pairs_in_last_tenth=float((~np.isin(late, early)).sum() / max(1, len(late))),
        marginals=_marginals(counts),
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
    counts = _counts(schedule, rows, rtt, END - schedule.span(options.rows) / 10)
    return to_json(WrittenBlock(*names, last - first, counts))


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
    """Copy Parquet parts into one file, part by part."""
    names = pq.read_schema(parts[0]).names
    text = [name for name in _TEXT if name in names]  # kept as dictionaries: faster
    schema = pq.ParquetFile(parts[0], read_dictionary=text).schema_arrow
    with atomic_path(out) as temporary, _writer(temporary, schema) as writer:
        for number, part in enumerate(parts):
            progress(f"join {out.name}", number, len(parts))
            writer.write_table(pq.ParquetFile(part, read_dictionary=text).read())
        progress(f"join {out.name}", len(parts), len(parts))


def _table_file(folder: Path, path: str, rows: int) -> TableFile:
    return TableFile(path, (folder / path).stat().st_size, rows)


# --- Summary ----------------------------------------------------------------------------------------


def _counts(
    schedule: Schedule, rows: Rows, rtt: NDArray[np.float64], last_tenth: float
) -> BlockCounts:
    gaps = np.diff(rows.time)[rows.source[1:] == rows.source[:-1]]
    pair = rows.source * len(schedule.targets.text) + rows.target
    early = rows.time < last_tenth
    return BlockCounts(
        ipv4=int((~schedule.sources.ipv6[rows.source]).sum()),
        failed=int((rtt < 0).sum()),
        rtt=np.histogram(rtt[rtt >= 0], _RTT_EDGES)[0].tolist(),
        gap=np.bincount(np.minimum(gaps, _MAX_GAP), minlength=_MAX_GAP + 1).tolist(),
        early_pairs=np.unique(pair[early]).tolist(),
        late_pairs=np.unique(pair[~early]).tolist(),
    )


def _distinct_pairs(
    counts: Sequence[BlockCounts],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Distinct pairs before the last tenth of the time, and in it, over all blocks; ascending."""
    early = np.concatenate([np.array(block.early_pairs, np.int64) for block in counts])
    late = np.concatenate([np.array(block.late_pairs, np.int64) for block in counts])
    return np.unique(early), np.unique(late)


def _marginals(counts: Sequence[BlockCounts]) -> dict[str, float]:
    """The marginals that `MARGINALS` names, from the counts of all blocks."""
    rtt = np.sum([block.rtt for block in counts], axis=0)
    gap = np.sum([block.gap for block in counts], axis=0)
    failed = sum(block.failed for block in counts)
    rows = failed + rtt.sum()
    marginals = {"ipv4": sum(block.ipv4 for block in counts) / rows, "failed": failed / rows}
    for name in list(MARGINALS)[2:]:
        kind, percent, _ = name.split("_")
        histogram, values = (rtt, _RTT_EDGES) if kind == "rtt" else (gap, np.arange(len(gap) + 1))
        marginals[name] = _percentile(histogram, values, float(percent[1:]))
    return {name: float(value) for name, value in marginals.items()}


def _percentile(histogram: NDArray[np.int64], edges: NDArray[Any], percent: float) -> float:
    """Lower edge of the bin that holds the percentile; 0 where nothing was counted."""
    total = np.cumsum(histogram)
    return float(edges[np.searchsorted(total, total[-1] * percent / 100)]) if total[-1] else 0.0
