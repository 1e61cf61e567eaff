"""Objects in a bucket of a real S3 server: which are meant, and how they are read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest

from pipeline.hashed_file import hash_file
from pipeline.input_stream import open_input
from pipeline.inputs import InputFile, find_inputs, find_left_out
from pipeline.remote import tries
from pipeline.remote.objects import bucket_of
from stores.errors import InputError, RemoteError
from tests.s3_server import KEY, SECRET, TOKEN, change, new_bucket, s3_server, use
from tests.stores.remote_servers import Relay

TEXT = b"".join(b'{"a": %d}\n' % i for i in range(300_000))


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """s3:// URL of a new bucket; the environment says how to get there."""
    bucket_of.cache_clear()  # the environment is asked when a bucket is opened
    monkeypatch.setattr(tries, "FIRST_PAUSE", 0.001)
    use(monkeypatch, server)
    return new_bucket(server)


def names(*urls: str) -> list[str]:
    return [file.name for file in find_inputs(urls)]


def put(server: str, bucket: str, *keys: str) -> None:
    for key in keys:
        change(server, f"{bucket}/{key}", b"{}\n" if not key.endswith("/") else b"")


def test_urls_of_objects_folders_and_globs_mean_what_local_paths_do(
    server: str, bucket: str
) -> None:
    put(
        server, bucket, "pings/2023-12/a.bz2", "pings/2024-01/a.bz2", "pings/2024-01/b.bz2", "pings/",
        "pings/2024-02/a.bz2", "pings/2024-02/README", "pings/2024-02/.hidden.json", "pings/x.parquet",
        "pings/2024-02/deep/c.json", "pings-old/a.bz2", "a[1].json", "with space.json",
    )  # fmt: skip
    assert names(f"{bucket}/pings/2024-*/*.bz2") == [
        "2024-01/a.bz2",
        "2024-01/b.bz2",
        "2024-02/a.bz2",
    ]
    assert names(f"{bucket}/pings/2024-0[2-9]/?.*") == ["2024-02/a.bz2"]
    assert names(f"{bucket}/pings/**/c.json") == ["2024-02/deep/c.json"]
    assert names(f"{bucket}/pings/**/*.bz2") == [
        "2023-12/a.bz2", "2024-01/a.bz2", "2024-01/b.bz2", "2024-02/a.bz2",
    ]  # fmt: skip
    folder = f"{bucket}/pings/2024-0?"
    assert names(folder) == [*names(f"{bucket}/pings/2024-*/*.bz2"), "2024-02/deep/c.json"]
    assert find_left_out([folder, f"{bucket}/a[1].json"]) == ["2024-02/README"]
    assert len(find_inputs([f"{bucket}/pings"])) == 6
    assert names(f"{bucket}/pings/") == names(f"{bucket}/pings")
    assert names(bucket) == names(f"{bucket}/") == sorted(
        [*(f"pings/{name}" for name in names(f"{bucket}/pings")), "pings-old/a.bz2", "a[1].json",
         "with space.json"]
    )  # fmt: skip
    assert names(f"{bucket}/pings/2024-02/README") == ["README"]
    assert names(f"{bucket}/a[1].json", f"{bucket}/with space.json") == [
        "a[1].json",
        "with space.json",
    ]
    both = [
        f"{bucket}/pings/2024-01/a.bz2",
        f"{bucket}/pings/2024-02/a.bz2",
        f"{bucket}/pings/2024-01",
    ]
    assert names(*both) == ["2024-01/a.bz2", "2024-02/a.bz2", "b.bz2"]
    for missing in ("nothing", "pings/2025-*/*", "pings/2024-01/a"):
        with pytest.raises(InputError, match=f"^{bucket}/.*: no such object or folder"):
            names(f"{bucket}/{missing}")


def test_a_table_is_known_by_its_first_bytes_or_its_suffix(server: str, bucket: str) -> None:
    change(server, f"{bucket}/table", b"PAR1....")
    put(server, bucket, "b.PARQUET", "results")
    kinds = {
        name: find_inputs([f"{bucket}/{name}"])[0].kind
        for name in ("table", "b.PARQUET", "results")
    }
    assert kinds == {"table": "parquet", "b.PARQUET": "parquet", "results": "atlas"}


def content(file: InputFile) -> bytes:
    with open_input(file) as stream:
        text = b"".join(stream.blocks())
    assert (stream.sha256, stream.size) == (hashlib.sha256(text).hexdigest(), len(text))
    return text


@pytest.mark.parametrize("fault", ["503", "drop"])
def test_what_breaks_off_is_resumed(
    fault: str, server: str, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(server, f"{bucket}/a.json", TEXT)
    [file] = find_inputs([f"{bucket}/a.json"])
    relay, asked = Relay(server), []

    def every_other(path: str) -> str | None:
        asked.append(path)
        return fault if len(asked) % 3 else None

    relay.fault = every_other
    with relay.serve() as endpoint:
        use(monkeypatch, endpoint)
        bucket_of.cache_clear()
        assert content(file) == TEXT
        assert hash_file(file).sha256 == hashlib.sha256(TEXT).hexdigest()
        assert len(asked) >= 6
        relay.fault = lambda path: fault
        with pytest.raises(RemoteError, match=rf"^{bucket}/a\.json: .* \(8 tries\)$") as caught:
            content(file)
    assert not any(secret in str(caught.value) for secret in (KEY, SECRET, TOKEN))


@pytest.mark.parametrize("other", [TEXT[:-1] + b"#", TEXT[:-5], TEXT * 2, None])
def test_an_object_that_changes_is_named(other: bytes | None, server: str, bucket: str) -> None:
    where = f"{bucket}/a.json"
    changed = pytest.raises(InputError, match=f"^{where}: changed since this run began")
    change(server, where, TEXT)
    [file] = find_inputs([where])
    change(server, where, other)
    with changed:
        content(file)
    with changed:
        hash_file(file)
    change(server, where, TEXT)
    with changed, open_input(file) as stream:
        for block in stream.blocks():
            assert block == TEXT
            change(server, where, other)


def test_a_missing_bucket_is_one_line(bucket: str) -> None:
    with pytest.raises(RemoteError, match=r"^s3://no-such-bucket[^ ]*: there is no such bucket$"):
        names("s3://no-such-bucket/pings/*")
    with pytest.raises(InputError, match=r"expected s3://BUCKET/PATH, and nothing secret in it"):
        names("s3://key:secret@bucket/x")
