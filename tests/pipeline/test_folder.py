"""Records in an output folder: what is on disk stays as earlier versions wrote it, and damage is one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.folder import WORK_VERSION, open_folder
from pipeline.records import OutputFile, SplitRecord, TokenizeRecord, read_results
from pipeline.split.shards import ShardPart, WrittenShard
from stores.errors import ConfigError, OutputError

OPTIONS: dict[str, Any] = {"seed": 0, "passes": 1}


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A folder with a finished stage, whose record was written by hand as an earlier version would."""
    (tmp_path / ".pinglm").mkdir()
    (tmp_path / "a.bin").write_bytes(b"four")
    record = {
        "stage": "tokenize",
        "options": {"version": WORK_VERSION, **OPTIONS},
        "digest": "5c0e",
        "arrays": {
            "train/full": {"windows": 1, "windows_per_chunk": 1, "measurements": 2, "tokens": 40}
        },
        "outputs": [{"path": "a.bin", "size": 4}],
    }
    (tmp_path / ".pinglm/tokenize.json").write_text(json.dumps(record))
    return tmp_path


def test_the_record_of_an_earlier_version_is_recognised_and_written_the_same(
    finished: Path,
) -> None:
    before = json.loads((finished / ".pinglm/tokenize.json").read_bytes())
    with open_folder(finished) as folder:
        record = folder.begin(TokenizeRecord, OPTIONS)
        assert record is not None
        assert record.outputs == (OutputFile("a.bin", 4),)
        assert folder.finish(record) == record
    assert json.loads((finished / ".pinglm/tokenize.json").read_bytes()) == before


def test_other_options_are_refused(finished: Path) -> None:
    with (
        open_folder(finished) as folder,
        pytest.raises(ConfigError, match="started with passes 1, not 2"),
    ):
        folder.begin(TokenizeRecord, {**OPTIONS, "passes": 2})


@pytest.mark.parametrize("text", ["", "{", "[]", '{"stage": "tokenize"}', '{"stage": "split"}'])
def test_a_damaged_record_is_one_line_that_names_the_file(finished: Path, text: str) -> None:
    (finished / ".pinglm/tokenize.json").write_text(text)
    with (
        open_folder(finished) as folder,
        pytest.raises(
            OutputError, match=r"tokenize\.json: damaged.*remove the output folder"
        ) as error,
    ):
        folder.record(TokenizeRecord)
    assert "\n" not in str(error.value)


LOST = ["", "{", "\0" * 64, '{"stage": "tokenize", "opt', "[" * 100_000]
"""What a loss of power, or worse, may leave of a record."""


@pytest.mark.parametrize("text", LOST)
def test_a_lost_record_is_a_fresh_start(finished: Path, text: str) -> None:
    (finished / ".pinglm/tokenize.json").write_text(text)
    with open_folder(finished) as folder:
        assert folder.begin(TokenizeRecord, OPTIONS) is None
        assert folder.record(TokenizeRecord) is None
        assert folder.begin(TokenizeRecord, OPTIONS) is None  # continues


@pytest.mark.parametrize("text", LOST)
def test_lost_options_are_a_fresh_start(tmp_path: Path, text: str) -> None:
    with open_folder(tmp_path / "out") as folder:
        folder.begin(TokenizeRecord, OPTIONS)
        scratch = folder.scratch("tokenize")
        (scratch / "options.json").write_text(text)
        (scratch / "unit").touch()
        assert folder.begin(TokenizeRecord, {**OPTIONS, "seed": 1}) is None
        assert not (scratch / "unit").exists()
        assert json.loads((scratch / "options.json").read_bytes())["options"]["seed"] == 1


def test_a_lost_record_makes_the_stages_after_it_unfinished_too(finished: Path) -> None:
    (finished / ".pinglm/split.json").write_text("")
    with open_folder(finished) as folder:
        assert folder.begin(SplitRecord, {}) is None
        assert folder.record(TokenizeRecord) is None


@pytest.mark.parametrize("text", ["[]", '{"stage": "tokenize"}', '{"stage": "split"}'])
def test_a_record_that_another_version_may_have_written_is_refused(
    finished: Path, text: str
) -> None:
    (finished / ".pinglm/tokenize.json").write_text(text)
    with (
        open_folder(finished) as folder,
        pytest.raises(OutputError, match=r"tokenize\.json: damaged"),
    ):
        folder.begin(TokenizeRecord, OPTIONS)
    assert (finished / ".pinglm/tokenize.json").read_text() == text


def test_an_unfinished_stage_notes_its_options_and_continues(tmp_path: Path) -> None:
    with open_folder(tmp_path / "out") as folder:
        assert not folder.has_begun(TokenizeRecord)
        assert folder.begin(TokenizeRecord, OPTIONS) is None
        assert folder.begin(TokenizeRecord, OPTIONS) is None
        assert folder.has_begun(TokenizeRecord)
        noted = json.loads((folder.scratch("tokenize") / "options.json").read_bytes())
        assert set(noted) == {"options", "boot"}
        assert noted["options"] == {"version": WORK_VERSION, **OPTIONS}
        with pytest.raises(ConfigError, match="started with seed 0, not 1"):
            folder.begin(TokenizeRecord, {**OPTIONS, "seed": 1})


def test_results_of_units_are_read_with_their_types(tmp_path: Path) -> None:
    results = [{"rows": 3, "size": 9, "time": [1, 2], "files": {"7": {"rows": 3, "duplicate": 0}}}]
    assert read_results(results, WrittenShard, tmp_path) == [
        WrittenShard(rows=3, size=9, time=(1, 2), files={7: ShardPart(3, 0)})
    ]
    with pytest.raises(OutputError, match=r"a finished unit is damaged.*`rows`"):
        read_results([{"size": 9}], WrittenShard, tmp_path)
