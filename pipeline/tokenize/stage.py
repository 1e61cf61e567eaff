"""The tokenize stage: from the shards of the split to the token store, in all three modes.

    plan    windows of every shard, mode and pass             one unit per shard
    encode  chunk files, each written whole by one unit       one unit per group of shards
    finish  lengths, measurements, zarr metadata, manifest

An array holds one pass after another, and within a pass one shard after another. A segment is one shard in
one pass: the plan gives its number of windows, and so its first row in the array. A unit writes the chunk
files that begin in its shards, and reads on into the following shards to complete the last of them.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
from dataclasses import asdict, dataclass
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.folder import OutputFolder
from pipeline.provenance import configuration, inputs, ledger
from pipeline.records import (
    OutputFile,
    SplitRecord,
    TokenizeRecord,
    read_results,
    to_json,
)
from pipeline.tokenize.chunks import Piece, WrittenChunks, write_chunks
from pipeline.tokenize.shard_reader import read_sizes
from pipeline.tokenize.streams import lay_out
from pipeline.units import Progress, Unit, run_units
from stores.errors import ConfigError, InputError
from stores.files import sync_file, write_arrays, write_bytes
from stores.layout import (
    MODES,
    VALIDATION,
    chunk_file,
    windows_per_chunk,
    write_array_metadata,
)
from stores.manifest import (
    FORMAT_VERSION,
    VALIDATION_FORMAT_VERSION,
    ArrayTotals,
    ChunkFile,
    Manifest,
    write_manifest,
)
from stores.vocabulary import VOCABULARY_VERSION

STORE = "store.zarr"
_ROWS_PER_UNIT = 4_000_000  # a unit reads about one shard more than its own


@dataclass(frozen=True)
class TokenizeOptions:
    """seed: of every shuffle and coin. passes: differently shuffled copies of the data, one after another."""

    seed: int = 0
    passes: int = 1

    def __post_init__(self) -> None:
        if self.passes < 1:
            raise ConfigError(f"--passes {self.passes}: expected 1 or more")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"--seed {self.seed}: expected 0 to 2^63 - 1")


@dataclass(frozen=True)
class _Segment:
    """One shard in one pass of one mode: array rows first to first + windows - 1."""

    shard: int
    pass_: int
    first: int
    windows: int


def tokenize(
    folder: OutputFolder,
    options: TokenizeOptions,
    executor: concurrent.futures.Executor,
    progress: Progress,
) -> TokenizeRecord:
    """Write DIR/store.zarr from DIR/splits; return the record.

    Each worker holds one shard, and one open chunk of 16 MiB per mode and pass. Raises `InputError` when the
    split is not finished, and `ConfigError` when the folder was started with other options.
    """
    split = folder.record(SplitRecord)
    if split is None:
        raise InputError(f"{folder.path}: no finished split here: run `split` or `prepare` first")
    noted = {**asdict(options), "split": [split.options, to_json(split.totals), to_json(split.cut)]}
    record = folder.begin(TokenizeRecord, noted)
    if record is not None:
        return record

    store, scratch = folder.path / STORE, folder.scratch(TokenizeRecord.STAGE)
    (store / "zarr.json").unlink(missing_ok=True)  # what is rewritten below is no store meanwhile
    shards = {s: [folder.path / shard.path for shard in split.shards[s]] for s in split.splits}
    plans = _plan(shards, options, scratch, executor, progress)
    segments = {
        (side, mode): _segments(plans[side], mode, options.passes)
        for side, mode in product(split.splits, MODES)
    }
    windows = {key: sum(s.windows for s in parts) for key, parts in segments.items()}
    rows = {s: [shard.rows for shard in split.shards[s]] for s in split.splits}
    units = _encode_units(shards, rows, segments, windows, store, options)
    results = run_units("tokenize: encode", units, scratch / "units", executor, progress)
    written = read_results(results, WrittenChunks, scratch / "units")

    files = {path: file for result in written for path, file in result.files.items()}
    arrays: dict[str, ArrayTotals] = {}
    for (side, mode), parts in segments.items():
        arrays[f"{side}/{mode}"], small = _write_counts(store, scratch, side, mode, parts)
        files.update(small)
    write_array_metadata(store, windows)
    manifest = Manifest(
        VALIDATION_FORMAT_VERSION if VALIDATION in split.splits else FORMAT_VERSION,
        VOCABULARY_VERSION,
        {**configuration(folder), "tokenize": asdict(options)},
        list(inputs(folder)),
        ledger(folder).totals,
        arrays,
        dict(sorted(files.items())),
        split.overlap.kinds,
    )
    for path in manifest.files:
        sync_file(store / path)
    write_manifest(store, manifest)
    outputs = tuple(OutputFile(f"{STORE}/{p}", file.size) for p, file in sorted(files.items()))
    return folder.finish(
        TokenizeRecord(options=noted, digest=manifest.digest, arrays=arrays, outputs=outputs)
    )


def plan_shard(shard: Path, options: TokenizeOptions, out: Path) -> dict[str, Any]:
    """A unit: write the lengths and measurements of one shard's windows, by mode and pass, as .npz.

    Returns the number of windows by "mode-pass".
    """
    sizes, streams = read_sizes(shard)
    arrays: dict[str, NDArray[np.uint16]] = {}
    for mode, pass_ in product(MODES, range(options.passes)):
        windows = lay_out(sizes, streams, mode, options.seed, pass_, shuffled=False)
        counts = np.diff(windows.starts).astype(np.uint16)
        arrays[f"{mode}-{pass_}"] = np.stack([windows.lengths, counts])
    write_arrays(out, arrays)
    return {name: array.shape[1] for name, array in arrays.items()}


def _plan(
    shards: dict[str, list[Path]],
    options: TokenizeOptions,
    scratch: Path,
    executor: concurrent.futures.Executor,
    progress: Progress,
) -> dict[str, list[dict[str, int]]]:
    """Number of windows by "mode-pass", of every shard of each split."""
    units = [
        Unit(f"plan-{s}-{i:04d}", plan_shard, (path, options, _plan_file(scratch, s, i)))
        for s in shards
        for i, path in enumerate(shards[s])
    ]
    found = run_units("tokenize: plan", units, scratch / "units", executor, progress)
    results = iter(read_results(found, dict[str, int], scratch / "units"))
    return {s: list(islice(results, len(shards[s]))) for s in shards}


def _plan_file(scratch: Path, split: str, shard: int) -> Path:
    return scratch / "plan" / f"{split}-{shard:04d}.npz"


def _segments(plans: list[dict[str, int]], mode: str, passes: int) -> list[_Segment]:
    segments = []
    first = 0
    for pass_, (shard, plan) in product(range(passes), enumerate(plans)):
        windows = plan[f"{mode}-{pass_}"]
        segments.append(_Segment(shard, pass_, first, windows))
        first += windows
    return segments


def _encode_units(
    shards: dict[str, list[Path]],
    rows: dict[str, list[int]],
    segments: dict[tuple[str, str], list[_Segment]],
    windows: dict[tuple[str, str], int],
    store: Path,
    options: TokenizeOptions,
) -> list[Unit]:
    units = []
    for split in shards:
        group = (np.cumsum(rows[split]) - 1) // _ROWS_PER_UNIT  # of each shard
        pieces: dict[int, list[Piece]] = {}
        for mode in MODES:
            for unit, piece in _pieces(segments[split, mode], windows[split, mode], mode, group):
                pieces.setdefault(unit, []).append(piece)
        for unit, own in sorted(pieces.items()):
            # our own shards first, each read once; then those that complete the last chunks
            own.sort(key=lambda p: (group[p.shard] != unit, p.shard, p.mode, p.pass_, p.start))
            read = {piece.shard: shards[split][piece.shard] for piece in own}
            arguments = (store, split, read, own, options.seed)
            # earlier versions' units, named differently, were given all shards
            units.append(Unit(f"chunks-{split}-{unit:04d}", write_chunks, arguments))
    return units


def _pieces(
    segments: list[_Segment], windows: int, mode: str, group: NDArray[np.int64]
) -> list[tuple[int, Piece]]:
    """Each chunk cut at the segments it spans; the unit is that of the segment it begins in."""
    size = windows_per_chunk(windows)
    pieces = []
    unit = 0
    for segment in segments:
        row = segment.first
        end = segment.first + segment.windows
        while row < end:
            chunk, offset = divmod(row, size)
            if offset == 0:
                unit = int(group[segment.shard])
            stop = min(end, (chunk + 1) * size)
            start = row - segment.first
            piece = Piece(
                segment.shard,
                mode,
                segment.pass_,
                start,
                start + stop - row,
                chunk,
                offset,
                min(size, windows - chunk * size),
                size,
            )
            pieces.append((unit, piece))
            row = stop
    return pieces


def _write_counts(
    store: Path, scratch: Path, split: str, mode: str, segments: list[_Segment]
) -> tuple[ArrayTotals, dict[str, ChunkFile]]:
    """Write the `length` and `measurements` arrays; return the totals and the files written, by path."""
    parts = [np.empty((2, 0), "<u2")]
    for segment in segments:
        with np.load(_plan_file(scratch, split, segment.shard)) as plan:
            parts.append(plan[f"{mode}-{segment.pass_}"].astype("<u2"))
    counts = np.concatenate(parts, axis=1)
    files = {}
    for name, values in zip(("length", "measurements"), counts, strict=True):
        data = values.tobytes() or bytes(2)  # an empty array has one chunk of one fill value
        path = chunk_file(store, split, mode, name)
        write_bytes(path, data)
        digest = hashlib.sha256(data).hexdigest()
        files[path.relative_to(store).as_posix()] = ChunkFile(len(data), digest)
    totals = counts.sum(axis=1, dtype=np.int64).tolist()
    windows = counts.shape[1]
    array = ArrayTotals(
        windows=windows,
        windows_per_chunk=windows_per_chunk(windows),
        measurements=totals[1],
        tokens=totals[0],
    )
    return array, files
