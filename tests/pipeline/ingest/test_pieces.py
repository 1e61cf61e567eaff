"""Large bzip2 files in pieces: the same rows and rejects as from start to end, and the same errors."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import os
import random
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipeline.folder import open_folder
from pipeline.ingest import parse, stage
from pipeline.ingest.pieces import cut
from pipeline.ingest.stage import IngestOptions, ingest
from pipeline.inputs import find_inputs
from pipeline.prepare import PrepareOptions, prepare
from pipeline.records import IngestRecord
from pipeline.units import open_executor, run_units
from stores.errors import InputError
from tests.pipeline.ingest.results import lines, outputs, ping, rejects, run, table

PIECE = 30_000


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "MIN_BATCH_BYTES", PIECE)
    monkeypatch.setattr(stage, "MAX_BATCH_BYTES", PIECE)


def noise(rng: random.Random, size: int) -> str:
    return rng.randbytes(size // 2).hex()


def text_of(count: int, seed: int = 0) -> bytes:
    """Lines of all kinds, some longer than a block of level 1; the last has no line break."""
    rng = random.Random(seed)
    pieces = []
    for i in range(count):
        pieces.append(lines([ping(rng.randrange(count), x=noise(rng, rng.choice([0, 40, 400])))]))
        if i % 7 == 0:
            pieces.append(
                rng.choice([b"\n", b"\r\n", b"no json\n", b'{"a": "\\\n', b'{"b": [1\n', b"{}\n"])
            )
        if i % 11 == 0:
            pieces.append(lines([ping(i, type="dns")]))
        if i == count // 2:
            pieces.append(lines([ping(i, x=noise(rng, 450_000))]))
    return b"".join(pieces)[:-1]


def streams(text: bytes, size: int) -> bytes:
    return b"".join(bz2.compress(text[i : i + size], 1) for i in range(0, len(text), size))


PACK: dict[str, Callable[[bytes], bytes]] = {
    "one stream": lambda text: bz2.compress(text, 1),
    "large blocks": lambda text: bz2.compress(text, 9),
    "many streams": lambda text: streams(text, 70_000),
    "empty streams": lambda text: b"".join(
        bz2.compress(part, 1) for part in (b"", b"", text[:99_000], b"", text[99_000:], b"")
    ),
    "byte order mark": lambda text: bz2.compress(b"\xef\xbb\xbf" + text, 1),
    "line breaks at the ends of streams": lambda text: b"".join(
        bz2.compress(line, 1) for line in text[:200_000].splitlines(keepends=True)
    ),
}


def results_of(out: Path, record: IngestRecord) -> list[Any]:
    rejected = sorted(rejects(out), key=lambda row: (row["row"], row["reason"]))
    return [record.files, record.totals, record.inputs, table(out).to_pylist(), rejected]


def as_one(path: Path, out: Path) -> list[Any]:
    """What the reader of whole files makes of a file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parse, "cut", lambda *_: [])
        return results_of(out, run(find_inputs([path]), out))


def in_pieces(path: Path, out: Path) -> tuple[list[Any], list[str]]:
    """What the pieces give, and the names of the units that parsed."""
    names: list[str] = []

    def noting(step: str, units: Any, *rest: Any) -> Any:
        names.extend(unit.name for unit in units)
        return run_units(step, units, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parse, "run_units", noting)
        return results_of(out, run(find_inputs([path]), out)), names


@pytest.mark.parametrize("name", PACK)
def test_pieces_give_the_rows_and_rejects_of_the_whole(name: str, tmp_path: Path) -> None:
    path = tmp_path / "pings.bz2"
    path.write_bytes(PACK[name](text_of(3000)))
    found, names = in_pieces(path, tmp_path / "pieces")
    assert len(names) > 1 + -(-path.stat().st_size // PIECE) > 4
    assert names[:2] == ["hash-00000", "parse-00000-00000"]
    assert found == as_one(path, tmp_path / "whole")
    reasons = {row["reason"] for row in found[-1]}
    assert {"bad_json", "not_a_result", "other_type", "duplicate"} <= reasons
    assert found[2][0].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("workers", [2, 4])
@pytest.mark.parametrize("size", [9.3, 27])
def test_workers_that_share_a_file_finish_at_about_the_same_time(
    size: float, workers: int, tmp_path: Path
) -> None:
    path = tmp_path / "pings.bz2"
    path.write_bytes(bz2.compress(text_of(2000)))
    [file] = find_inputs([path])
    pieces = cut(file, round(file.size / size))
    assert [start for start, _ in pieces] == [0, *(end for _, end in pieces[:-1])]
    assert pieces[-1][1] == file.size
    assert len(pieces) <= size + 8  # each costs a block more
    busy = [0] * workers
    for start, end in pieces:  # each goes to whoever is free first
        busy[busy.index(min(busy))] += end - start
    assert max(busy) < 1.05 * file.size / workers


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two files in pieces, and small ones between them."""
    folder = tmp_path_factory.mktemp("large")
    for i, name in enumerate(["a.bz2", "b.json.gz", "c.json", "d.bz2"]):
        text = text_of(1500 if name.endswith("bz2") else 10, i)
        pack = {".bz2": PACK["one stream"], ".gz": gzip.compress, ".json": bytes}
        (folder / name).write_bytes(pack[Path(name).suffix](text))
    return folder


@pytest.fixture
def undisturbed(large: Path, tmp_path: Path) -> dict[str, str]:
    run(find_inputs([large]), tmp_path / "undisturbed")
    return outputs(tmp_path / "undisturbed")


def test_bytes_do_not_depend_on_the_number_of_workers(
    large: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    run(find_inputs([large]), tmp_path / "processes", workers=2)
    assert outputs(tmp_path / "processes") == undisturbed
    with open_folder(tmp_path / "threads") as folder, ThreadPoolExecutor(3) as executor:
        ingest(find_inputs([large]), folder, IngestOptions(), executor, lambda *_: None)
    assert outputs(tmp_path / "threads") == undisturbed


@pytest.mark.parametrize("units", [1, 4, 9, 14, 30])
def test_a_stage_interrupted_and_run_again_gives_the_same_bytes(
    units: int, large: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    left = units

    def interrupt(*_: Any) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        open_folder(tmp_path / "out") as folder,
        open_executor(1) as executor,
    ):
        ingest(find_inputs([large]), folder, IngestOptions(), executor, interrupt)
    run(find_inputs([large]), tmp_path / "out")
    assert outputs(tmp_path / "out") == undisturbed


def test_a_file_that_was_already_parsed_as_a_whole_is_not_cut(large: Path, tmp_path: Path) -> None:
    """As in a folder that an earlier version left half done."""

    def interrupt(step: str, *_: Any) -> None:
        if step == "ingest: duplicates":
            raise KeyboardInterrupt

    whole = as_one(large / "a.bz2", tmp_path / "whole")
    with (
        pytest.MonkeyPatch.context() as patch,
        open_folder(tmp_path / "out") as folder,
        open_executor(1) as executor,
    ):
        patch.setattr(parse, "cut", lambda *_: [])
        with pytest.raises(KeyboardInterrupt):
            ingest(find_inputs([large / "a.bz2"]), folder, IngestOptions(), executor, interrupt)
    found, names = in_pieces(large / "a.bz2", tmp_path / "out")
    assert found == whole
    assert names == ["parse-00000"]
    assert outputs(tmp_path / "out") == outputs(tmp_path / "whole")


def test_the_store_is_that_of_the_whole_file(large: Path, tmp_path: Path) -> None:
    def digest(out: Path) -> str:
        with open_folder(out) as folder, open_executor(1) as executor:
            files = find_inputs([large / "a.bz2"])
            report = prepare(files, folder, PrepareOptions(), executor, lambda *_: None)
            return report.store.digest

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parse, "cut", lambda *_: [])
        whole = digest(tmp_path / "whole")
    assert digest(tmp_path / "pieces") == whole


def flip(packed: bytes, byte: int, bit: int = 0) -> bytes:
    flipped = bytearray(packed)
    flipped[byte] ^= 1 << bit
    return bytes(flipped)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut off": lambda packed: packed[: len(packed) // 2],
    "cut at the end": lambda packed: packed[:-1],
    "cut second stream": lambda packed: packed + packed[: len(packed) // 3],
    "zeros inside": lambda packed: packed[:50_000] + bytes(500) + packed[50_500:],
    "bytes missing": lambda packed: packed[:50_000] + packed[50_010:],
    "a part twice": lambda packed: packed[:90_000] + packed[60_000:],
    "rubbish behind": lambda packed: packed + b"rubbish",
    "zeros behind": lambda packed: packed + bytes(700),
    "another level": lambda packed: packed[:3] + b"2" + packed[4:],
    "too low a level": lambda packed: b"BZh1" + bz2.compress(bz2.decompress(packed), 9)[4:],
    "checksum of all": lambda packed: flip(packed, len(packed) - 3),
    "first mark": lambda packed: flip(packed, 6),
    "first checksum": lambda packed: flip(packed, 11),
    **{f"bit at {at}%": lambda packed, at=at: flip(packed, len(packed) * at // 100, at % 8)
       for at in (5, 23, 51, 78, 97)},
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_reported_as_by_the_reader_of_whole_files(name: str, tmp_path: Path) -> None:
    path = tmp_path / "pings.bz2"
    path.write_bytes(DAMAGE[name](bz2.compress(text_of(1500), 1)))

    def outcome(how: Callable[[Path, Path], Any], out: Path) -> Any:
        try:
            found = how(path, out)
        except InputError as error:
            assert not list(out.glob("rejected/*"))
            return str(error)
        return found[0] if how is in_pieces else found

    pieces, whole = outcome(in_pieces, tmp_path / "pieces"), outcome(as_one, tmp_path / "whole")
    assert pieces == whole
    if name != "another level":
        assert f"{path}: damaged or cut-off bz2 file" in whole
        assert "\n" not in whole


def test_bits_inside_a_block_that_look_like_a_mark_change_nothing(tmp_path: Path) -> None:
    """A block says which bytes it has by one bit for each, so text can be chosen to give the bits of a mark."""
    mark = f"{0x314159265359:048b}"
    used = bytes(0x80 + i for i in range(48) if mark[i] == "1")
    path = tmp_path / "pings.bz2"
    text = b"".join(line + b"\n" + used + b"\n" for line in text_of(1500).splitlines())
    path.write_bytes(bz2.compress(text, 1))
    bits = f"{int.from_bytes(path.read_bytes()):b}"
    assert bits.count(mark) > 1.5 * len(text) / 100_000  # twice a block
    found, names = in_pieces(path, tmp_path / "pieces")
    assert names[-1] == "parse-00000"
    assert found == as_one(path, tmp_path / "whole")


@pytest.mark.parametrize("container", ["array", "indented"])
def test_what_is_not_ndjson_is_not_cut(container: str, tmp_path: Path) -> None:
    records = [ping(i, x=noise(random.Random(i), 400)) for i in range(600)]
    path = tmp_path / "pings.bz2"
    indent = 1 if container == "indented" else None
    path.write_bytes(bz2.compress(json.dumps(records, indent=indent).encode(), 1))
    found, names = in_pieces(path, tmp_path / "out")
    assert names == ["parse-00000"]
    assert len(found[3]) == 600


class Changing(Executor):
    """Runs units at once; calls `change` before number `at`."""

    def __init__(self, at: int, change: Callable[[], None]) -> None:
        self._left, self._change = at, change

    def submit(self, function: Any, /, *arguments: Any, **named: Any) -> Future[Any]:
        self._left -= 1
        if self._left == 0:
            self._change()
        future: Future[Any] = Future()
        try:
            future.set_result(function(*arguments, **named))
        except InputError as error:
            future.set_exception(error)
        return future


@pytest.mark.parametrize("keep_time", [False, True])
@pytest.mark.parametrize("at", [2, 4, 7])
def test_a_file_that_changes_while_it_is_read_is_named(
    at: int, keep_time: bool, tmp_path: Path
) -> None:
    path = tmp_path / "pings.bz2"
    path.write_bytes(bz2.compress(text_of(1500), 1))
    inputs = find_inputs([path])

    def change() -> None:
        before = path.stat()
        path.write_bytes(flip(path.read_bytes(), before.st_size - 100))
        if keep_time:
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    changed = pytest.raises(InputError, match=r"pings\.bz2: changed since this run began")
    with open_folder(tmp_path / "out") as folder, changed:
        ingest(inputs, folder, IngestOptions(), Changing(at, change), lambda *_: None)
