"""A folder is claimed by one process at a time, and only if nothing foreign lies in it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from stores.errors import ConfigError, OutputError
from stores.folder_lock import claim_folder


def claim(path: Path) -> AbstractContextManager[None]:
    return claim_folder(path, marker="mark", lock=".lock", foreign="is foreign", busy="is busy")


def test_a_new_an_empty_and_an_own_folder_can_be_claimed(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    with claim(path):
        assert (path / ".lock").is_file()
    with claim(path):  # holds the lock file only
        (path / "mark").touch()
        (path / "data").touch()
    with claim(path):
        pass


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    for path in (tmp_path, tmp_path / "data"):
        with pytest.raises(OutputError, match=f"^{path}: is foreign$"), claim(path):
            pass
    assert [child.name for child in tmp_path.iterdir()] == ["data"]


def test_a_folder_is_claimed_once_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with claim(path), pytest.raises(ConfigError, match=f"^{path}: is busy$"), claim(path):
        pass
    with claim(path):
        pass


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be made or written"), claim(tmp_path / "file/in"):
        pass
