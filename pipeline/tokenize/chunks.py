"""A unit of encoding: chunk files of the `tokens` arrays, each written whole, once, by one writer."""

from __future__ import annotations

import concurrent.futures
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.records import Record, to_json
from pipeline.tokenize.encoder import encode_windows
from pipeline.tokenize.shard_reader import Shard, read_shard
from pipeline.tokenize.streams import Windows, lay_out
from stores.files import aligned, start_writeback, write_past_cache
from stores.layout import chunk_file
from stores.manifest import ChunkFile
from stores.vocabulary import CONTEXT


class WrittenChunks(Record, frozen=True):
    """What `write_chunks` returns: chunk files by path relative to the store."""

    files: dict[str, ChunkFile]


@dataclass(frozen=True)
class Piece:
    """Windows `start` to `stop` - 1 of a shard in one mode and pass, and their place in the array."""

    shard: int
    mode: str
    pass_: int
    start: int
    stop: int
    chunk: int  # chunk file of the array
    row: int  # its row that takes the first window
    chunk_rows: int  # rows of this chunk that hold windows; the rest of the file is zero
    chunk_size: int  # rows of the file


def write_chunks(
    store: Path, split: str, shards: dict[int, Path], pieces: list[Piece], seed: int
) -> dict[str, Any]:
    """A unit: encode `pieces`, grouped by shard, into the chunk files they make up; `shards` has their shards.

    Returns `WrittenChunks` as JSON. Holds one shard and the chunks that are not complete yet; a thread
    hashes and writes one chunk while the next is encoded.
    """
    files: dict[str, ChunkFile] = {}
    buffers: list[NDArray[np.uint16]] = []  # written, free for the next chunk
    open_chunks: dict[tuple[str, int], _Chunk] = {}
    with concurrent.futures.ThreadPoolExecutor(1) as writer:
        writing: concurrent.futures.Future[NDArray[np.uint16]] | None = None
        for piece, shard, windows in _lay_out(shards, pieces, seed):
            key = piece.mode, piece.chunk
            chunk = open_chunks.get(key)
            if chunk is None:
                chunk = open_chunks[key] = _Chunk(_buffer(buffers, piece), piece.chunk_rows)
            encode_windows(
                shard.fields,
                windows.rows,
                windows.timed,
                windows.starts[piece.start : piece.stop + 1],
                chunk.buffer[piece.row : piece.row + piece.stop - piece.start],
            )
            chunk.missing -= piece.stop - piece.start
            if chunk.missing == 0:
                if writing is not None:
                    buffers.append(writing.result())
                path = chunk_file(store, split, piece.mode, "tokens", piece.chunk)
                writing = writer.submit(_write, store, path, chunk.buffer, files)
                del open_chunks[key]
        if writing is not None:
            writing.result()
    assert not open_chunks, sorted(open_chunks)
    return to_json(WrittenChunks(files))


@dataclass
class _Chunk:
    buffer: NDArray[np.uint16]
    missing: int  # windows not yet encoded


def _lay_out(
    shards: dict[int, Path], pieces: list[Piece], seed: int
) -> Iterator[tuple[Piece, Shard, Windows]]:
    """Pieces with their shard, read once, and its windows, laid out once."""
    for index, of_shard in groupby(pieces, key=lambda piece: piece.shard):
        shard = read_shard(shards[index])
        for (mode, pass_), run in groupby(of_shard, key=lambda piece: (piece.mode, piece.pass_)):
            windows = lay_out(shard.fields, shard.streams, mode, seed, pass_)
            for piece in run:
                yield piece, shard, windows


def _write(
    store: Path, path: Path, buffer: NDArray[np.uint16], files: dict[str, ChunkFile]
) -> NDArray[np.uint16]:
    write_past_cache(path, buffer.data)
    start_writeback(path)
    digest = hashlib.sha256(buffer.data).hexdigest()
    files[path.relative_to(store).as_posix()] = ChunkFile(buffer.nbytes, digest)
    return buffer


def _buffer(free: list[NDArray[np.uint16]], piece: Piece) -> NDArray[np.uint16]:
    """Memory for a piece's chunk, zero past its last window. Buffers are reused, because touching fresh
    pages costs as much as encoding into them."""
    shape = (piece.chunk_size, CONTEXT)
    match = next((i for i, buffer in enumerate(free) if buffer.shape == shape), None)
    if match is None:
        buffer = aligned(2 * piece.chunk_size * CONTEXT).view("<u2").reshape(shape)
    else:
        buffer = free.pop(match)
    buffer[piece.chunk_rows :] = 0
    return buffer
