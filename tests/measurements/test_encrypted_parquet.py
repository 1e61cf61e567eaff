"""Encrypted columns under a plain footer: PyArrow ended the whole process, and with it the service."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stores.errors import InputError
from stores.measurements.parquet_footer import has_encrypted_column
from stores.measurements.reader import rows_of_bytes
from tests.measurements.bigquery_table import bigquery_table
from tests.measurements.encrypted_parquet import write_encrypted
from tests.pipeline.ingest.results import ping
from tests.pipeline.tables import measurement_table

TABLES = {
    "measurements": lambda: measurement_table(100),
    "bigquery": lambda: bigquery_table([ping(n) for n in range(100)]),
}
ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("plaintext_footer", [True, False])
@pytest.mark.parametrize("name", TABLES)
def test_preparing_an_encrypted_table_is_one_line(
    name: str, plaintext_footer: bool, tmp_path: Path
) -> None:
    column = {"measurements": "rtt", "bigquery": "msm_id"}[name]
    path = write_encrypted(TABLES[name](), tmp_path / "a.parquet", column, plaintext_footer)
    command = [sys.executable, "cli.py", "prepare", "--input", path, "--out", tmp_path / "out"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1, done.stderr
    assert "a.parquet" in done.stderr
    assert "ncrypt" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("column", ["src_addr", "rtt", "size"])
def test_an_encrypted_context_is_refused(column: str, tmp_path: Path) -> None:
    path = write_encrypted(measurement_table(100), tmp_path / "a.parquet", column, True)
    with pytest.raises(InputError, match=r"cannot be read as Parquet .* has an encrypted column"):
        list(rows_of_bytes(path.read_bytes(), "file", 1 << 20).rows)


PLAIN: dict[str, list[Any]] = {
    "flag": [True, None, False],
    "number": [1, -(2**62), None],
    "share": [0.5, None, float("inf")],
    "text": ["", None, "x" * 300],
    "binary": [b"\x1c\x1c\x00", None, b"\x5c\x1c"],
    "time": [datetime(2025, 6, 27, tzinfo=UTC), None, None],
    "list": [[1, 2], [], None],
    "struct": [{"a": 1, "b": [True]}, None, {"a": None, "b": []}],
    "map": [[("k", 1)], [], None],
}


@pytest.mark.parametrize("version", ["1.0", "2.6"])
@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("groups", [0, 1, 40])
def test_plain_columns_of_every_type_are_not_taken_for_encrypted(
    version: str, compression: str, groups: int
) -> None:
    values = {name: pa.array(each) for name, each in PLAIN.items() if name != "map"}
    values["map"] = pa.array(PLAIN["map"], pa.map_(pa.string(), pa.int64()))
    table = pa.table(values).replace_schema_metadata({b"\x1c\x1c": b"\x00" * 1000})
    file = BytesIO()
    with pq.ParquetWriter(
        file, table.schema, version=version, compression=compression,
        write_page_index=True, write_page_checksum=True, sorting_columns=[pq.SortingColumn(1)],
    ) as writer:  # fmt: skip
        for _ in range(groups):
            writer.write_table(table)
    assert not has_encrypted_column(file)


def test_an_encrypted_column_is_found_in_any_row_group(tmp_path: Path) -> None:
    for rows in (1, 3, 2000):
        path = write_encrypted(measurement_table(rows), tmp_path / "a.parquet", "size", True)
        with path.open("rb") as file:
            assert has_encrypted_column(file)
