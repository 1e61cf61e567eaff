"""Inputs of all kinds, here, in a bucket and on a web server."""

from __future__ import annotations

import bz2
import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from pipeline.ingest import stage
from pipeline.remote import tries
from pipeline.remote.objects import bucket_of
from tests.measurements.bigquery_table import write_bigquery
from tests.pipeline.ingest.results import lines, ping
from tests.pipeline.remote.prepared import PIECE, contents, digest, files_of
from tests.pipeline.remote.web_server import Web
from tests.pipeline.tables import measurement_table, write_parquet
from tests.s3_server import change, new_bucket, s3_server, use


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inputs of all kinds, one of them in pieces; some rows bad, some twice."""
    folder = tmp_path_factory.mktemp("in")
    rng = random.Random(0)
    text = lines([ping(rng.randrange(900), x=rng.randbytes(100).hex()) for _ in range(1500)])
    (folder / "2024-01").mkdir()
    (folder / "2024-01/ping-a.bz2").write_bytes(bz2.compress(text + b"{\n" + text[:5000], 1))
    (folder / "2024-01/ping-b.json.gz").write_bytes(
        gzip.compress(lines([ping(i) for i in range(300)]))
    )
    (folder / "c.json").write_text(json.dumps([ping(i, msm_id=5) for i in range(200)]))
    (folder / "d.jsonl.zst").write_bytes(
        zstandard.compress(lines([ping(i, af=6) for i in range(50)]))
    )
    (folder / "empty.json").write_bytes(b"")
    write_bigquery(folder / "q.parquet", [ping(i, msm_id=7) for i in range(80)])
    write_parquet(measurement_table(3000), folder / "p.parquet", row_group_size=900)
    return folder


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket_of.cache_clear()
    monkeypatch.setattr(tries, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(stage, "MIN_BATCH_BYTES", PIECE)
    monkeypatch.setattr(stage, "MAX_BATCH_BYTES", PIECE)


@pytest.fixture(scope="module")
def local(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, str]]:
    """Digest of the store from local files, and all that was written."""
    out = tmp_path_factory.mktemp("local") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "MIN_BATCH_BYTES", PIECE)
        patch.setattr(stage, "MAX_BATCH_BYTES", PIECE)
        found = digest([str(folder)], out)
    return found, files_of(out)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture
def bucket(server: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """s3:// URL of the folder in a bucket."""
    use(monkeypatch, server)
    url = f"{new_bucket(server)}/all"
    for name, content in contents(folder).items():
        change(server, f"{url}/{name}", content)
    return url


@pytest.fixture
def web(folder: Path) -> Iterator[tuple[Web, list[str]]]:
    """The folder on a web server, and the URLs of its files."""
    found = Web(contents(folder))
    with found.serve() as url:
        yield found, [f"{url}/{name}" for name in found.files]


@pytest.fixture(scope="module")
def local_files(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Digest of the store from the files under their own names, as a web server gives them."""
    out = tmp_path_factory.mktemp("local") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "MIN_BATCH_BYTES", PIECE)
        patch.setattr(stage, "MAX_BATCH_BYTES", PIECE)
        return digest([str(folder / name) for name in contents(folder)], out)
