"""push and pull: whole or not at all, checked on arrival, continued after whatever ended them."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stores import TokenStore
from stores.errors import (
    ConfigError,
    DamagedStoreError,
    NotAStoreError,
    OutputError,
    PinglmError,
    RemoteError,
)
from stores.manifest import Manifest, read_manifest, write_manifest
from stores.pull import cached, pull
from stores.push import push
from stores.verify import verify_store
from tests.helpers import Writes, build_store
from tests.stores.mirrors import CHUNK, FILES, content_of, run


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def lengthen(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\0")


def test_a_store_comes_back_as_it_went_and_nothing_is_sent_twice(
    store_path: Path, tmp_path: Path
) -> None:
    url = (tmp_path / "bucket").as_uri()
    there = push(store_path, url)
    assert there.sent_files == there.files == FILES
    assert push(store_path, url).sent_files == 0
    back = pull(url, tmp_path / "deep/er")
    assert back.sent_bytes == back.bytes == there.sent_bytes
    assert pull(url, tmp_path / "deep/er").sent_files == 0
    assert content_of(tmp_path / "deep/er") == content_of(store_path)
    assert back.digest == there.digest == TokenStore.open(store_path).digest


def test_the_commands_say_what_they_did(store_path: Path, tmp_path: Path) -> None:
    url = (tmp_path / "bucket").as_uri()
    digest = TokenStore.open(store_path).digest
    done = run("push", store_path, url)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"pushed {store_path} to {url} in ")
    assert done.stdout.endswith(f"digest {digest}\n")
    done = run("pull", url, tmp_path / "back", "--json")
    report = json.loads(done.stdout)
    assert (report["digest"], report["sent_files"]) == (digest, FILES)
    assert done.stderr == ""
    assert "all of them there already" in run("pull", url, tmp_path / "back").stdout


def test_a_name_that_a_terminal_would_obey_is_escaped(store_path: Path, tmp_path: Path) -> None:
    named = Path(shutil.copytree(store_path, tmp_path / "a\x1b[2Jb.zarr"))
    done = run("push", named, (tmp_path / "bucket").as_uri())
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"pushed {tmp_path}/a\\x1b[2Jb.zarr to ")


def other_type(metadata: Path) -> None:
    metadata.write_text(metadata.read_text().replace("uint16", "uint32"))


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        *((CHUNK, harm) for harm in (flip, truncate, lengthen, Path.unlink)),
        *(("test/full/length/c/0", harm) for harm in (flip, Path.unlink)),
        *(("train/full/tokens/zarr.json", harm) for harm in (other_type, truncate, Path.unlink)),
    ],
)
def test_a_damaged_bucket_is_named_and_pushing_again_mends_it(
    name: str, harm: Callable[[Path], None], store_path: Path, bucket: Path, tmp_path: Path
) -> None:
    harm(bucket / name)
    with pytest.raises(DamagedStoreError) as raised:
        pull(bucket.as_uri(), tmp_path / "back")
    message = str(raised.value)
    assert message.startswith(f"{bucket.as_uri()}/{name}: ")
    assert "\n" not in message
    assert message.endswith("push the store again")
    with pytest.raises(NotAStoreError, match="run `pull` \\(again\\)"):
        TokenStore.open(tmp_path / "back")
    push(store_path, bucket.as_uri())
    pull(bucket.as_uri(), tmp_path / "back")
    assert content_of(tmp_path / "back") == content_of(store_path)


def test_a_damaged_manifest_is_named_and_pushing_again_mends_it(
    store_path: Path, bucket: Path, tmp_path: Path
) -> None:
    manifest = bucket / "zarr.json"
    manifest.write_text(manifest.read_text().replace('"rows": 3403', '"rows": 3404'))
    with pytest.raises(DamagedStoreError, match=r"zarr\.json: the manifest's digest is"):
        pull(bucket.as_uri(), tmp_path / "back")
    push(store_path, bucket.as_uri())
    assert pull(bucket.as_uri(), tmp_path / "back").digest == TokenStore.open(store_path).digest


def test_mending_a_bucket_takes_its_manifest_away_first(
    store_path: Path, bucket: Path, tmp_path: Path
) -> None:
    damaged = Path(shutil.copytree(store_path, tmp_path / "damaged"))
    truncate(bucket / "test/full/length/c/0")
    flip(damaged / CHUNK)
    flip(bucket / "train/full/tokens/c/0/0")
    with pytest.raises(DamagedStoreError, match=CHUNK):
        push(damaged, bucket.as_uri(), parallel=1)
    assert not (bucket / "zarr.json").exists()
    push(store_path, bucket.as_uri())
    assert content_of(bucket) == content_of(store_path)


@pytest.mark.parametrize("harm", [flip, truncate, Path.unlink])
def test_a_damaged_store_is_not_pushed(
    harm: Callable[[Path], None], store_path: Path, tmp_path: Path
) -> None:
    damaged = Path(shutil.copytree(store_path, tmp_path / "store.zarr"))
    harm(damaged / CHUNK)
    with pytest.raises(DamagedStoreError, match=f"^{damaged / CHUNK}: "):
        push(damaged, (tmp_path / "bucket").as_uri())
    with pytest.raises(NotAStoreError):
        pull((tmp_path / "bucket").as_uri(), tmp_path / "back")


def test_a_store_with_damaged_metadata_is_not_pushed(store_path: Path, tmp_path: Path) -> None:
    """The manifest has no digests of these files."""
    damaged = Path(shutil.copytree(store_path, tmp_path / "store.zarr"))
    truncate(damaged / "train" / "full" / "tokens" / "zarr.json")
    with pytest.raises(DamagedStoreError, match="train/full/tokens"):
        push(damaged, (tmp_path / "bucket").as_uri())
    assert not (tmp_path / "bucket").exists()


@pytest.mark.parametrize("harm", [flip, truncate, Path.unlink])
def test_pulling_again_mends_a_damaged_copy(
    harm: Callable[[Path], None], store_path: Path, bucket: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(store_path, tmp_path / "copy"))
    harm(copy / CHUNK)
    assert pull(bucket.as_uri(), copy).sent_files == 1
    assert content_of(copy) == content_of(store_path)


def test_what_holds_something_else_stays_as_it_is(
    store_path: Path, bucket: Path, tmp_path: Path
) -> None:
    other = build_store(tmp_path / "other", train=200, test=50, seed=5)
    before = content_of(other), content_of(bucket)
    with pytest.raises(ConfigError, match=r"holds the store [0-9a-f]{64}, not"):
        push(other, bucket.as_uri())
    with pytest.raises(ConfigError, match="pull into a new folder"):
        pull(bucket.as_uri(), other)
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters/a.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds something else"):
        pull(bucket.as_uri(), tmp_path / "letters")
    assert (content_of(other), content_of(bucket)) == before


def test_a_store_that_changes_during_a_pull_is_an_error(bucket: Path, tmp_path: Path) -> None:
    (bucket / CHUNK).unlink()
    with pytest.raises(DamagedStoreError):
        pull(bucket.as_uri(), tmp_path / "back")
    shutil.rmtree(bucket)
    push(build_store(tmp_path / "other", train=200, test=50, seed=5), bucket.as_uri())
    with pytest.raises(ConfigError, match="began the store"):
        pull(bucket.as_uri(), tmp_path / "back")


def test_a_manifest_cannot_name_files_outside_the_store(bucket: Path, tmp_path: Path) -> None:
    manifest = read_manifest(bucket)
    chunk = next(iter(manifest.files.values()))
    outside = "not a path inside the store"
    for name, problem in (
        ("../../outside", outside),
        ("/tmp/outside", outside),
        ("train/full/tokens/c/../0", outside),
        (CHUNK + "\n", "no file of a store"),
        ("outside", "no file of a store"),
    ):
        files = {**manifest.files, name: chunk}
        write_manifest(bucket, Manifest(**{**vars(manifest), "files": files}))
        with pytest.raises(DamagedStoreError, match=problem):
            pull(bucket.as_uri(), tmp_path / "back")


# --- URLs, disks, and the cache -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("data/store", "expected a URL that begins with s3://, gs://, file://"),
        ("ftp://host/x", "ftp://: expected a URL that begins with"),
        ("https://host/x", "https://: expected a URL that begins with"),
        ("s3://KEY:SECRET@bucket/x", "nothing secret in it"),
        ("s3://KEY:SEC/RET@bucket/x", "nothing secret in it"),
        ("gs://bucket/x?token=SECRET", "nothing secret in it"),
        ("file://elsewhere/x", "expected file:///PATH"),
        ("s3:///x", "cannot be used"),
    ],
)
def test_wrong_urls_are_refused_and_secrets_in_them_not_repeated(
    url: str, problem: str, store_path: Path
) -> None:
    with pytest.raises(PinglmError) as raised:
        push(store_path, url)
    assert problem in str(raised.value)
    assert "SEC" not in str(raised.value)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a tmpfs with the given options; it is gone after the test."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("this machine does not let the test mount a small tmpfs")
        return disk

    yield mount
    subprocess.run(["umount", str(disk)], capture_output=True, check=False)


@pytest.mark.parametrize(
    ("options", "problem"),
    [("size=300k", "but the disk has only"), ("nr_inodes=60", "No space left on device")],
)
def test_a_full_disk_is_named_and_the_rerun_completes(
    options: str,
    problem: str,
    bucket: Path,
    store_path: Path,
    small_disk: Callable[[str], Path],
) -> None:
    disk = small_disk(options)
    failed = run("pull", bucket.as_uri(), disk / "store")
    assert failed.returncode == 1
    assert failed.stderr.startswith(f"error: {disk}/store")
    assert problem in failed.stderr
    assert len(failed.stderr.splitlines()) == 1
    with pytest.raises(NotAStoreError):
        TokenStore.open(disk / "store")
    subprocess.run(["mount", "-o", "remount,size=9m,nr_inodes=999", disk], check=True)
    pull(bucket.as_uri(), disk / "store")
    assert content_of(disk / "store") == content_of(store_path)


def test_a_full_disk_under_a_bucket_is_named(
    store_path: Path, small_disk: Callable[[str], Path]
) -> None:
    disk = small_disk("size=300k")
    with pytest.raises(RemoteError, match="no space left"):
        push(store_path, disk.as_uri())
    assert not (disk / "zarr.json").exists()
    subprocess.run(["mount", "-o", "remount,size=9m", disk], check=True)
    push(store_path, disk.as_uri())
    assert verify_store(disk).sound


def test_the_cache_keeps_stores_by_digest(
    bucket: Path, store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path, copied = cached(bucket.as_uri())
    digest = TokenStore.open(store_path).digest
    assert path == tmp_path / f"cache/pinglm/stores/{digest}.zarr"
    assert copied is not None
    assert cached(bucket.as_uri()) == (path, None)
    (path / CHUNK).unlink()
    _, mended = cached(bucket.as_uri())
    assert mended is not None
    assert mended.sent_files == 1
    shutil.rmtree(bucket)
    push(build_store(tmp_path / "other", train=200, test=50, seed=5), bucket.as_uri())
    assert cached(bucket.as_uri())[0] != path


def test_files_are_on_disk_under_their_names_before_the_manifest(
    bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = Writes(monkeypatch)
    pull(bucket.as_uri(), tmp_path / "store")
    files = [tmp_path / "store" / name for name in content_of(tmp_path / "store")]
    assert len(files) > 10
    assert [file for file in files if not writes.durable(file)] == []
    assert writes.names()[-1].name == "zarr.json"
    assert writes.names()[-1].parent == tmp_path / "store"


def test_commands_take_the_url_of_a_store(bucket: Path, tmp_path: Path) -> None:
    url, cache = bucket.as_uri(), str(tmp_path / "cache")
    digest = TokenStore.open(bucket).digest
    first = run("verify-store", url, XDG_CACHE_HOME=cache)
    assert first.returncode == 0, first.stderr
    assert first.stderr.startswith(f"pulled {url} to {cache}/pinglm/stores/{digest}.zarr in ")
    for command in (["inspect-store", url], ["decode", url]):
        done = run(*command, "--json", XDG_CACHE_HOME=cache)
        assert (done.returncode, done.stderr) == (0, "")
        assert digest in done.stdout
