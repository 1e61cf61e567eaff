"""Ingest as a stage: ledger, duplicates, restarts, any number of workers, output that cannot be written."""

from __future__ import annotations

import bz2
import errno
import gzip
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import zstandard

from pipeline.folder import open_folder
from pipeline.ingest import parts, stage
from pipeline.ingest.stage import IngestOptions, ingest
from pipeline.inputs import find_inputs
from pipeline.measurements import INGESTED_SCHEMA
from pipeline.records import IngestedTotals
from stores.errors import ConfigError, OutputError
from stores.manifest import InputDigest
from stores.measurements.atlas_result import REASONS
from tests.helpers import limited_to
from tests.pipeline.ingest.results import lines, outputs, ping, rejects, run, table

ROOT = Path(__file__).parents[3]


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A folder with every container, compression and kind of reject, and duplicates across files."""
    folder = tmp_path / "in"
    (folder / "sub dir").mkdir(parents=True)
    (folder / "a.json").write_text(json.dumps([ping(i) for i in range(50)], indent=4))
    (folder / "b.ndjson.gz").write_bytes(
        gzip.compress(
            lines([ping(i) for i in range(40, 90)])
            + b'{"msm_id": 1, broken\n'
            + lines([ping(1, type="traceroute"), ping(2, **{"from": "10.1.1.1"}), ping(3, af=6)])
        )
    )
    (folder / "sub dir" / "é:c.txt.bz2").write_bytes(bz2.compress(lines([ping(89), ping(90)])))
    wrapped = {"description": "w", "data": [ping(90), ping(91), {"no": "result"}]}
    (folder / "d.gz").write_bytes(zstandard.compress(json.dumps(wrapped).encode()))  # named wrongly
    (folder / "e.json").write_text("[]")
    (folder / "f.json").write_text("")
    (folder / "lone").write_text(json.dumps(ping(92), indent=1))
    (folder / "README.md").write_text("no results here")
    (folder / ".hidden.json").write_text(json.dumps(ping(93)))
    return folder


def test_every_record_is_accepted_or_rejected_once(mixed: Path, tmp_path: Path) -> None:
    record = run(find_inputs([mixed]), tmp_path / "out")
    reasons = {
        "bad_json": 1, "duplicate": 12, "family_mismatch": 1,
        "no_public_source": 1, "not_a_result": 1, "other_type": 1,
    }  # fmt: skip
    assert record.totals == IngestedTotals(rows=110, accepted=93, rejected=reasons)
    for file in record.files:
        assert file.rows == file.accepted + sum(file.rejected.values())
    by_file = {file.file: file for file in record.files}
    assert list(by_file) == sorted(by_file)
    assert by_file["e.json"].rows == by_file["f.json"].rows == 0
    assert by_file["sub dir/é:c.txt.bz2"].rejected == {"duplicate": 2}
    rows = table(tmp_path / "out")
    assert rows.schema.equals(INGESTED_SCHEMA)
    assert sorted(rows["rtt"].to_pylist()) == [i / 8 for i in range(93)]
    assert len(rows) == record.totals.accepted == sum(o.rows for o in record.outputs)
    rejected = rejects(tmp_path / "out")
    assert len(rejected) == sum(record.totals.rejected.values())
    assert {row["reason"] for row in rejected} <= REASONS.keys()
    broken = next(row for row in rejected if row["reason"] == "bad_json")
    assert broken == {
        "file": "b.ndjson.gz", "row": 51, "reason": "bad_json", "record": '{"msm_id": 1, broken'
    }  # fmt: skip
    assert next(row for row in rejected if row["reason"] == "other_type")["record"] is None


def test_the_record_names_every_input_with_its_digest(mixed: Path, tmp_path: Path) -> None:
    record = run(find_inputs([mixed]), tmp_path / "out")
    assert list(record.inputs) == [
        InputDigest(
            name=file.name,
            size=file.size,
            sha256=hashlib.sha256(Path(file.path).read_bytes()).hexdigest(),
        )
        for file in find_inputs([mixed])
    ]
    for output in record.outputs:
        assert (tmp_path / "out" / output.path).stat().st_size == output.size


def test_the_first_of_duplicates_stays(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(lines([ping(1, size=1), ping(1, size=2), ping(2, size=3)]))
    (tmp_path / "b.json").write_bytes(lines([ping(2, size=4), ping(1, size=5), ping(3, size=6)]))
    (tmp_path / "c.json").write_bytes(lines([ping(1, size=7), ping(3, size=8)]))  # nothing is left
    record = run(find_inputs([tmp_path]), tmp_path / "out")
    assert table(tmp_path / "out")["size"].to_pylist() == [1, 3, 6]
    assert [file.accepted for file in record.files] == [2, 1, 0]
    assert [file.rejected for file in record.files] == [{"duplicate": n} for n in (1, 2, 2)]
    kept = [
        (row["file"], row["row"], json.loads(row["record"])["size"])
        for row in rejects(tmp_path / "out")
    ]
    assert kept == [
        ("a.json", 2, 2),
        ("b.json", 1, 4),
        ("b.json", 2, 5),
        ("c.json", 1, 7),
        ("c.json", 2, 8),
    ]


def test_a_part_of_nothing_but_duplicates_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "BATCH_FILES", 1)
    for name in "abc":
        (tmp_path / f"{name}.json").write_bytes(
            lines([ping(1), ping(2)] if name < "c" else [ping(3)])
        )
    record = run(find_inputs([tmp_path]), tmp_path / "out")
    assert [output.path for output in record.outputs] == [
        "measurements/part-00000.parquet", "measurements/part-00001.parquet",
    ]  # fmt: skip
    assert [output.rows for output in record.outputs] == [2, 1]


def test_duplicates_are_found_whatever_the_partitions_and_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(0)
    numbers = [rng.randrange(600) for _ in range(2000)]
    for i in range(4):
        text = lines([ping(n, size=j) for j, n in enumerate(numbers[i * 500 : i * 500 + 500])])
        (tmp_path / f"{i}.json").write_bytes(text)
    expected = run(find_inputs([tmp_path]), tmp_path / "out").files
    columns = INGESTED_SCHEMA.names
    rows = table(tmp_path / "out").select(columns).to_pylist()
    monkeypatch.setattr(stage, "PARTITION_BYTES", 50_000)
    monkeypatch.setattr(stage, "BATCH_FILES", 1)
    monkeypatch.setattr(parts, "ROW_GROUP", 100)
    monkeypatch.setattr(parts, "ROWS_PER_PART", 200)
    small = run(find_inputs([tmp_path / f"{i}.json" for i in range(4)]), tmp_path / "small")
    assert small.files == expected
    assert table(tmp_path / "small").to_pylist() == rows
    assert len(rows) == len(set(numbers))
    assert len(small.outputs) > 4


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough files for several units, with duplicates and rejects in all of them."""
    folder = tmp_path_factory.mktemp("many")
    rng = random.Random(1)
    for i in range(700):
        records = [ping(rng.randrange(20_000)) for _ in range(30)]
        records += [ping(i, type="dns"), {"x": i}]
        (folder / f"{i:03d}.json.gz").write_bytes(gzip.compress(json.dumps(records).encode(), 1))
    return folder


@pytest.fixture(scope="module")
def undisturbed(many: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    run(find_inputs([many]), out)
    return outputs(out)


def test_bytes_do_not_depend_on_the_number_of_workers(
    many: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    run(find_inputs([many]), tmp_path / "out", workers=2)
    assert outputs(tmp_path / "out") == undisturbed
    with open_folder(tmp_path / "threads") as folder, ThreadPoolExecutor(3) as executor:
        ingest(find_inputs([many]), folder, IngestOptions(), executor, lambda *_: None)
    assert outputs(tmp_path / "threads") == undisturbed


def command(*arguments: Any) -> list[str]:
    return [sys.executable, str(ROOT / "cli.py"), "ingest", *map(str, arguments)]


def test_on_a_file_system_without_hard_links_the_bytes_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.json").write_bytes(lines([ping(i) for i in range(20)]))
    run(find_inputs([tmp_path / "a.json"]), tmp_path / "linked")
    tried = []

    def link(source: Path, target: Path) -> None:
        tried.append(target)
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    run(find_inputs([tmp_path / "a.json"]), tmp_path / "copied")
    assert tried
    assert outputs(tmp_path / "copied") == outputs(tmp_path / "linked")


def test_a_stage_killed_at_any_moment_and_run_again_gives_the_same_bytes(
    many: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    out, rng = tmp_path / "out", random.Random(7)
    arguments = command("--input", many, "--out", out, "--workers", 1, "--json")
    kills = 0
    for units in (0, 1, 3, 5):  # finished ones to wait for, then a little longer
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while process.poll() is None:
            if len(list((out / ".pinglm/ingest/units").glob("*.json"))) >= units:
                time.sleep(rng.random() * 0.05)
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.002)
        process.communicate()
    done = subprocess.run(arguments, capture_output=True, check=True)
    assert kills >= 2
    assert json.loads(done.stdout)["totals"]["rows"] == 700 * 32
    assert outputs(out) == undisturbed


def test_a_finished_stage_is_not_done_again(mixed: Path, tmp_path: Path) -> None:
    first = run(find_inputs([mixed]), tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.parquet")}
    assert run(find_inputs([mixed]), tmp_path / "out") == first
    assert before == {
        path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.parquet")
    }


def test_other_options_or_inputs_are_refused(mixed: Path, tmp_path: Path) -> None:
    run(find_inputs([mixed]), tmp_path / "out")
    with pytest.raises(ConfigError, match="rtt mean, not min"):
        run(find_inputs([mixed]), tmp_path / "out", IngestOptions(rtt="min"))
    (mixed / "e.json").write_text(json.dumps([ping(500)]))
    with pytest.raises(ConfigError, match="other input files"):
        run(find_inputs([mixed]), tmp_path / "out")


def test_the_options_reach_the_rows(tmp_path: Path) -> None:
    packets = [{"rtt": 1.0}, {"rtt": 2.0}, {"rtt": 9.0}]
    (tmp_path / "a.json").write_bytes(lines([ping(1, result=packets, src_addr="192.168.0.5")]))
    options = IngestOptions(source="src_addr", allow_private=True, rtt="median")
    run(find_inputs([tmp_path / "a.json"]), tmp_path / "out", options)
    row = table(tmp_path / "out").to_pylist()[0]
    assert (row["src_addr"], row["rtt"]) == ("192.168.0.5", 2.0)


def test_a_folder_with_simulated_measurements_is_refused(mixed: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / ".pinglm").mkdir(parents=True)
    (tmp_path / "out" / ".pinglm" / "simulate.json").write_text("{}")
    with pytest.raises(ConfigError, match="simulated"):
        run(find_inputs([mixed]), tmp_path / "out")


def test_rejects_of_other_stages_are_left_alone(mixed: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / ".pinglm").mkdir(parents=True)
    other = tmp_path / "out" / "rejected" / "split-00000.parquet"
    other.parent.mkdir()
    other.write_bytes(b"x")
    run(find_inputs([mixed]), tmp_path / "out")
    assert other.read_bytes() == b"x"


def test_a_full_disk_is_one_clear_line(many: Path, tmp_path: Path) -> None:
    arguments = command("--input", many, "--out", tmp_path / "out", "--workers", 1)
    done = subprocess.run([*limited_to(100), *arguments], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "cannot write" in done.stderr
    assert str(tmp_path / "out") in done.stderr
    assert not list((tmp_path / "out").rglob("*.tmp"))


def test_an_unwritable_folder_is_an_output_error(mixed: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / ".pinglm").mkdir(parents=True)
    (tmp_path / "out" / "measurements").write_text("a file where a folder must be")
    with pytest.raises(OutputError, match="cannot write"):
        run(find_inputs([mixed]), tmp_path / "out")


def test_the_command_prints_a_ledger_or_json(mixed: Path, tmp_path: Path) -> None:
    arguments = command("--input", mixed, "--out", tmp_path / "out", "--workers", 1)
    shown = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert "duplicate" in shown.stdout
    assert shown.stderr == ""
    record = json.loads(
        subprocess.run([*arguments, "--json"], capture_output=True, check=True).stdout
    )
    assert record["left_out"] == ["README.md"]
    missing = subprocess.run(
        command("--input", "no/such*", "--out", tmp_path / "x"), capture_output=True, text=True
    )
    assert (missing.returncode, missing.stderr.count("\n")) == (1, 1)
    assert "no/such*: no such file" in missing.stderr
    assert not os.path.exists(tmp_path / "x")


def test_many_rejects_of_one_file_all_come(tmp_path: Path) -> None:
    text = lines([ping(0)]) + b'{"a": "' + b"z" * 100_000 + b'"}\n' + b"{}\n" * 40_000
    (tmp_path / "a.json").write_bytes(text)
    record = run(find_inputs([tmp_path]), tmp_path / "out")
    assert record.totals.rejected == {"not_a_result": 40_001}
    [path] = (tmp_path / "out" / "rejected").iterdir()
    rows = pq.read_table(path)
    assert rows["row"].to_pylist() == list(range(2, 40_003))
    assert pc.max(pc.utf8_length(rows["record"])).as_py() == 1 << 16
