"""Input files that are damaged, cut off, empty, changed or of another kind; and whole ones beside them."""

from __future__ import annotations

import bz2
import gzip
import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from pipeline.inputs import find_inputs
from stores.errors import InputError
from tests.pipeline.ingest.results import lines, ping, run

PACK = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("damage", ["cut", "cut at the end", "garbage inside", "cut second member"])
def test_a_damaged_compressed_file_is_one_clear_error(
    suffix: str, damage: str, tmp_path: Path
) -> None:
    packed = PACK[suffix](lines([ping(i) for i in range(3000)]))
    damaged = {
        "cut": packed[: len(packed) // 2],
        "cut at the end": packed[:-1],
        "garbage inside": packed[:200] + bytes(40) + packed[240:],
        "cut second member": packed + packed[: len(packed) // 2],
    }[damage]
    (tmp_path / f"pings.json{suffix}").write_bytes(damaged)
    with pytest.raises(InputError, match=rf"pings.json{suffix}: damaged or cut-off"):
        run(find_inputs([tmp_path]), tmp_path / "out")
    assert not (tmp_path / "out" / ".pinglm" / "ingest.json").exists()
    assert not list((tmp_path / "out").glob("measurements/*"))


@pytest.mark.parametrize("suffix", PACK)
def test_members_one_after_another_are_one_file(suffix: str, tmp_path: Path) -> None:
    packed = b"".join(PACK[suffix](lines([ping(i)])) for i in range(3))
    (tmp_path / f"pings{suffix}").write_bytes(packed)
    assert run(find_inputs([tmp_path]), tmp_path / "out").totals.accepted == 3


def test_json_that_ends_too_early_costs_the_last_record(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([ping(i) for i in range(5)])[:-30])
    record = run(find_inputs([tmp_path]), tmp_path / "out")
    assert record.files[0].rejected == {"truncated": 1}
    assert record.files[0].accepted == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"in a\.json: 0 records, rejected: none"),
        ("[]", "0 records"),
        ('[{"a": 1}]', "1 record, rejected: not_a_result 1"),
    ],
)
def test_no_rows_at_all_is_an_error(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=message):
        run(find_inputs([tmp_path]), tmp_path / "out")


def test_a_file_that_changed_or_vanished_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(lines([ping(1)]))
    files = find_inputs([path])
    with pytest.raises(InputError, match=r"a\.json: changed"):
        run([replace(files[0], mtime_ns=files[0].mtime_ns - 1)], tmp_path / "out1")
    path.unlink()
    with pytest.raises(InputError, match=r"a\.json: cannot be read: No such file"):
        run(files, tmp_path / "out2")


def test_parquet_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet: a Parquet file"):
        run(find_inputs([tmp_path]), tmp_path / "out")
