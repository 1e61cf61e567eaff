"""Tables that change while they are read: never rows under a hash that is not theirs, never a silent death."""

from __future__ import annotations

import concurrent.futures
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.folder import open_folder
from pipeline.hashed_file import BLOCK, hash_file, open_hashed
from pipeline.inputs import find_inputs
from pipeline.records import SplitRecord
from pipeline.split import stage
from pipeline.split.stage import SplitOptions, split, tables_of
from stores.errors import InputError
from stores.files import sha256_file
from tests.pipeline.conftest import no_progress
from tests.pipeline.tables import measurement_table, write_parquet

ROOT = Path(__file__).parents[3]


class InTurn(concurrent.futures.Executor):
    """Runs each unit when it is submitted; calls `between` after the first few of them."""

    def __init__(self, units: int = 0, between: Callable[[], None] = lambda: None) -> None:
        self._left, self._between = units, between

    def submit(
        self, function: Callable[..., Any], /, *arguments: Any, **_: Any
    ) -> concurrent.futures.Future[Any]:
        if self._left == 0:
            self._between()
        self._left -= 1
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        try:
            future.set_result(function(*arguments))
        except InputError as error:
            future.set_exception(error)
        return future


def run(path: Path, out: Path, executor: concurrent.futures.Executor) -> SplitRecord:
    with open_folder(out) as folder:
        return split(tables_of(find_inputs([path])), folder, SplitOptions(), executor, no_progress)


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five row groups, each a unit, in three blocks."""
    monkeypatch.setattr(stage, "RUN_ROWS", 8000)
    path = write_parquet(
        measurement_table(40_000, sources=250),
        tmp_path / "a.parquet",
        row_group_size=8000,
        compression="none",
        use_dictionary=False,
    )
    assert path.stat().st_size > 2.5 * BLOCK
    return path


def replace(path: Path) -> None:
    """Another table of the same shape takes the name."""
    other = write_parquet(
        measurement_table(40_000, seed=9, sources=250),
        path.with_name("other"),
        row_group_size=8000,
        compression="none",
        use_dictionary=False,
    )
    os.replace(other, path)


def overwrite(path: Path) -> None:
    """Another table of the same shape is written over this one, which keeps its size and time."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    at = data.index((1000).to_bytes(8, "little"))  # the first msm_id
    data[at] ^= 2
    with path.open("r+b") as file:
        file.write(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


@pytest.mark.parametrize("units", [0, 1, 5, 6])
@pytest.mark.parametrize("change", [replace, overwrite, truncate, append])
def test_a_table_that_changes_is_named_or_was_read_as_it_was_hashed(
    change: Callable[[Path], None], units: int, table: Path, tmp_path: Path
) -> None:
    """`units` units have run when it changes: five read it, the sixth hashes it, and the rest do neither."""
    before = sha256_file(table)
    executor = InTurn(units, lambda: change(table))
    if units == 6:
        assert run(table, tmp_path / "out", executor).inputs[0].sha256 == before
        return
    if change is overwrite and units == 0:  # nothing has read the block that changes
        assert run(table, tmp_path / "out", executor).inputs[0].sha256 == sha256_file(table)
        return
    with pytest.raises(InputError, match=r"a\.parquet: (changed since|cannot be read)"):
        run(table, tmp_path / "out", executor)
    assert not (tmp_path / "out/splits").exists()


def sort_only(table: Path, out: Path) -> None:
    """Run until the shards are due."""

    def until_shards(stage: str, done: int, total: int) -> None:
        if stage == "split: shards":
            raise KeyboardInterrupt

    tables = tables_of(find_inputs([table]))
    with open_folder(out) as folder, pytest.raises(KeyboardInterrupt):
        split(tables, folder, SplitOptions(), InTurn(), until_shards)


@pytest.mark.parametrize("unit", ["sort-00000", "hash-00000", None])
def test_a_byte_that_changes_between_a_kill_and_the_next_run_is_noticed(
    unit: str | None, table: Path, tmp_path: Path
) -> None:
    """`unit` is the one that had not finished."""
    before = sha256_file(table)
    out = tmp_path / "out"
    sort_only(table, out)
    overwrite(table)
    if unit is None:
        assert run(table, out, InTurn()).inputs[0].sha256 == before
        return
    (out / f".pinglm/split/units/{unit}.json").unlink()
    for _ in range(2):
        with pytest.raises(InputError, match=r"a\.parquet: changed since this run began"):
            run(table, out, InTurn())


def test_a_split_that_an_earlier_version_began_is_done_again(table: Path, tmp_path: Path) -> None:
    """Its units left no blocks."""
    out = tmp_path / "out"
    sort_only(table, out)
    for old, new in (("runs", "sort"), ("digest", "hash")):
        for marker in (out / ".pinglm/split/units").glob(f"{new}-*.json"):
            record = json.loads(marker.read_bytes())
            del record["result"]["blocks"]
            marker.with_name(marker.name.replace(new, old)).write_text(json.dumps(record))
            marker.unlink()
    assert run(table, out, InTurn()).totals.rows == 40_000


def test_a_table_cut_short_while_it_is_read_is_an_error_and_no_bus_error(table: Path) -> None:
    """In a process of its own, which a mapped file would take down."""
    program = f"""
import os
from pathlib import Path
from pipeline.hashed_file import open_hashed
from pipeline.split.parquet_input import read_tables
path = Path({str(table)!r})
with open_hashed(path) as file:
    tables = read_tables(file, "a", [0, 1, 2, 3, 4], ["rtt"], 1000)
    next(tables)
    os.truncate(path, 100)
    list(tables)
"""
    command = [sys.executable, "-c", program]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 1
    assert "InputError" in found.stderr.splitlines()[-1]
    assert "a.parquet: changed since this run began" in found.stderr


def test_blocks_are_hashed_as_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(3 * BLOCK + 17))
    whole = hash_file(path)
    assert (whole.size, whole.sha256) == (3 * BLOCK + 17, sha256_file(path))
    with open_hashed(path) as file:
        assert (file.seek(0, os.SEEK_END), file.read()) == (whole.size, b"")
        assert file.blocks == {}
        file.seek(2 * BLOCK - 3)
        assert file.read(5) == path.read_bytes()[2 * BLOCK - 3 :][:5]
        assert file.tell() == 2 * BLOCK + 2
        assert file.blocks.keys() == {1, 2}
        assert whole.holds(file.size, file.blocks)
        file.seek(-1, os.SEEK_END)
        assert file.read() == path.read_bytes()[-1:]
        assert not whole.holds(file.size + 1, file.blocks)
        assert not whole.holds(file.size, {4: whole.blocks[3]})
