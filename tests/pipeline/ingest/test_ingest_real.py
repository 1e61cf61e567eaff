"""Ingest on real results: every count that can be known beforehand."""

from __future__ import annotations

import gzip
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.folder import open_folder
from pipeline.ingest.stage import IngestOptions, ingest
from pipeline.inputs import find_inputs
from pipeline.records import IngestedTotals, IngestRecord
from pipeline.units import open_executor

pytestmark = pytest.mark.skipif(
    "PINGLM_REAL_DATA" not in os.environ, reason="PINGLM_REAL_DATA names no folder of real results"
)


def run(folder_name: str, out: Path) -> tuple[IngestRecord, pa.Table]:
    inputs = find_inputs([Path(os.environ["PINGLM_REAL_DATA"]) / folder_name])
    with open_folder(out) as folder, open_executor(1) as executor:
        record = ingest(inputs, folder, IngestOptions(), executor, lambda *_: None)
    paths = [out / output.path for output in record.outputs]
    return record, pa.concat_tables([pq.read_table(path) for path in paths])


def decoded(folder_name: str) -> Iterator[dict[str, Any]]:
    """The results of a folder by the plain way: decode everything, look for prb_id."""

    def walk(value: Any) -> Iterator[dict[str, Any]]:
        if isinstance(value, dict) and "prb_id" in value:
            yield value
        elif isinstance(value, (dict, list)):
            for child in value.values() if isinstance(value, dict) else value:
                yield from walk(child)

    for path in (Path(os.environ["PINGLM_REAL_DATA"]) / folder_name).rglob("*.gz"):
        text = gzip.decompress(path.read_bytes()).decode()
        try:
            yield from walk(json.loads(text))
        except json.JSONDecodeError:
            for line in filter(str.strip, text.splitlines()):
                yield from walk(json.loads(line))


@pytest.mark.parametrize(
    ("folder", "files", "rows", "rejected"),
    [
        ("cmb-atlas-results", 62, 51_636, {"duplicate": 12_902, "no_public_source": 2}),
        ("fetchmesh", 2, 2_999, {"no_public_source": 2, "other_type": 1_000}),
        ("shapes", 51, 2_998, {"no_public_source": 2}),
        ("old-firmware", 3, 37, {"duplicate": 15}),
        ("v6-path-inflation", 3_654, 54_688, {"no_public_source": 2_433}),
    ],
)
def test_the_ledger_of_a_real_folder(
    folder: str, files: int, rows: int, rejected: dict[str, int], tmp_path: Path
) -> None:
    record, table = run(folder, tmp_path / "out")
    assert len(record.files) == len(record.inputs) == files
    assert record.totals == IngestedTotals(rows, rows - sum(rejected.values()), rejected)
    for file in record.files:
        assert file.rows == file.accepted + sum(file.rejected.values())
    assert len(table) == record.totals.accepted


@pytest.mark.parametrize("folder", ["cmb-atlas-results", "shapes", "fetchmesh"])
def test_real_rtts_agree_with_the_averages_that_probes_reported(
    folder: str, tmp_path: Path
) -> None:
    reported = {
        (result["msm_id"], result["prb_id"], result["timestamp"]): result
        for result in decoded(folder)
        if result["type"] == "ping"
    }
    _, table = run(folder, tmp_path / "out")
    failed = 0
    for row in table.to_pylist():
        identity = (row["msm_id"], row["prb_id"], int(row["event_time"].timestamp()))
        result = reported.pop(identity)
        failed += row["rtt"] < 0
        assert math.isclose(row["rtt"], result["avg"], rel_tol=1e-8), result
        if "sent" in result:
            assert row["packet_error_count"] == result["sent"] - result["rcvd"]
        assert row["dst_addr"] == result["dst_addr"]
        assert row["src_addr"] in (result["from"], result["src_addr"])
    assert failed > 0
    assert len(reported) <= 2  # those without a public source
