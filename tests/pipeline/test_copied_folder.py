"""An output folder that was copied is the same folder, and what it reports does not tell when it was made."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import pytest

from pipeline.folder import OutputFolder, open_folder
from pipeline.ingest.stage import IngestOptions, ingest
from pipeline.inputs import InputFile, find_inputs
from pipeline.prepare import PrepareOptions, prepare
from pipeline.records import Report, SplitRecord, to_json
from pipeline.simulate.stage import SimulateOptions
from pipeline.split.stage import SplitOptions, own_tables, split, tables_of
from pipeline.units import open_executor
from stores.errors import ConfigError
from stores.files import sha256_file
from tests.pipeline.conftest import no_progress
from tests.pipeline.tables import measurement_table, write_parquet
from tests.pipeline.test_prepare import ping

OPTIONS = PrepareOptions(simulate=SimulateOptions(rows=3000))


def run(files: list[InputFile], out: Path) -> Report:
    with open_folder(out) as folder, open_executor(1) as executor:
        return prepare(files, folder, OPTIONS, executor, no_progress)


@pytest.fixture(params=["results", "results and tables", "simulated"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> list[InputFile]:
    if request.param == "simulated":
        return []
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.json").write_text(json.dumps([ping(i) for i in range(300)]))
    if request.param == "results and tables":
        write_parquet(measurement_table(200), tmp_path / "in/b.parquet")
    return find_inputs([tmp_path / "in"])


def copied(folder: Path, target: Path) -> Path:
    """As `cp -r` copies, which makes everything anew."""
    shutil.copytree(folder, target, copy_function=shutil.copyfile)
    for path in target.rglob("*"):
        os.utime(path, (1, 1))
    return target


def test_a_copied_folder_is_finished_too(files: list[InputFile], tmp_path: Path) -> None:
    report = run(files, tmp_path / "out")
    copy = copied(tmp_path / "out", tmp_path / "copy")
    assert run(files, copy) == report
    (copy / "report.json").unlink()
    assert run(files, copy).store == report.store


def test_a_copied_folder_without_its_split_goes_on(files: list[InputFile], tmp_path: Path) -> None:
    report = run(files, tmp_path / "out")
    copy = copied(tmp_path / "out", tmp_path / "copy")
    shutil.rmtree(copy / "store.zarr")
    for name in (".pinglm/split.json", ".pinglm/tokenize.json", "report.json"):
        (copy / name).unlink()
    assert run(files, copy).store == report.store


def test_the_report_tells_no_times_but_how_long_it_took(
    files: list[InputFile], tmp_path: Path
) -> None:
    one, other = (to_json(run(files, tmp_path / name)) for name in ("one", "other"))
    assert one.pop("seconds").keys() == other.pop("seconds").keys()
    assert one == other
    assert one["configuration"]["tokenize"] == {"seed": 0, "passes": 1}


def test_a_folder_that_an_earlier_version_finished_is_still_finished(
    files: list[InputFile], tmp_path: Path
) -> None:
    """It noted the time of its own tables, and no hash."""
    out = tmp_path / "out"
    report = run(files, out)
    for name in ("ingest", "simulate"):
        if (path := out / f".pinglm/{name}.json").exists():
            change(path, lambda record: [part.pop("sha256") for part in record["outputs"]])
    before = json.loads((out / ".pinglm/split.json").read_bytes())["options"]["inputs"]

    def with_times(record: dict[str, Any]) -> None:
        for entry in record["options"]["inputs"]:
            if entry[0].startswith("measurements/"):
                entry[2] = (out / entry[0]).stat().st_mtime_ns

    change(out / ".pinglm/split.json", with_times)
    assert json.loads((out / ".pinglm/split.json").read_bytes())["options"]["inputs"] != before
    with open_folder(out) as folder, open_executor(1) as executor:
        assert run_split(files, folder, executor).totals == report.totals


def run_split(files: list[InputFile], folder: OutputFolder, executor: Executor) -> SplitRecord:
    tables = [*own_tables(folder), *tables_of([f for f in files if f.kind == "parquet"])]
    return split(tables, folder, SplitOptions(), executor, no_progress)


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    record = json.loads(path.read_bytes())
    edit(record)
    path.write_text(json.dumps(record))


def test_another_part_of_the_same_size_is_other_input(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([ping(i) for i in range(300)]))
    out = tmp_path / "out"
    with open_folder(out) as folder, open_executor(1) as executor:
        record = ingest(find_inputs([path]), folder, IngestOptions(), executor, no_progress)
        assert [part.sha256 for part in record.outputs] == [
            sha256_file(out / part.path) for part in record.outputs
        ]
        split(own_tables(folder), folder, SplitOptions(), executor, no_progress)
        change(out / ".pinglm/ingest.json", lambda r: r["outputs"][0].update(sha256="0" * 64))
        with pytest.raises(ConfigError, match="other input files"):
            split(own_tables(folder), folder, SplitOptions(), executor, no_progress)
