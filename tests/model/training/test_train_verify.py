"""A store's content is compared with its digests: before training with `--verify`, otherwise meanwhile."""

from __future__ import annotations

import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

import model.training.content_check as content_check
from model.training.content_check import ContentCheck
from model.training.loop import train
from model.training.progress import TrainingProgress
from stores.errors import DamagedStoreError
from stores.layout import chunk_file
from stores.progress import Progress
from stores.reader import TokenStore
from stores.verify import check_content
from tests.model.conftest import assert_same_state, command, losses, run_train, small_config


def flip(store: Path) -> Path:
    """Flip a bit in a last tail, which nothing but a digest looks at; again, and it is mended. Returns the file."""
    file = chunk_file(store, "train", "none", "tokens")
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    return file


@pytest.fixture
def damaged(store: Path, tmp_path: Path) -> Path:
    copied = Path(shutil.copytree(store, tmp_path / "store.zarr"))
    flip(copied)
    return copied


class Notes(TrainingProgress):
    """Keeps what is said, and counts steps."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.steps = 0

    def note(self, text: str) -> None:
        self.said.append(text)

    def step(self, step: int) -> None:
        self.steps = step


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stores whose content was checked while a run trained."""
    seen: list[str] = []

    def noted(store: TokenStore, progress: Progress) -> None:
        check_content(store, progress)
        seen.append(store.name)

    monkeypatch.setattr(content_check, "check_content", noted)
    return seen


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Checks that do not end before they are left; set once one of them was."""
    left = threading.Event()

    def forever(store: TokenStore, progress: Progress) -> None:
        try:
            while True:
                progress(0, 10**9)
                time.sleep(0.01)
        finally:
            left.set()

    monkeypatch.setattr(content_check, "check_content", forever)
    return left


def test_a_flipped_bit_ends_the_run_before_it_begins(damaged: Path, tmp_path: Path) -> None:
    refused = run_train(damaged, tmp_path / "run", "--verify")
    assert refused.returncode == 1
    file = chunk_file(damaged, "train", "none", "tokens")
    assert refused.stderr.startswith(f"error: {file}: SHA-256 is ")
    assert refused.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_without_verify_it_ends_the_run_while_it_trains(damaged: Path, tmp_path: Path) -> None:
    ended = run_train(damaged, tmp_path / "run", steps=100_000)
    assert ended.returncode == 1
    file = chunk_file(damaged, "train", "none", "tokens")
    assert ended.stderr.startswith(f"error: {file}: SHA-256 is ")
    assert "prepare the store again, then run the same command again: it continues" in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert ended.stdout == ""


def test_what_is_found_after_the_last_step_is_said_and_the_run_continues_with_a_sound_store(
    damaged: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, last_save = tmp_path / "run", tmp_path / "run" / "checkpoints" / "5"

    def late(store: TokenStore, progress: Progress) -> None:
        while not last_save.exists():
            progress(0, 1)
            time.sleep(0.01)
        check_content(store, progress)

    config = small_config(steps=5)
    with monkeypatch.context() as patch:
        patch.setattr(content_check, "check_content", late)
        with pytest.raises(DamagedStoreError, match="SHA-256 is"):
            train(config, damaged, out)
    assert not (out / "result.json").exists()
    with pytest.raises(
        DamagedStoreError, match="SHA-256 is"
    ):  # a run that is continued checks again
        train(config, damaged, out)
    flip(damaged)
    assert train(config, damaged, out).finished
    train(config, store, tmp_path / "undisturbed")
    assert_same_state(out, tmp_path / "undisturbed")


def test_a_sound_store_is_checked_once_and_nothing_else_changes(
    store: Path, tmp_path: Path, checks: list[str]
) -> None:
    config, notes = small_config(steps=10), Notes()
    train(config, store, tmp_path / "checked", progress=notes)
    assert checks == [str(store)]
    assert not [said for said in notes.said if "digests" in said]
    train(config, store, tmp_path / "verified", verified=True)
    train(config, store, tmp_path / "checked")
    assert checks == [str(store)], "checked twice, or a finished run checked"
    assert_same_state(tmp_path / "checked", tmp_path / "verified")
    assert losses(tmp_path / "checked") == losses(tmp_path / "verified")


def test_a_short_run_does_not_wait_long_for_a_large_store_and_says_so(
    store: Path, tmp_path: Path, endless: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content_check, "PATIENCE", 0.1)
    notes = Notes()
    assert train(small_config(steps=5), store, tmp_path / "run", progress=notes).finished
    said = [line for line in notes.said if "digests" in line]
    assert len(said) == 1
    assert said[0].startswith("only 0.0 of 1.0 GB of the store were compared")
    assert endless.is_set()


def test_a_signal_does_not_wait_for_the_check(
    store: Path, tmp_path: Path, endless: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content_check, "PATIENCE", 200.0)

    class Preempted(Notes):
        def step(self, step: int) -> None:
            if step == 3:
                signal.raise_signal(signal.SIGTERM)

    began = time.monotonic()
    result = train(small_config(), store, tmp_path / "run", progress=Preempted())
    assert time.monotonic() - began < 100
    assert (result.finished, result.stopped_by, result.steps) == (False, "SIGTERM", 3)
    assert endless.is_set()


def test_leaving_ends_a_check_that_rests(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content_check, "RATE", 1.0)  # after the first file, it rests for hours
    began = time.monotonic()
    with ContentCheck(TokenStore.open(store)) as check:
        time.sleep(0.2)
        check.raise_damage()
    assert time.monotonic() - began < 10


def test_a_run_that_has_taken_its_last_step_lets_the_check_rest_no_more(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content_check, "RATE", 1.0)
    monkeypatch.setattr(content_check, "PATIENCE", 60.0)
    notes = Notes()
    began = time.monotonic()
    with ContentCheck(TokenStore.open(store)) as check:
        check.finish(notes)
    assert time.monotonic() - began < 30
    assert notes.said == []


def test_a_file_that_cannot_be_read_is_damage(store: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(store, tmp_path / "store.zarr"))
    opened = TokenStore.open(copied)
    file = chunk_file(copied, "test", "mixed", "tokens")
    file.unlink()
    with ContentCheck(opened) as check:
        with pytest.raises(DamagedStoreError, match="cannot be read") as raised:
            check.finish(Notes())
        assert str(raised.value).startswith(f"{file}: ")


def test_a_sound_store_is_trained_on_and_says_that_it_was_verified(
    store: Path, tmp_path: Path
) -> None:
    line = command(store, tmp_path / "run", "--verify", steps=2)
    line.remove("--json")
    done = subprocess.run(line, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert f"verifying every file of {store}" in done.stderr
