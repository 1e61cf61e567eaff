"""Which files a user's paths mean, and under which names."""

from __future__ import annotations

import gzip
import os
import socket
from pathlib import Path

import pytest

from pipeline.inputs import InputFile, find_inputs, find_left_out
from stores.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.json", "sub/b.ndjson.gz", "sub/c.jsonl", "sub/deep/d.txt.zst", "sub/e.PARQUET"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "packed").write_bytes(gzip.compress(b""))
    (tmp_path / "object").write_text('\n {"a": 1}')
    (tmp_path / "sub/table").write_bytes(b"PAR1....")
    for name in ("README", "sub/notes.md", "sub/script.py", "sub/empty"):
        (tmp_path / name).write_text("" if "empty" in name else "import json")
    for name in (".hidden.json", ".git/config.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    (tmp_path / "data/.pinglm").mkdir(parents=True)
    (tmp_path / "data/report.json").write_text("{}")
    return tmp_path


def names(*paths: Path | str) -> list[str]:
    return [file.name for file in find_inputs(paths)]


def test_half_done_folders_know_a_local_file_by_this_text() -> None:
    """The markers of finished units hold a hash of it."""
    file = InputFile("/in/a.json", "a.json", 12, 34, "atlas")
    same = "InputFile(path='/in/a.json', name='a.json', size=12, mtime_ns=34, kind='atlas')"
    assert repr(file) == same


def test_a_folder_gives_its_result_files_and_names_the_others(folder: Path) -> None:
    taken = ["a.json", "object", "packed", "sub/b.ndjson.gz", "sub/c.jsonl", "sub/deep/d.txt.zst"]
    assert names(folder) == [*taken, "sub/e.PARQUET", "sub/table"]
    assert find_left_out([folder]) == ["README", "sub/empty", "sub/notes.md", "sub/script.py"]


def test_parquet_is_known_by_its_first_bytes_or_its_suffix(folder: Path) -> None:
    kinds = {file.name: file.kind for file in find_inputs([folder])}
    assert {name for name, kind in kinds.items() if kind == "parquet"} == {
        "sub/e.PARQUET",
        "sub/table",
    }


def test_a_named_file_is_accepted_whatever_it_is(folder: Path) -> None:
    assert names(folder / "README", folder / ".hidden.json") == [".hidden.json", "README"]


def test_globs_are_relative_to_their_fixed_part(folder: Path) -> None:
    assert names(f"{folder}/sub/*.json*") == ["c.jsonl"]
    assert names(f"{folder}/**/*.txt.*") == ["sub/deep/d.txt.zst"]
    assert names(f"{folder}/su?/deep") == ["sub/deep/d.txt.zst"]


def test_a_name_with_glob_characters_is_a_file_first(tmp_path: Path) -> None:
    (tmp_path / "a[1].json").write_text("{}")
    assert names(tmp_path / "a[1].json") == ["a[1].json"]


def test_each_file_comes_once_and_names_are_unique(folder: Path) -> None:
    assert names(folder, folder / "a.json", f"{folder}/*.json") == names(folder)
    (folder / "other").mkdir()
    (folder / "other/a.json").write_text("{}")
    parent = folder.name
    assert names(folder / "a.json", folder / "other/a.json") == sorted(
        [f"{parent}/a.json", "other/a.json"]
    )


def test_names_do_not_depend_on_where_the_folder_lies(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    moved = tmp_path_factory.mktemp("elsewhere") / "inputs"
    before = names(folder)
    folder.rename(moved)
    assert names(moved) == before


@pytest.mark.parametrize("missing", ["nothing.json", "no*.csv", "sub/nowhere"])
def test_a_path_that_matches_nothing_is_an_error(folder: Path, missing: str) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        find_inputs([folder / missing])


def test_a_folder_without_input_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("text")
    with pytest.raises(InputError, match="found no input files"):
        find_inputs([tmp_path])


def test_a_file_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.json").symlink_to(tmp_path / "gone.json")
    with pytest.raises(InputError, match=r"a\.json: cannot be read: No such file"):
        find_inputs([tmp_path])


@pytest.mark.timeout(20)
def test_pipes_and_devices_in_a_folder_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    os.mkfifo(tmp_path / "pipe.json")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device.json").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        for given in (tmp_path, f"{tmp_path}/*", f"{tmp_path}/**"):
            assert names(given) == ["a.json"]
            assert find_left_out([given]) == ["device.json", "pipe", "pipe.json", "socket"]


@pytest.mark.timeout(20)
def test_a_pipe_or_device_that_is_named_is_an_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(InputError, match=r"pipe\.json: is a pipe, expected a regular file"):
        find_inputs([tmp_path / "pipe.json"])
    with pytest.raises(InputError, match="/dev/zero: is a device, expected a regular file"):
        find_inputs(["/dev/zero"])


def test_names_that_print_alike_stay_apart(tmp_path: Path) -> None:
    for name in (b"\xff\xfe.json", rb"\xff\xfe.json", rb"\x5cxff.json", b"\\\xff.json"):
        (tmp_path / os.fsdecode(name)).write_text("{}")
    files = find_inputs([tmp_path])
    assert len({file.path for file in files}) == 4
    assert sorted(file.name for file in files) == [
        r"\\xff.json", r"\x5cx5cxff.json", r"\x5cxff\x5cxfe.json", r"\xff\xfe.json"
    ]  # fmt: skip


@pytest.mark.timeout(20)
@pytest.mark.parametrize("loops", [1, 3])
def test_a_glob_through_links_in_circles_takes_each_file_once(loops: int, tmp_path: Path) -> None:
    """With more than one circle, the paths that lead to a file are without number."""
    (tmp_path / "d/e").mkdir(parents=True)
    (tmp_path / "d/a.json").write_text("{}")
    (tmp_path / "d/e/b.json").write_text("{}")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/c.json").write_text("{}")
    for i in range(loops):
        (tmp_path / f"d/circle{i}").symlink_to(tmp_path / "d")
    (tmp_path / "d/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "d/same.json").symlink_to(tmp_path / "d/a.json")
    expected = ["a.json", "e/b.json", "link/c.json"]
    assert names(f"{tmp_path}/d/**/*.json") == expected
    assert names(f"{tmp_path}/d/**") == expected
    assert names(f"{tmp_path}/**/d/**/*.json") == [f"d/{name}" for name in expected]
    assert names(f"{tmp_path}/d/**/**/b.json", f"{tmp_path}/d/a.json") == ["a.json", "e/b.json"]


def test_a_link_to_itself_is_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "itself").symlink_to(tmp_path / "itself")
    assert names(f"{tmp_path}/**/*.json") == ["a.json"]


def test_two_stars_mean_what_they_mean_to_a_shell(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert names("**/*.json") == ["a.json", "data/report.json"]
    inside = ["b.ndjson.gz", "c.jsonl", "deep/d.txt.zst", "e.PARQUET", "table"]
    assert names("sub/**/") == inside
    assert names("sub/**/*") == sorted([*inside, "empty", "notes.md", "script.py"])
    assert names("sub/**/d*") == ["deep/d.txt.zst"]
    assert names(f"{folder}/**/deep/*") == ["sub/deep/d.txt.zst"]


def test_a_text_sequence_is_known_by_its_first_record(tmp_path: Path) -> None:
    (tmp_path / "sequence").write_bytes(b'\x1e{"a": 1}\n')
    (tmp_path / "marked").write_bytes(b'\xef\xbb\xbf[{"a": 1}]')
    assert names(tmp_path) == ["marked", "sequence"]
