"""`train --verify`: a store's content is checked before anything is learned from it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from stores.layout import chunk_file
from tests.model.conftest import command, run_train


def test_a_flipped_bit_ends_the_run_before_it_begins(store: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(store, tmp_path / "store.zarr"))
    file = chunk_file(damaged, "train", "none", "tokens")
    data = bytearray(file.read_bytes())
    data[-3] ^= 1  # a last tail: without --verify, nothing looks at it
    file.write_bytes(data)
    refused = run_train(damaged, tmp_path / "run", "--verify")
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"error: {file}: SHA-256 is ")
    assert refused.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_sound_store_is_trained_on_and_says_that_it_was_verified(
    store: Path, tmp_path: Path
) -> None:
    line = command(store, tmp_path / "run", "--verify", steps=2)
    line.remove("--json")
    done = subprocess.run(line, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert f"verifying every file of {store}" in done.stderr
