"""bzip2 files, block by block: every block can be decompressed without those before it.

A file is one stream or several, each padded to whole bytes:

    "BZh" and a level, (block mark, checksum, bits)..., end mark, checksum of all blocks

Marks are 48 bits long and begin at any bit. They say where a block begins, not how long it is; so a block
is what lies between two marks, and that it is one shows when it decompresses: its checksum must be right,
and its last symbol just before the next mark. Bits that look like a mark inside a block, which chance puts
into one of 17 TB, make it fail like damage.

gzip has no blocks that can be decompressed on their own. Readers that guess their way in exist (rapidgzip),
but give one stream in one process; as decompressing gzip is a small part of ingesting it, and parsing the
large one, that would gain little.
"""

from __future__ import annotations

import bz2
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.hashed_file import BLOCK as READ_AT_ONCE
from pipeline.hashed_file import HashedFile
from stores.measurements.compiled import compiled

BLOCK, END = 0, 1
"""What begins at a mark."""

_BLOCK_MARK, _END_MARK = 0x314159265359, 0x177245385090
_MARK_BITS, _CHECKSUM_BITS = 48, 32
_HEADER_BYTES = 4
FIRST_BIT = 8 * _HEADER_BYTES
"""Where the first block of a file begins."""
_INSIDE = np.zeros(256, np.bool_)  # bytes that can be the third last of those in which a mark lies
for _shift in range(8):
    for _mark in (_BLOCK_MARK, _END_MARK):
        _INSIDE[_mark << _shift >> 16 & 0xFF] = True
_MAX_BYTES = 2 << 20  # of a compressed block; 900 kB of random bytes take 904 kB


class NotBlocksError(Exception):
    """The bytes are not whole bzip2 blocks one after another."""


@dataclass(frozen=True)
class Block:
    """A block, or the end of a stream."""

    kind: int
    bit: int  # where it begins in the file
    checksum: int  # of this block, or for an end of all blocks of the stream
    text: bytes  # empty for an end


def read_blocks(file: HashedFile, start: int) -> Iterator[Block]:
    """Yield all blocks and ends of streams that begin at byte `start` or later, in order; a few MiB are held.

    Raises `NotBlocksError` where a block does not decompress, where something stands between streams or
    after the last, where a stream has another level than the first, and at the end of a file that is cut off.
    """
    file.seek(0)
    header = file.read(_HEADER_BYTES)
    if header[:3] != b"BZh" or header[3:] not in b"123456789":
        raise NotBlocksError
    first = start == 0
    for bit, end, bits in _between_marks(file, start):
        body = end - bit - _MARK_BITS - _CHECKSUM_BITS
        if body < 0 or (first and bit != FIRST_BIT):
            raise NotBlocksError
        first = False
        kind = BLOCK if bits >> (end - bit - _MARK_BITS) == _BLOCK_MARK else END
        checksum = bits >> body & ((1 << _CHECKSUM_BITS) - 1)
        if kind == BLOCK:
            if end == 8 * file.size:
                raise NotBlocksError  # an end mark is missing
            yield Block(kind, bit, checksum, _decompress(header, bits, end - bit, checksum))
        else:
            after = -(-(end - body) // 8) * 8  # where the padding ends
            last = end == 8 * file.size
            following = b"" if last else (bits & 0xFFFFFFFF).to_bytes(len(header))
            if after + 8 * len(following) != end or following not in (b"", header):
                raise NotBlocksError
            yield Block(kind, bit, checksum, b"")


def combine(before: int, checksum: int) -> int:
    """The checksum of a stream's blocks (0 for none), and one block more."""
    return (before << 1 & 0xFFFFFFFF | before >> 31) ^ checksum


def _decompress(header: bytes, bits: int, length: int, checksum: int) -> bytes:
    """The text of a block of `length` bits, as a stream of its own."""
    stream = (bits << _MARK_BITS | _END_MARK) << _CHECKSUM_BITS | checksum
    length += _MARK_BITS + _CHECKSUM_BITS
    padding = -length % 8
    decompressor = bz2.BZ2Decompressor()
    try:
        text = decompressor.decompress(
            header + (stream << padding).to_bytes((length + padding) // 8)
        )
    except (OSError, ValueError, EOFError) as error:
        raise NotBlocksError from error
    if not decompressor.eof or decompressor.unused_data:
        raise NotBlocksError
    return text


def _between_marks(file: HashedFile, start: int) -> Iterator[tuple[int, int, int]]:
    """Yield (first bit, bit after the last, bits) of what begins with each mark from byte `start` on."""
    held, base = b"", start  # bytes of the file from `base` on
    scanned = 0  # bytes of `held` at which all marks that begin there are known
    mark = -1  # the bit of the last one
    while True:
        file.seek(base + len(held))
        more = file.read(READ_AT_ONCE)
        held += more
        known = max(scanned, len(held) - _MARK_BITS // 8)
        for place in find_marks(np.frombuffer(held, np.uint8), scanned, known).tolist():
            bit = 8 * base + place
            if mark >= 0:
                yield mark, bit, _bits(held, mark - 8 * base, bit - 8 * base)
            mark = bit
        if not more:
            if mark >= 0:
                end = 8 * len(held)
                yield mark, 8 * base + end, _bits(held, mark - 8 * base, end)
            return
        keep = known if mark < 0 else mark // 8 - base
        if len(held) - keep > _MAX_BYTES + READ_AT_ONCE:
            raise NotBlocksError
        held, base, scanned = held[keep:], base + keep, known - keep


def _bits(data: bytes, start: int, end: int) -> int:
    """Bits `start` to `end` - 1 of `data` as one number."""
    last = -(-end // 8)
    value = int.from_bytes(data[start // 8 : last]) >> (8 * last - end)
    return value & ((1 << (end - start)) - 1)


@compiled
def find_marks(data: NDArray[np.uint8], start: int, stop: int) -> NDArray[np.int64]:
    """Bits of `data` at which a mark begins, ascending, (n,), from byte `start` to before byte `stop`.

    `data` must go on for 6 bytes after `stop`.
    """
    found = []
    window = np.uint64(0)  # the last eight bytes
    mask = np.uint64((1 << _MARK_BITS) - 1)
    for i in range(start, min(stop + _MARK_BITS // 8, len(data))):
        window = window << np.uint64(8) | np.uint64(data[i])
        if _INSIDE[data[i - 2]]:
            for shift in range(7, -1, -1):
                word = window >> np.uint64(shift) & mask
                bit = 8 * (i + 1) - shift - _MARK_BITS
                known = word == np.uint64(_BLOCK_MARK) or word == np.uint64(_END_MARK)
                if known and 8 * start <= bit < 8 * stop:
                    found.append(bit)
    return np.array(found, np.int64)
