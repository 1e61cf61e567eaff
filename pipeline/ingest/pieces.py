"""A large bzip2 file of NDJSON, parsed piece by piece, each by a unit of its own.

A piece is a range of the file's bytes. Its unit decompresses the blocks that begin there, and parses the lines
that begin in their text: from behind its first line break (the first piece: from the start) to the first one
in the text of the blocks that follow. It counts its lines from 1; how many come before is known when all
pieces are parsed.

Pieces are joined only if they are all that reading the file from start to end would give: whole blocks one
after another, with the right checksums, of the bytes that were hashed. Anything else, be it damage, is left
to the reader of whole files (`pipeline.ingest.units.parse_files`), so that there is one way to fail.
"""

from __future__ import annotations

import bz2
import gc
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from pipeline.hashed_file import Blocks, FileDigest, HashedFile, LocalBytes, hash_all, open_hashed
from pipeline.ingest.bzip2_blocks import END, FIRST_BIT, NotBlocksError, combine, read_blocks
from pipeline.ingest.parts import Part, PartWriter
from pipeline.ingest.rejects import IngestRejects
from pipeline.ingest.units import ParsedFile, take_results
from pipeline.inputs import InputFile, RemoteInput
from pipeline.records import Record, to_json
from stores.measurements.atlas_json import MARK, SEEN, find_in_lines, is_ndjson, without_mark
from stores.measurements.atlas_result import Source, Statistic, make_parser
from stores.measurements.regular_file import changed, check_unchanged, open_regular

Range = tuple[int, int]
"""First byte of a piece, and the one after its last."""


class ParsedPiece(Record, frozen=True):
    """What `parse_piece` returns."""

    size: int
    blocks: Blocks
    """Of the file's bytes, all that were read."""
    checksums: list[tuple[int, int]]
    """(kind, checksum) of every block and end of a stream in the piece."""
    whole: bool
    """False: there was something else than blocks, and the rest says nothing."""
    lines: int
    rows: int
    accepted: int
    rejected: dict[str, int]
    parts: list[Part]


def cut(file: InputFile, longest: int) -> list[Range]:
    """The pieces of a file, of at most `longest` bytes; none if it is shorter, no bzip2 file of NDJSON, or on a
    server that gives no ranges of it.

    Each takes a quarter of what is left, within bounds: small ones at the end let all workers finish at about
    the same time, and more of them would cost more, as each piece reads a block more than it has.
    """
    if isinstance(file, RemoteInput) and not file.ranges:
        return []
    if file.size <= longest or not _is_ndjson(file):
        return []
    edges = [0]
    while (left := file.size - edges[-1]) > 0:
        edges.append(edges[-1] + min(left, longest, max(longest // 4, left // 4)))
    return list(pairwise(edges))


def parse_piece(
    file: InputFile,
    piece: Range,
    source: Source,
    allow_private: bool,
    statistic: Statistic,
    parts: Path,
    rejected: Path,
    stem: str,
    partitions: int,
) -> dict[str, Any]:
    """A unit: write the rows of a piece to `<parts>/<stem>-*.parquet`, its rejects to `<rejected>/<stem>.parquet`.

    Returns a `ParsedPiece` as JSON. Raises `InputError` for a file that is unreadable or has changed.
    """
    gc.freeze()  # as in `parse_files`
    rows = accepted = 0
    whole = True
    with (
        PartWriter(parts, stem, partitions) as part_writer,
        IngestRejects(rejected / f"{stem}.parquet") as rejects,
        _open_unchanged(file) as opened,
    ):
        text = _PieceText(opened, piece)
        part_writer.start_file(file.name)
        rejects.start_file(file.name)
        parse = make_parser(source, allow_private, statistic)
        try:
            found = find_in_lines(text.blocks())
            rows, accepted = take_results(found, parse, part_writer, rejects)
        except NotBlocksError:
            whole = False
    return to_json(
        ParsedPiece(
            opened.size,
            opened.blocks,
            text.checksums,
            whole,
            text.lines,
            rows,
            accepted,
            rejects.counts(),
            part_writer.parts,
        )
    )


def digest_input(file: InputFile) -> dict[str, Any]:
    """A unit: the hash of a file. Returns a `FileDigest` as JSON."""
    with _open_unchanged(file) as opened:
        return to_json(hash_all(opened))


def join(file: InputFile, digest: FileDigest, pieces: Sequence[ParsedPiece]) -> ParsedFile | None:
    """What the pieces of a file give together; `None` if they are not a whole file.

    Raises `InputError` unless all of them were read from the bytes that were hashed.
    """
    if not all(digest.holds(piece.size, piece.blocks) for piece in pieces):
        raise changed(file.path)
    if not all(piece.whole for piece in pieces):
        return None
    so_far, kind = 0, None
    for kind, checksum in (pair for piece in pieces for pair in piece.checksums):
        if kind != END:
            so_far = combine(so_far, checksum)
        elif checksum == so_far:
            so_far = 0
        else:
            return None
    if kind != END:
        return None
    rejected: Counter[str] = Counter()
    for piece in pieces:
        rejected.update(piece.rejected)
    return ParsedFile(
        file.name,
        file.size,
        digest.sha256,
        sum(piece.rows for piece in pieces),
        sum(piece.accepted for piece in pieces),
        dict(sorted(rejected.items())),
    )


class _PieceText:
    """The text of the lines that begin in a piece."""

    def __init__(self, file: HashedFile, piece: Range) -> None:
        self._file, (self._start, self._end) = file, piece
        self.lines = 0
        self.checksums: list[tuple[int, int]] = []

    def blocks(self) -> Iterator[bytes]:
        """Yield the text, never empty. Raises `NotBlocksError`."""
        begun = self._start == 0  # whether the first of its lines has
        for block in read_blocks(self._file, self._start):
            ours, text = block.bit < 8 * self._end, block.text
            if ours:
                self.checksums.append((block.kind, block.checksum))
            if not begun:
                if not ours:
                    return
                _, line_break, text = text.partition(b"\n")
                begun = bool(line_break)
            elif not ours:
                line, line_break, _ = text.partition(b"\n")
                text = line + line_break
            elif block.bit == FIRST_BIT:
                text = without_mark(text)
            if text:
                self.lines += text.count(b"\n")
                yield text
            if not ours and text.endswith(b"\n"):
                return


def _is_ndjson(file: InputFile) -> bool:
    """Whether a file is bzip2, and `find_results` would read its text as NDJSON."""
    with _open_unchanged(file) as opened:
        try:  # not `read_blocks`: its first call takes a third of a second, for which all workers would wait
            text = bz2.BZ2File(opened).read(SEEN + len(MARK))
        except (OSError, EOFError):
            return False
    return is_ndjson(without_mark(text))


@contextmanager
def _open_unchanged(file: InputFile) -> Iterator[HashedFile]:
    """Open a file that must be what it was when it was found, then and when it is closed."""
    if isinstance(file, RemoteInput):
        from pipeline.remote.reader import confirm

        with open_hashed(file) as opened:  # every request is for the object that was found
            yield opened
            confirm(file)
        return
    with open_regular(file.path) as descriptor:
        check_unchanged(file.path, descriptor, file.size, file.mtime_ns)
        yield HashedFile(file.path, LocalBytes(file.path, descriptor))
        check_unchanged(file.path, descriptor, file.size, file.mtime_ns)
