"""The first step of `ingest`: every input file parsed, in batches of files or in pieces of a large file."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.hashed_file import FileDigest
from pipeline.ingest.parts import Part
from pipeline.ingest.pieces import ParsedPiece, cut, digest_input, join, parse_piece
from pipeline.ingest.units import ParsedBatch, ParsedFile, parse_files
from pipeline.inputs import InputFile
from pipeline.records import read_results
from pipeline.units import Progress, Unit, run_units
from stores.measurements.atlas_result import Source, Statistic

STEP = "ingest: parse"

Batch = tuple[InputFile, ...]
Rules = tuple[Source, bool, Statistic]
"""How a result becomes a row: the arguments of `make_parser`."""


@dataclass(frozen=True)
class NumberedPart:
    """A part that counts rows from 1 where its piece of a file begins, which is after `lines` lines."""

    part: Part
    lines: int


@dataclass(frozen=True)
class PieceRejects:
    """Where a piece that begins after `lines` lines of its file left its rejects, and what they are to be."""

    source: Path
    lines: int
    output: Path


@dataclass
class Parsed:
    """What all input files gave, in order."""

    files: list[ParsedFile] = field(default_factory=list)
    parts: list[NumberedPart] = field(default_factory=list)
    rejects: list[PieceRejects] = field(default_factory=list)
    """Those that are not in DIR/rejected yet."""


@dataclass(frozen=True)
class _Work:
    """A batch: one unit, or, where its file is cut, also one for its hash and one for each piece."""

    batch: Batch
    whole: Unit
    digest: Unit | None
    pieces: list[Unit]


def parse_inputs(
    batches: Sequence[Batch],
    longest: int,
    rules: Rules,
    scratch: Path,
    rejected: Path,
    partitions: int,
    executor: concurrent.futures.Executor,
    progress: Progress,
) -> Parsed:
    """Parse all files into parts in `<scratch>/parts`; rejects go to `rejected`, those of pieces to scratch.

    A file of more than `longest` bytes is cut into pieces where it can be. If these turn out not to be all
    of the file, it is read again from start to end, which then says what is wrong with it. Raises `InputError`
    for a file that is unreadable, damaged, cut off or changed.
    """
    markers = scratch / "units"
    work = [
        _work(i, batch, longest, rules, scratch, rejected, partitions)
        for i, batch in enumerate(batches)
    ]
    todo = [unit for item in work for unit in _units(item)]
    results = run_units(STEP, todo, markers, executor, progress)
    result_of = {unit.name: result for unit, result in zip(todo, results, strict=True)}

    joined: dict[str, tuple[ParsedFile, list[ParsedPiece]]] = {}  # by name of the whole's unit
    again = []
    for item in work:
        if item.digest is not None:
            [digest] = read_results([result_of[item.digest.name]], FileDigest, markers)
            found = [result_of[unit.name] for unit in item.pieces]
            pieces = read_results(found, ParsedPiece, markers)
            file = join(item.batch[0], digest, pieces)
            if file is None:
                again.append(item.whole)
            else:
                joined[item.whole.name] = file, pieces
    if again:
        results = run_units(STEP, again, markers, executor, progress)
        result_of |= {unit.name: result for unit, result in zip(again, results, strict=True)}

    parsed = Parsed()
    for item in work:
        if item.whole.name in joined:
            file, pieces = joined[item.whole.name]
            parsed.files.append(file)
            lines = 0
            for unit, piece in zip(item.pieces, pieces, strict=True):
                parsed.parts += [NumberedPart(part, lines) for part in piece.parts]
                name = f"{unit.arguments[-2]}.parquet"
                parsed.rejects.append(
                    PieceRejects(scratch / "rejects" / name, lines, rejected / f"ingest-{name}")
                )
                lines += piece.lines
        else:
            [batch] = read_results([result_of[item.whole.name]], ParsedBatch, markers)
            parsed.files += batch.files
            parsed.parts += [NumberedPart(part, 0) for part in batch.parts]
    return parsed


def _work(
    number: int,
    batch: Batch,
    longest: int,
    rules: Rules,
    scratch: Path,
    rejected: Path,
    partitions: int,
) -> _Work:
    parts, stem = scratch / "parts", f"{number:05d}"
    arguments: tuple[Any, ...] = (batch, *rules, parts, rejected, stem, partitions)
    whole = Unit(f"parse-{stem}", parse_files, arguments)
    # A whole that is finished is what an earlier version left, or what was read again.
    finished = (scratch / "units" / f"{whole.name}.json").exists()
    ranges = cut(batch[0], longest) if len(batch) == 1 and not finished else []
    if not ranges:
        return _Work(batch, whole, None, [])
    pieces = []
    for i, piece in enumerate(ranges):
        own = f"{stem}-{i:05d}"
        arguments = (batch[0], piece, *rules, parts, scratch / "rejects", own, partitions)
        pieces.append(Unit(f"parse-{own}", parse_piece, arguments))
    return _Work(batch, whole, Unit(f"hash-{stem}", digest_input, (batch[0],)), pieces)


def _units(work: _Work) -> list[Unit]:
    return [work.whole] if work.digest is None else [work.digest, *work.pieces]
