"""Input files as streams: what padding and members give, and files that change while they are read."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from pipeline.input_stream import open_input
from pipeline.inputs import find_inputs
from stores.errors import InputError
from stores.measurements.decompress import BLOCK

PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": lambda text: gzip.compress(text, 1),
    ".bz2": lambda text: bz2.compress(text, 1),
    ".zst": lambda text: zstandard.compress(text, 1),
}


def content(path: Path) -> bytes:
    """The whole text; the digest must be that of the file."""
    [file] = find_inputs([path])
    with open_input(file) as stream:
        text = b"".join(stream.blocks())
    assert stream.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    return text


def halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\n{}")


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-100, os.SEEK_END)
        file.write(b"{}")
    os.utime(path)


@pytest.mark.parametrize("change", [halve, append, overwrite])
@pytest.mark.parametrize("suffix", PACK)
def test_a_file_that_changes_while_it_is_read_is_named(
    suffix: str, change: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / f"a.json{suffix}"
    path.write_bytes(PACK[suffix](random.Random(0).randbytes(3 * BLOCK)))
    [file] = find_inputs([path])
    with open_input(file) as stream:
        blocks = stream.blocks()
        assert len(next(blocks)) == BLOCK
        change(path)
        with pytest.raises(InputError, match=r"a\.json.*: changed since this run began"):
            list(blocks)


@pytest.mark.parametrize("zeros", [1, 7, 512, 100_000])
def test_zeros_after_a_gzip_member_are_padding(zeros: int, tmp_path: Path) -> None:
    path = tmp_path / "a.json.gz"
    member = gzip.compress(b'{"a": 1}\n')
    path.write_bytes(member + bytes(zeros))
    assert content(path) == b'{"a": 1}\n'
    path.write_bytes(member + bytes(zeros) + member)
    assert content(path) == b'{"a": 1}\n' * 2
    path.write_bytes(member + bytes(zeros) + b"x")
    with pytest.raises(InputError, match=r"a\.json\.gz: damaged or cut-off gzip file"):
        content(path)


@pytest.mark.parametrize("suffix", PACK)
def test_blocks_are_full_but_for_the_last(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.json{suffix}"
    text = random.Random(1).randbytes(2 * BLOCK + 5)
    path.write_bytes(PACK[suffix](text))
    [file] = find_inputs([path])
    with open_input(file) as stream:
        assert [len(block) for block in stream.blocks()] == [BLOCK, BLOCK, 5]
    assert content(path) == text


@pytest.mark.parametrize("suffix", [suffix for suffix in PACK if suffix])
def test_members_may_be_empty(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.json{suffix}"
    pack = PACK[suffix]
    for texts in ([b""], [b"", b"", b"x"], [b"x", b"", b"y"], [b"x", b"", b""]):
        path.write_bytes(b"".join(map(pack, texts)))
        assert content(path) == b"".join(texts)


@pytest.mark.parametrize("suffix", [".bz2", ".zst"])
@pytest.mark.parametrize("rubbish", [b"x", b"rubbish behind the last member", bytes(700)])
def test_what_follows_a_member_must_be_another(suffix: str, rubbish: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"a.json{suffix}"
    path.write_bytes(PACK[suffix](b"{}") + rubbish)
    with pytest.raises(InputError, match=r"a\.json.*: damaged or cut-off"):
        content(path)
