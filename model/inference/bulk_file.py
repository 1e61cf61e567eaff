"""Answers to a file of pairs, in a file: written part by part, so that a run that was killed goes on.

Parts are in the folder `FILE.parts` beside `FILE`, with a record of what they are the answers to. `FILE` appears
when all are there, and the folder goes.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.inference.bulk import (
    COLUMNS,
    ROWS_AT_ONCE,
    Answer,
    Contexts,
    Pair,
    Predictor,
    answer_pairs,
    matrix_of,
    pairs_of,
)
from model.inference.context_file import measurements_in, nothing_usable
from stores.errors import ConfigError, OutputError
from stores.files import atomic_path, parse_json, sha256_file, sync_file, write_json
from stores.measurements.reader import open_rows
from stores.measurements.regular_file import changed, open_regular

FORMATS = {".csv": ".csv", ".jsonl": ".jsonl", ".ndjson": ".jsonl", ".parquet": ".parquet"}
"""What is written, by the suffix of the output."""
STDIN = "-"
_PLAN = "plan.json"

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class BulkQuestion:
    """What to answer, and where to write it."""

    pairs: str
    """A file, or `STDIN`."""
    out: Path
    context: Path | None = None
    time: float | None = None
    matrix: bool = False


@dataclass(frozen=True)
class BulkResult:
    """What was written."""

    rows: int
    answered: int
    problems: dict[str, int]
    """How many rows of the pairs have no answer, by what is wrong: the field, "row", or the reason of `prepare`."""
    context_left_out: dict[str, int]
    """How many rows of the context were not used, by reason."""


def check_out(out: Path) -> None:
    """Raise `ConfigError` unless answers can be written to a file of this name."""
    if out.suffix.lower() not in FORMATS:
        raise ConfigError(f"--out {out}: expected a name that ends in {', '.join(FORMATS)}")
    if out.is_dir():
        raise ConfigError(f"--out {out}: is a folder, expected a file")


def weights_digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 of all weights, by which a run that goes on knows that the model is still the same."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def answer_file(
    model: Predictor, digest: str, question: BulkQuestion, progress: Progress
) -> BulkResult:
    """Write an answer for each row of the pairs to the output; `digest` is that of the model's weights.

    Calls `progress(done, total)`. Raises `InputError` for a file that cannot be read, `ConfigError` when the
    parts that are there answer something else, `OutputError`.
    """
    with _parts_folder(question.out) as folder:
        pairs = folder / "pairs" if question.pairs == STDIN else Path(question.pairs)
        if question.pairs == STDIN:
            with atomic_path(pairs) as temporary, open(temporary, "wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
        read = _file_digest(pairs)
        _begin(folder, digest, question, read)

        def given() -> Iterator[Pair]:
            with open_rows(str(pairs), question.pairs, others=True) as found:
                yield from pairs_of(found.rows, question.time)

        def asked() -> Iterator[Pair]:
            return matrix_of(given(), question.time) if question.matrix else given()

        total = sum(1 for _ in asked())
        left_out: Counter[str] = Counter()
        contexts = _read_contexts(question.context, asked(), model.config.context, left_out)
        parts = _write_parts(folder, asked(), total, model, contexts, question.out, progress)
        if _file_digest(pairs) != read:
            raise changed(pairs)
        with atomic_path(question.out) as temporary:
            _join(temporary, parts, question.out.suffix)
        sync_file(question.out)
        problems = _problems(given())
        shutil.rmtree(folder, ignore_errors=True)
    answered = total if question.matrix else total - sum(problems.values())
    return BulkResult(total, answered, problems, dict(left_out.most_common()))


@contextmanager
def _parts_folder(out: Path) -> Iterator[Path]:
    """The folder of the parts, which no other process uses meanwhile."""
    folder = out.with_name(f"{out.name}.parts")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise OutputError(f"{folder}: cannot write: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield folder
    except BlockingIOError:
        raise OutputError(f"{out}: another process is writing it: choose another --out") from None
    finally:
        os.close(descriptor)


def _begin(folder: Path, digest: str, question: BulkQuestion, pairs: str) -> None:
    """Note what is answered, or compare it with what was noted."""
    plan = {
        "pairs": pairs,
        "context": question.context and _file_digest(question.context),
        "model": digest,
        "time": question.time,
        "matrix": question.matrix,
        "columns": list(COLUMNS),
        "rows_per_part": ROWS_AT_ONCE,
    }
    path = folder / _PLAN
    if not path.exists():
        write_json(path, plan)
        return
    try:
        known = parse_json(path.read_bytes())
    except ValueError:
        known = None  # lost with the power; what it stood for is unknown
    if known != plan:
        old = known if isinstance(known, dict) else {}
        differing = [name for name in plan if old.get(name) != plan[name]]
        raise ConfigError(
            f"{folder}: holds the beginning of other answers ({', '.join(differing)} differ): "
            "remove it, or choose another --out"
        )


def _file_digest(path: Path) -> str:
    with open_regular(path):  # an error of one line where it cannot be read
        return sha256_file(path)


def _read_contexts(
    path: Path | None, asked: Iterable[Pair], window: int, left_out: Counter[str]
) -> Contexts | None:
    if path is None:
        return None
    contexts = Contexts(asked, window)
    with open_rows(str(path)) as found:
        for measurement in measurements_in(found, str(path), left_out):
            contexts.add(measurement)
    if found.kind != "text" and not contexts.seen:
        raise nothing_usable(str(path), left_out)
    return contexts


def _write_parts(
    folder: Path,
    asked: Iterator[Pair],
    total: int,
    model: Predictor,
    contexts: Contexts | None,
    out: Path,
    progress: Progress,
) -> list[Path]:
    """Write those parts that are not there yet; return all, in order."""
    suffix = FORMATS[out.suffix.lower()]
    parts = []
    for number in range(-(-total // ROWS_AT_ONCE) or 1):
        part = folder / f"part-{number:06d}{suffix}"
        parts.append(part)
        chunk = list(islice(asked, ROWS_AT_ONCE))
        if not part.exists():
            answers = [answer for some in answer_pairs(model, chunk, contexts) for answer in some]
            with atomic_path(part) as temporary:
                _write(temporary, answers, suffix)
            sync_file(part)
        progress(min(total, (number + 1) * ROWS_AT_ONCE), total)
    return parts


def _write(path: Path, answers: Sequence[Answer], suffix: str) -> None:
    if suffix == ".parquet":
        from stores.measurements.arrow_tables import write_table

        write_table(path, answers, COLUMNS)
    elif suffix == ".csv":
        with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            csv.DictWriter(file, list(COLUMNS), lineterminator="\n").writerows(answers)
    else:
        path.write_text("".join(json.dumps(answer) + "\n" for answer in answers), encoding="utf-8")


def _join(path: Path, parts: Sequence[Path], suffix: str) -> None:
    suffix = FORMATS[suffix.lower()]
    if suffix == ".parquet":
        from stores.measurements.arrow_tables import join_tables

        return join_tables(path, parts)
    with open(path, "wb") as whole:
        if suffix == ".csv":
            whole.write((",".join(COLUMNS) + "\n").encode())
        for part in parts:
            with open(part, "rb") as file:
                shutil.copyfileobj(file, whole)


def _problems(asked: Iterable[Pair]) -> dict[str, int]:
    """How many pairs have each kind of problem."""
    counted = Counter(pair.kind for pair in asked if pair.problem is not None)
    return dict(counted.most_common())


def as_dict(result: BulkResult, out: Path) -> dict[str, Any]:
    """JSON-able."""
    return {"out": str(out), **asdict(result)}
