"""A folder is claimed by one process at a time, and only if nothing foreign lies in it."""

from __future__ import annotations

import fcntl
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

import pytest

from stores.errors import ConfigError, OutputError
from stores.folder_lock import claim_folder, take_turn


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


def test_a_lock_that_its_holder_removes_at_the_end_is_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes next would make another one, and lock that."""
    path = tmp_path / "folder"
    flock = fcntl.flock

    def flock_late(file: IO[str], operation: int) -> None:
        (path / ".lock").unlink()
        flock(file, operation)

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", flock_late)
        with pytest.raises(ConfigError, match=f"^{path}: is busy$"), claim(path):
            pass
    with claim(path):
        pass


def test_turns_are_taken_one_after_the_other_and_waiting_names_the_holder(tmp_path: Path) -> None:
    lock, told, order = tmp_path / "deep/er/lock", list[str](), list[str]()

    def second() -> None:
        with take_turn(lock, waiting=told.append):
            order.append("second")

    with take_turn(lock, waiting=told.append):
        assert told == []
        thread = threading.Thread(target=second)
        thread.start()
        deadline = time.monotonic() + 60
        while not told and time.monotonic() < deadline:
            time.sleep(0.01)
        order.append("first")
    thread.join(60)
    assert order == ["first", "second"]
    assert told == [f"process {os.getpid()} on {socket.gethostname()}"]


def test_a_holder_is_waited_for_as_long_as_it_makes_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "lock"
    with take_turn(lock, waiting=lambda holder: None) as get_on:
        clock = Clock(get_on, times=5)
        monkeypatch.setattr("stores.folder_lock.time", clock)
        with (
            pytest.raises(ConfigError) as raised,
            take_turn(lock, waiting=lambda holder: None, patience=1000),
        ):
            pass
    assert clock.minutes == 5 * 15 + 30
    me = f"process {os.getpid()} on {socket.gethostname()}"
    assert str(raised.value).startswith(f"{lock}: {me} holds it, but has not got on for 17 minutes")


class Clock:
    """A quarter of an hour passes with each sleep; during the first ones the holder of a lock makes progress."""

    def __init__(self, get_on: Callable[[], None], times: int) -> None:
        self.minutes = 0
        self._get_on = get_on
        self._times = times

    def monotonic(self) -> float:
        return 60.0 * self.minutes

    def sleep(self, seconds: float) -> None:
        self.minutes += 15
        if self.minutes <= 15 * self._times:
            time.sleep(0.02)  # the times of files are that coarse
            self._get_on()


def test_a_lock_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(OutputError, match="cannot be made or written"),
        take_turn(tmp_path / "file/lock", waiting=lambda holder: None),
    ):
        pass
