"""bzip2 files block by block: the text of all levels and streams; what looks like a mark; what is refused."""

from __future__ import annotations

import bz2
import random
from pathlib import Path

import numpy as np
import pytest

from pipeline.hashed_file import open_hashed
from pipeline.ingest.bzip2_blocks import BLOCK, END, Block, NotBlocksError, find_marks, read_blocks

MARKS = 0x314159265359, 0x177245385090


def blocks(packed: bytes, folder: Path, start: int = 0) -> list[Block]:
    path = folder / "a.bz2"
    path.write_bytes(packed)
    with open_hashed(path) as file:
        return list(read_blocks(file, start))


def text_of(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size // 2).hex().encode()


@pytest.mark.parametrize("level", [1, 5, 9])
@pytest.mark.parametrize("size", [0, 1, 99_000, 1_000_000])
def test_the_blocks_are_the_text(level: int, size: int, tmp_path: Path) -> None:
    text = text_of(size, size)
    found = blocks(bz2.compress(text, level), tmp_path)
    assert b"".join(block.text for block in found) == text
    assert [block.kind for block in found[:-1]] == [BLOCK] * (len(found) - 1)
    assert found[-1].kind == END
    assert len(found) >= 1 + size // (100_000 * level)


def test_streams_one_after_another_are_one_text(tmp_path: Path) -> None:
    texts = [text_of(1, 250_000), b"", b"x", text_of(2, 150_000)]
    found = blocks(b"".join(bz2.compress(text, 1) for text in texts), tmp_path)
    assert b"".join(block.text for block in found) == b"".join(texts)
    assert sum(block.kind == END for block in found) == 4


def test_blocks_from_the_middle_are_those_that_begin_there(tmp_path: Path) -> None:
    packed = bz2.compress(text_of(3, 2_000_000), 1) + bz2.compress(text_of(4, 300_000), 1)
    everything = blocks(packed, tmp_path)
    for start in (4, 5, len(packed) // 3, len(packed) // 2, len(packed) - 10, len(packed)):
        later = [block for block in everything if block.bit >= 8 * start]
        assert blocks(packed, tmp_path, start) == later


@pytest.mark.parametrize("shift", range(8))
def test_marks_are_found_at_every_bit(shift: int) -> None:
    rng = random.Random(shift)
    for mark in MARKS:
        bits = (rng.getrandbits(200) << 48 | mark) << 160 + shift | rng.getrandbits(160 + shift)
        data = np.frombuffer(bits.to_bytes(60), np.uint8)
        at = 480 - 160 - shift - 48
        assert find_marks(data, 0, 54).tolist() == [at]
        assert find_marks(data, at // 8, at // 8 + 1).tolist() == [at]
        assert find_marks(data, 0, at // 8).tolist() == []
        assert find_marks(data, at // 8 + 1, 54).tolist() == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda packed: packed[:-1],
        lambda packed: packed[: len(packed) // 2],
        lambda packed: packed + b"\0",
        lambda packed: packed + b"BZh1",
        lambda packed: packed + bz2.compress(b"x", 2),  # of another level
        lambda packed: packed + b"x" + packed,
        lambda packed: b"BZh0" + packed[4:],
        lambda packed: packed[:4] + b"x" + packed[5:],
        lambda packed: packed[:12] + b"x" + packed[13:],  # the checksum
        lambda packed: packed[:30_000] + bytes(100) + packed[30_100:],
        lambda packed: packed[:200] + bytes(6 << 20),
        lambda packed: b"BZh1",
    ],
)
def test_what_is_not_blocks_from_end_to_end_is_refused(damage: object, tmp_path: Path) -> None:
    assert callable(damage)
    packed = damage(bz2.compress(text_of(5, 300_000), 1))
    if packed == b"BZh1":
        assert blocks(packed, tmp_path) == []  # without an end
    else:
        with pytest.raises(NotBlocksError):
            blocks(packed, tmp_path)
