"""RIPE's BigQuery tables as input of `ingest`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.hashed_file import HashedFile, LocalBytes, hash_all, open_hashed
from pipeline.ingest.parts import PartWriter
from pipeline.ingest.rejects import IngestRejects
from pipeline.inputs import InputFile, RemoteInput
from stores.measurements.atlas_result import Result, Row
from stores.measurements.bigquery import read_results
from stores.measurements.regular_file import check_unchanged, open_regular


def take_table(
    file: InputFile,
    rule: Callable[[Result], Row | str],
    parts: PartWriter,
    rejects: IngestRejects,
) -> tuple[int, int, str]:
    """Turn each row of a table into a row or a reject; return the numbers of all and of rows, and the file's hash.

    Raises `InputError` for a file that is damaged or no such table, or has changed since it was found.
    """
    rows = accepted = 0
    with _open(file) as source:
        for batch in read_results(source, file.path, file.name):
            for at, result in enumerate(batch.results):
                rows += 1
                outcome = result if isinstance(result, str) else rule(result)
                if isinstance(outcome, tuple):
                    parts.add(outcome, rows)
                    accepted += 1
                else:
                    rejects.add(rows, outcome, memoryview(json.dumps(batch.record(at)).encode()))
        digest = hash_all(source)  # of the very blocks that the rows came from
    return rows, accepted, digest.sha256


@contextmanager
def _open(file: InputFile) -> Iterator[HashedFile]:
    """The open file, which is the one that was found when it is opened and when it is closed again. One at a URL
    is so with every request."""
    if isinstance(file, RemoteInput):
        with open_hashed(file) as source:
            yield source
        return
    with open_regular(file.path) as descriptor:
        check_unchanged(file.path, descriptor, file.size, file.mtime_ns)
        yield HashedFile(file.path, LocalBytes(file.path, descriptor))
        check_unchanged(file.path, descriptor, file.size, file.mtime_ns)
