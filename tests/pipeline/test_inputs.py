"""Which files a user's paths mean, and under which names."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from pipeline.inputs import find_inputs, find_left_out
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


def test_a_named_file_is_taken_whatever_it_is(folder: Path) -> None:
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
