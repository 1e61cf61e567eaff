"""Files that another process may still be writing."""

from __future__ import annotations

from pathlib import Path

from stores.files import read_json_lines


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
