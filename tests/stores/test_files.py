"""Files that another process may still be writing, and files that a loss of power must not empty."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from stores.errors import InputError, OutputError
from stores.files import aligned, parse_json, read_json_lines, write_json, write_past_cache
from tests.helpers import Writes


def test_json_lines_are_read_in_order(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n')
    assert read_json_lines(path) == [{"step": 1}, {"step": 2}]


def test_a_last_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    for rest in ('{"ste', '{"step": 2}'):
        path.write_text('{"step": 1}\n' + rest)
        assert read_json_lines(path) == [{"step": 1}]
    path.write_bytes(b'{"step": 1}\n{"a": "\xc3')  # in the middle of a character
    assert read_json_lines(path) == [{"step": 1}]


def test_no_file_and_an_empty_one_hold_no_lines(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    assert read_json_lines(path) == []
    path.touch()
    assert read_json_lines(path) == []


def test_zeros_after_the_last_whole_line_are_left_out(tmp_path: Path) -> None:
    """What a loss of power leaves where the file system had only noted the new size."""
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"step": 1}\n' + bytes(40) + b"\n")
    assert read_json_lines(path) == [{"step": 1}]


@pytest.mark.parametrize("line", ["", "{", "7", "[" * 100_000, '{"a": 1}{"b": 2}'])
def test_a_bad_line_between_good_ones_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n{{"step": 3}}\n')
    with pytest.raises(InputError, match=r"lines\.jsonl: line 2 is not a JSON object: remove"):
        read_json_lines(path)


def test_json_is_on_disk_before_its_name_and_the_name_before_anything_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = Writes(monkeypatch)
    write_json(tmp_path / "new" / "a.json", {"b": "ü"})
    assert writes.durable(tmp_path / "new" / "a.json")
    assert (tmp_path / "new" / "a.json").read_text() == '{\n "b": "ü"\n}\n'


def test_a_record_that_cannot_be_synced_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    (tmp_path / "a.json").write_text("old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputError, match=r"/a\.json: cannot write: Input/output error"):
        write_json(tmp_path / "a.json", {})
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "old"


def test_a_name_that_is_not_utf8_is_written_and_read_back(tmp_path: Path) -> None:
    """The result of a run, for example, holds the name of its folder."""
    value = {"run": os.fsdecode(b"run-\xff")}
    write_json(tmp_path / "a.json", value)
    assert parse_json((tmp_path / "a.json").read_bytes()) == value


@pytest.mark.parametrize("size", [0, 1, 4096, 3 << 20, (3 << 20) + 2])
@pytest.mark.parametrize("refused", [False, True])
def test_what_is_written_past_the_cache_is_whole(
    size: int, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    if refused:
        monkeypatch.setattr(os, "write", refuse)
    data = aligned(size)
    data[:] = np.random.default_rng(size).integers(0, 256, size)
    path = tmp_path / "new" / "chunk"
    write_past_cache(path, data.data)
    assert path.read_bytes() == data.tobytes()
    assert [file.name for file in path.parent.iterdir()] == ["chunk"]


def test_what_cannot_be_written_past_the_cache_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="chunk: cannot write"):
        write_past_cache(tmp_path / "file" / "chunk", aligned(4096).data)
