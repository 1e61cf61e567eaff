"""Many pairs: the answers of single questions, in order, whatever file they come from and go to."""

from __future__ import annotations

import csv
import fcntl
import json
import math
import signal
import subprocess
import sys
import time
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.inference import bulk_file
from model.inference.bulk import COLUMNS, Contexts, answer_pairs, matrix_of, pairs_of
from model.inference.bulk_file import BulkQuestion, answer_file, check_out, weights_digest
from model.inference.ping_model import PingModel, load_weights
from model.inference.prompts import PAIR_ROWS, SHORTEST_MEASUREMENT
from stores.codec import Measurement
from stores.errors import ConfigError, InputError, OutputError
from stores.measurements.given import Given
from stores.measurements.reader import open_rows
from tests.measurements.measurement_files import FORMS, PINGS, START, write_form

ROOT = Path(__file__).parents[3]
PAIRS = """id,src,dst,time
1,9.9.9.9,8.8.8.8,1751000300
2,9.9.9.9,8.8.8,
3,2a00:1450:4001::8,2001:500:2::c,
4,9.9.9.9,2001:500:2::c,
5,9.9.9.9,1.1.1.1,,extra
6,9.9.9.9,1.1.1.1,
"""
CONTEXT = [Measurement(ip_address(s), ip_address(d), rtt, t) for s, d, rtt, t in PINGS]
PROBLEMS = {
    1: "dst '8.8.8': expected an IPv4 or IPv6 address",
    3: "dst 2001:500:2::c: expected IPv4 like the source 9.9.9.9, found IPv6",
    4: "has more values than the first line",
}


@pytest.fixture(scope="module")
def model() -> PingModel:
    return PingModel.load("pretrained")


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.csv"
    path.write_text(PAIRS)
    return path


def ask(model: PingModel, question: BulkQuestion) -> bulk_file.BulkResult:
    return answer_file(model, "digest", question, lambda *_: None)


def read(out: Path) -> list[dict[str, Any]]:
    """The answers in a file, as values."""
    if out.suffix == ".parquet":
        rows: list[dict[str, Any]] = pq.read_table(out).to_pylist()
        return rows
    if out.suffix == ".jsonl":
        return [json.loads(line) for line in out.read_text().splitlines()]
    with open(out, newline="") as file:
        found = list(csv.DictReader(file))
    return [
        {name: kind(row[name]) if row[name] else None for name, kind in COLUMNS.items()}
        for row in found
    ]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_each_row_has_the_answer_to_its_question_or_a_reason(
    suffix: str, model: PingModel, pairs: Path, tmp_path: Path
) -> None:
    out = tmp_path / f"answers{suffix}"
    context = write_form(tmp_path, "results.json.gz")
    result = ask(model, BulkQuestion(str(pairs), out, context))
    answers = read(out)
    assert [list(answer) for answer in answers] == [list(COLUMNS)] * 6
    assert {at: row["problem"] for at, row in enumerate(answers) if row["problem"]} == PROBLEMS
    assert (result.rows, result.answered, result.problems) == (6, 3, {"dst": 2, "row": 1})
    assert result.context_left_out == {"no_public_source": 1}
    for answer in answers:
        if answer["problem"]:
            assert {answer[name] for name in list(COLUMNS)[2:-1]} == {None}
            continue
        earlier = [m for m in CONTEXT if str(m.src) == answer["src"]]
        assert answer["context_used"] == len(earlier)
        single = model.predict_rtt(answer["src"], answer["dst"], answer["time"], earlier).as_dict()
        for name in ("p_failed", "median_ms", "mean_ms"):
            assert math.isclose(answer[name], single[name], rel_tol=1e-3), name
        for level, ms in single["quantiles_ms"].items():
            name = "median_ms" if level == "0.5" else f"q{level}_ms"
            assert math.isclose(answer[name], ms, rel_tol=1e-2), name
    assert not out.with_name(f"{out.name}.parts").exists()


@pytest.mark.parametrize("name", FORMS)
def test_pairs_come_from_whatever_holds_measurements(name: str, tmp_path: Path) -> None:
    with open_rows(str(write_form(tmp_path, name)), others=True) as found:
        asked = {(p.src, p.dst, p.query.time) for p in pairs_of(found.rows) if p.query}
    assert asked == {(src, dst, time) for src, dst, _, time in PINGS}


@pytest.mark.parametrize("library", ["polars", "pyarrow"])
def test_a_table_gets_the_same_answers_as_a_file(
    library: str, model: PingModel, pairs: Path, tmp_path: Path
) -> None:
    lines = PAIRS.replace(",extra", "").splitlines()
    pairs.write_text("\n".join([*lines[:5], lines[6]]))
    frame = pl.read_csv(pairs)
    context = write_form(tmp_path, "table.parquet")
    ask(model, BulkQuestion(str(pairs), tmp_path / "a.parquet", context))
    given: Any = frame if library == "polars" else frame.to_arrow()
    found = model.predict_rtt_table(given, pq.read_table(context))
    assert isinstance(found, pl.DataFrame if library == "polars" else pa.Table)
    rows = found.to_dicts() if library == "polars" else found.to_pylist()
    assert rows == read(tmp_path / "a.parquet")
    assert len(model.predict_rtt_table(given, CONTEXT, matrix=True)) == 3
    with pytest.raises(InputError, match="table: column dst is missing"):
        model.predict_rtt_table(frame.drop("dst"))
    with pytest.raises(InputError, match="table: found list, expected a PyArrow or Polars table"):
        model.predict_rtt_table([])


def test_a_matrix_is_every_source_with_every_destination_of_its_family() -> None:
    rows = [
        ("9.9.9.9", "8.8.8.8"),
        ("9.9.9.10", "1.1.1.1"),
        ("x", "1.0.0.1"),
        ("9.9.9.9", "8.8.8.8"),
    ]
    rows.append(("2a00:1450:4001::8", "2001:500:2::c"))
    given = [Given(at, {"src": s, "dst": d}) for at, (s, d) in enumerate(rows, 1)]
    asked = [
        (pair.src, pair.dst, pair.query.time)
        for pair in matrix_of(pairs_of(given), 7.5)
        if pair.query
    ]
    assert asked == [
        ("9.9.9.9", "8.8.8.8", 7),
        ("9.9.9.9", "1.1.1.1", 7),
        ("9.9.9.10", "8.8.8.8", 7),
        ("9.9.9.10", "1.1.1.1", 7),
        ("2a00:1450:4001::8", "2001:500:2::c", 7),
    ]


def test_a_source_is_asked_with_its_last_rows_and_the_last_of_its_pair() -> None:
    window = 256
    room = window // SHORTEST_MEASUREMENT
    src, dst, other = (ip_address(f"9.9.9.{i}") for i in (1, 2, 3))
    [pair] = pairs_of([Given(1, {"src": "9.9.9.1", "dst": "9.9.9.2"})])
    assert pair.query
    contexts = Contexts([pair], window)
    times = [(i * 37) % 200 for i in range(200)]  # in no order
    for at in times:  # the pair's are older than all others
        contexts.add(Measurement(src, dst, 1.0, at))
        contexts.add(Measurement(src, other, 1.0, 1000 + at))
        contexts.add(Measurement(other, dst, 1.0, 5000))
    found = [(m.dst, m.time) for m in contexts.of(pair.query)]
    of_pair = [(dst, time) for time in range(200 - PAIR_ROWS, 200)]
    assert found == of_pair + [(other, 1000 + time) for time in range(200 - room, 200)]


def test_text_that_no_file_can_hold_is_escaped(
    model: PingModel, pairs: Path, tmp_path: Path
) -> None:
    pairs.write_text('{"src": "\\ud800\\u001b", "dst": [1]}\n{"src": null, "dst": {}}\n[]\n')
    for suffix in (".csv", ".jsonl", ".parquet"):
        ask(model, BulkQuestion(str(pairs), tmp_path / f"a{suffix}"))
        answers = read(tmp_path / f"a{suffix}")
        assert [(answer["src"], answer["dst"]) for answer in answers] == [
            ("\\ud800\\x1b", "[1]"),
            (None, "{}"),
            (None, None),
        ]
        assert answers[2]["problem"] == "expected one JSON object per line (found [])"


def test_rows_are_answered_in_order_however_their_prompts_are_grouped(model: PingModel) -> None:
    rows = [
        Given(i, {"src": f"9.9.{i % 3}.9", "dst": f"8.8.{i}.8", "time": START if i % 2 else None})
        for i in range(40)
    ]
    asked = list(pairs_of(rows))
    contexts = Contexts(asked, model.config.context)
    for i in range(12):
        contexts.add(Measurement(ip_address("9.9.1.9"), ip_address("8.8.8.8"), 4.0, START + i))
    [answers] = answer_pairs(model, asked, contexts)
    assert [(a["src"], a["dst"], a["time"]) for a in answers] == [
        (f"9.9.{i % 3}.9", f"8.8.{i}.8", START if i % 2 else None) for i in range(40)
    ]
    assert [a["context_used"] > 0 for a in answers] == [i % 3 == 1 for i in range(40)]


# --- Runs that are killed ---------------------------------------------------------------------------


PROGRAM = "import model.inference.bulk_file as bulk_file; bulk_file.ROWS_AT_ONCE = 16; import cli; cli.main()"
"""The command line with small parts."""


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_killed_run_continues_where_it_stopped(
    suffix: str, model: PingModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk_file, "ROWS_AT_ONCE", 16)
    many = tmp_path / "many.csv"
    many.write_text("\n".join(["src,dst", *(f"9.9.{i % 7}.9,8.8.{i}.8" for i in range(160))]))
    whole, out = tmp_path / f"whole{suffix}", tmp_path / f"answers{suffix}"
    digest = weights_digest(load_weights("pretrained").arrays)
    answer_file(model, digest, BulkQuestion(str(many), whole), lambda *_: None)

    folder = tmp_path / f"answers{suffix}.parts"
    words = ["predict-rtt", "--pairs", str(many), "--out", str(out)]
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, *words], cwd=ROOT)
    while not list(folder.glob("part-*")) and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists()
    written = {path: path.stat().st_mtime_ns for path in folder.glob("part-*")}
    assert 0 < len(written) < 10

    kept: set[Path] = set()

    def watch(done: int, total: int) -> None:
        kept.update(p for p, at in written.items() if p.stat().st_mtime_ns == at)

    assert answer_file(model, digest, BulkQuestion(str(many), out), watch).answered == 160
    assert kept == set(written)
    assert out.read_bytes() == whole.read_bytes()
    assert not folder.exists()


@pytest.fixture
def begun(model: PingModel, pairs: Path, tmp_path: Path) -> BulkQuestion:
    """A question whose answers have begun."""
    question = BulkQuestion(str(pairs), tmp_path / "a.csv")

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answer_file(model, "digest", question, stop)
    assert (tmp_path / "a.csv.parts/part-000000.csv").exists()
    return question


def test_what_was_begun_for_another_question_is_not_continued(
    begun: BulkQuestion, model: PingModel, pairs: Path
) -> None:
    with pytest.raises(ConfigError, match=r"a.csv.parts: holds .* \(time differ\): remove it"):
        ask(model, BulkQuestion(begun.pairs, begun.out, time=5.0))
    with pytest.raises(ConfigError, match=r"\(model differ\)"):
        answer_file(model, "other", begun, lambda *_: None)
    pairs.write_text(PAIRS + "7,9.9.9.9,1.1.1.1,\n")
    with pytest.raises(ConfigError, match=r"\(pairs differ\)"):
        ask(model, begun)
    assert not begun.out.exists()
    pairs.write_text(PAIRS)
    assert ask(model, begun).rows == 6


def test_parts_whose_question_was_lost_with_the_power_are_not_continued(
    begun: BulkQuestion, model: PingModel
) -> None:
    (begun.out.with_name("a.csv.parts") / "plan.json").write_bytes(b"\0" * 64)
    with pytest.raises(ConfigError, match=r"a.csv.parts: holds the beginning of other answers"):
        ask(model, begun)
    assert not begun.out.exists()


def test_a_folder_in_place_of_a_file_and_a_context_without_a_use_are_refused(
    model: PingModel, pairs: Path, tmp_path: Path
) -> None:
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ConfigError, match=r"--out .*\.csv: is a folder, expected a file"):
        check_out(tmp_path / "folder.csv")
    context = tmp_path / "context.json"
    context.write_text('[{"prb_id": 1, "msm_id": 2, "type": "dns"}]')
    with pytest.raises(InputError, match=r"context.json: no usable measurement: other_type 1"):
        ask(model, BulkQuestion(str(pairs), tmp_path / "b.csv", context=context))


def test_two_processes_do_not_write_one_file(begun: BulkQuestion, model: PingModel) -> None:
    with open(begun.out.with_name("a.csv.parts") / "lock") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match=r"a.csv: another process is writing it"):
            ask(model, begun)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_no_pairs_give_no_rows(suffix: str, model: PingModel, pairs: Path, tmp_path: Path) -> None:
    pairs.write_text("src,dst\n")
    out = tmp_path / f"a{suffix}"
    assert ask(model, BulkQuestion(str(pairs), out)).rows == 0
    assert read(out) == []


def test_pairs_are_read_from_standard_input(tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    words = ["predict-rtt", "--pairs", "-", "--out", str(out), "--time", "1751000000"]
    text = "src,dst\n9.9.9.9,8.8.8.8\n9.9.9.9,8.8.4.4\n9.9.9.9,1.1.1.1\n"
    done = subprocess.run(
        [sys.executable, "cli.py", *words], input=text, cwd=ROOT, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == (
        f"{out}: 3 rows, 3 answered\nThe answers are from a model of a simulated Internet.\n",
        "",
    )
    assert [row["time"] for row in read(out)] == [1_751_000_000] * 3


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["9.9.9.9"], 2, "expected SRC and DST, or --pairs"),
        (["--pairs", "a.csv"], 2, "--pairs needs --out FILE"),
        (["9.9.9.9", "8.8.8.8", "--pairs", "a.csv", "--out", "b.csv"], 2, "and not both"),
        (["9.9.9.9", "8.8.8.8", "--matrix"], 2, "--out and --matrix apply only to --pairs"),
        (["--pairs", "a.csv", "--out", "b.txt"], 1, "error: --out b.txt: expected a name that ends in .csv"),
        (["--pairs", "/none.csv", "--out", "OUT/b.csv"], 1, "error: /none.csv: cannot be read: No such file"),
    ],
)  # fmt: skip
def test_wrong_usage_is_refused_in_words(
    words: list[str], code: int, message: str, tmp_path: Path
) -> None:
    filled = [word.replace("OUT", str(tmp_path)) for word in words]
    done = subprocess.run(
        [sys.executable, "cli.py", "predict-rtt", *filled], cwd=ROOT, capture_output=True, text=True,
        env={"PATH": "", "COLUMNS": "200"},
    )  # fmt: skip
    assert done.returncode == code
    assert message in done.stderr
    assert code == 2 or len(done.stderr.splitlines()) == 1
