"""verify-store finds every kind of damage, names it, and goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from stores import TokenStore
from stores.errors import NotAStoreError
from stores.files import sha256_file
from stores.layout import SPLITS, chunk_file
from stores.manifest import ChunkFile, read_manifest, write_manifest
from stores.verify import verify_store
from tests.helpers import write_store


@pytest.fixture
def damaged(store_path: Path, tmp_path: Path) -> Path:
    """A copy of the sound store, to damage."""
    return Path(shutil.copytree(store_path, tmp_path / "store.zarr"))


def edit(
    path: Path, change: Callable[[np.ndarray], None], name: str = "tokens", **where: str
) -> Path:
    """Change a chunk file, and its digest in the manifest, so that only the content is wrong."""
    file = chunk_file(path, where.get("split", "train"), where.get("mode", "full"), name)
    values = np.fromfile(file, "<u2")
    change(values)
    values.tofile(file)
    manifest = read_manifest(path)
    described = ChunkFile(file.stat().st_size, sha256_file(file))
    files = manifest.files | {file.relative_to(path).as_posix(): described}
    write_manifest(path, replace(manifest, files=files))
    return file


def put(at: int, value: int) -> Callable[[np.ndarray], None]:
    def change(values: np.ndarray) -> None:
        values[at] = value

    return change


def test_sound_store_has_no_problems(store_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    report = verify_store(store_path, lambda done, total: seen.append((done, total)))
    assert report.problems == []
    assert report.sound
    manifest = read_manifest(store_path)
    assert report.digest == manifest.digest
    assert report.files == len(manifest.files)
    assert report.windows == sum(array.windows for array in manifest.arrays.values())
    assert report.measurements == 3 * (3000 + 400)
    total = sum(file.size for file in manifest.files.values())
    assert seen[-1] == (total, total)
    assert report.bytes == total


def test_one_flipped_bit_is_found_wherever_it_is(damaged: Path) -> None:
    rng = np.random.default_rng(0)
    for name in read_manifest(damaged).files:
        file = damaged / name
        content = bytearray(file.read_bytes())
        place = int(rng.integers(len(content)))
        content[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(content)
    problems = verify_store(damaged).problems
    for name in read_manifest(damaged).files:
        assert any(f"{damaged / name}: SHA-256" in problem for problem in problems), name


def test_missing_and_short_files_are_named_and_the_rest_is_still_checked(damaged: Path) -> None:
    missing = chunk_file(damaged, "train", "full", "tokens", 2)
    missing.unlink()
    short = chunk_file(damaged, "test", "none", "length")
    short.write_bytes(short.read_bytes()[:-2])
    flipped = chunk_file(damaged, "test", "mixed", "tokens", 1)
    flipped.write_bytes(b"\xff" + flipped.read_bytes()[1:])
    problems = verify_store(damaged).problems
    assert any(f"{missing}: No such file" in problem for problem in problems)
    assert any(f"{short}: 20 bytes, expected 22" in problem for problem in problems)
    assert any(f"{flipped}: SHA-256" in problem for problem in problems)
    assert any(
        "window 7: position 0: expected MEASUREMENT_START" in problem for problem in problems
    )
    assert len(problems) == 4


def test_bad_tokens_are_named_by_window_and_position(damaged: Path) -> None:
    edit(damaged, put(3 * 1024 + 1, 9))
    (problem,) = verify_store(damaged).problems
    assert problem.startswith(f"{damaged}/train/full: window 3: position 1: expected a field")
    assert "found THROUGHPUT_START, which is reserved" in problem


def test_many_bad_windows_are_counted_not_listed(damaged: Path) -> None:
    def change(values: np.ndarray) -> None:
        values[::1024] = 300

    edit(damaged, change)
    problems = verify_store(damaged).problems
    assert len(problems) == 4
    assert problems[-1].endswith("and 4 more such problems")


def test_tail_and_padding_must_be_zero(damaged: Path) -> None:
    edit(damaged, put(1023, 11), mode="none")
    last = (
        12 * 1024
    )  # 84 = 12 · 7 windows of train/full: none padded; 13 of test/full leave one row
    file = chunk_file(damaged, "test", "full", "tokens", 1)
    values = np.fromfile(file, "<u2")
    values[last // 2 + 5] = 1
    values[-1] = 1
    values.tofile(file)
    problems = verify_store(damaged).problems
    assert any("train/none: window 0: tokens past its length" in problem for problem in problems)
    assert any("test/full: padding rows after the last window" in problem for problem in problems)


def test_lengths_and_counts_that_differ_from_the_tokens_are_found(damaged: Path) -> None:
    edit(damaged, put(5, 3), "measurements")
    edit(damaged, put(4, 20), "length", mode="mixed")
    problems = "\n".join(verify_store(damaged).problems)
    assert "train/full: window 5:" in problems
    assert "but the measurements array says 3" in problems
    assert "train/full/measurements/c/0: adds up to" in problems
    assert "train/mixed: window 4: tokens past its length 20 are not zero" in problems
    assert "train/mixed/length/c/0: adds up to" in problems


def test_windows_of_another_mode_are_found(store_path: Path, tmp_path: Path) -> None:
    store = TokenStore.open(store_path)
    arrays = {}
    for split in SPLITS:
        for mode, content in (("full", "none"), ("none", "full"), ("mixed", "mixed")):
            _, tokens, lengths = next(store.blocks(split, content))
            arrays[split, mode] = tokens, lengths
    path = write_store(tmp_path / "store.zarr", arrays, {"train": 0, "test": 0})
    problems = "\n".join(verify_store(path).problems)
    assert "train/full: window 0: a measurement without time, but this is full" in problems
    assert "test/none: window 0: a measurement with time, but this is none" in problems
    assert "mixed: window" not in problems


def change_manifest(path: Path, **changes: object) -> None:
    write_manifest(path, replace(read_manifest(path), **changes))


def test_ledger_that_does_not_add_up_is_found(damaged: Path) -> None:
    ledger = read_manifest(damaged).ledger
    change_manifest(damaged, ledger=structs.replace(ledger, rejected={"bad_rtt": 4}))
    (problem,) = verify_store(damaged).problems
    assert problem == "ledger: 3403 rows in, but 3000 train + 400 test + 4 rejected"


def test_rows_that_are_not_in_every_mode_are_found(damaged: Path) -> None:
    ledger = read_manifest(damaged).ledger
    change_manifest(damaged, ledger=structs.replace(ledger, train=3001, rows=3404))
    problems = verify_store(damaged).problems
    assert problems == [
        f"ledger: train/{mode} holds 3000 measurements, expected 3001 rows × 1 passes"
        for mode in ("full", "none", "mixed")
    ]


def test_passes_multiply_the_measurements(damaged: Path) -> None:
    change_manifest(damaged, configuration={"tokenize": {"passes": 2}})
    assert len(verify_store(damaged).problems) == 6


def test_files_that_do_not_belong_are_named(damaged: Path) -> None:
    (damaged / "train" / ".tokens.123.tmp").write_bytes(b"")
    (problem,) = verify_store(damaged).problems
    assert problem == f"{damaged}/train/.tokens.123.tmp: not part of the store: remove it"


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("shape", [83, 1024], "shape (83, 1024), expected (84, 1024)"),
        ("data_type", "int16", "dtype <i2, expected <u2"),
        ("node_type", "group", "zarr cannot open the array"),
    ],
)
def test_zarr_metadata_that_differs_is_named(
    damaged: Path, key: str, value: object, problem: str
) -> None:
    file = damaged / "train" / "full" / "tokens" / "zarr.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    (found,) = verify_store(damaged).problems
    assert found.startswith(f"{file}: {problem}")


def test_missing_zarr_metadata_is_named(damaged: Path) -> None:
    file = damaged / "test" / "mixed" / "length" / "zarr.json"
    file.unlink()
    (found,) = verify_store(damaged).problems
    assert found.startswith(f"{file}: zarr cannot open the array")


def test_edited_manifest_is_one_problem(damaged: Path) -> None:
    text = (damaged / "zarr.json").read_text()
    (damaged / "zarr.json").write_text(text.replace('"bad_rtt": 3', '"bad_rtt": 4'))
    report = verify_store(damaged)
    assert report.digest is None
    assert len(report.problems) == 1
    assert "it was edited" in report.problems[0]


def test_unfinished_store_is_not_a_store(damaged: Path) -> None:
    (damaged / "zarr.json").unlink()
    with pytest.raises(NotAStoreError, match="no finished manifest"):
        verify_store(damaged)
