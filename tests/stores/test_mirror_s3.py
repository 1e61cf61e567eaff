"""push and pull with a real S3 server, which is another process, and what must never be printed."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stores import TokenStore
from stores.errors import DamagedStoreError, NotAStoreError, RemoteError
from stores.pull import pull
from stores.push import push
from stores.verify import verify_store
from tests.s3_server import KEY, SECRET, TOKEN, change, google, new_bucket, s3_server, use
from tests.stores.mirrors import ALL, CHUNK, ROOT, content_of, run
from tests.stores.remote_servers import Relay, repeating


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """URL of an S3 server that lives as long as the tests of this file."""
    with s3_server() as url:
        yield url


@pytest.fixture
def s3(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """s3:// URL in a new bucket, the environment set so that it is found."""
    use(monkeypatch, server)
    return f"{new_bucket(server)}/some/pings"


def test_a_store_goes_to_a_bucket_and_comes_back(s3: str, store_path: Path, tmp_path: Path) -> None:
    there = push(store_path, s3)
    assert push(store_path, s3).sent_files == 0
    back = pull(s3, tmp_path / "back")
    assert content_of(tmp_path / "back") == content_of(store_path)
    assert there.digest == back.digest == TokenStore.open(tmp_path / "back").digest


def test_a_store_goes_to_google_s_storage_and_comes_back(
    server: str, store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with google(monkeypatch, server, tmp_path):
        url = f"{new_bucket(server).replace('s3://', 'gs://')}/some/pings"
        there = push(store_path, url)
        assert push(store_path, url).sent_files == 0
        back = pull(url, tmp_path / "back")
        with pytest.raises(NotAStoreError, match=r"^gs://"):
            pull(f"{url}/other", tmp_path / "other")
    assert content_of(tmp_path / "back") == content_of(store_path)
    assert there.digest == back.digest == TokenStore.open(tmp_path / "back").digest


@pytest.mark.parametrize("harm", ["flipped", "truncated", "missing"])
def test_a_damaged_object_is_named_and_pushing_again_mends_it(
    harm: str, server: str, s3: str, store_path: Path, tmp_path: Path
) -> None:
    push(store_path, s3)
    content = (store_path / CHUNK).read_bytes()
    harmed = {
        "flipped": content[:100] + bytes([content[100] ^ 1]) + content[101:],
        "truncated": content[:-5],
        "missing": None,
    }[harm]
    change(server, f"{s3}/{CHUNK}", harmed)
    with pytest.raises(DamagedStoreError, match=f"^{s3}/{CHUNK}: .*: push the store again$"):
        pull(s3, tmp_path / "back")
    assert push(store_path, s3).sent_files == 1
    pull(s3, tmp_path / "back")
    assert content_of(tmp_path / "back") == content_of(store_path)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("moment", [1, 30, ALL])
def test_a_killed_push_is_not_a_store_and_the_rerun_completes(
    moment: int,
    when: str,
    server: str,
    s3: str,
    store_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    relay = Relay(server)
    with relay.serve() as endpoint:
        use(monkeypatch, endpoint)
        killed = subprocess.Popen(
            [sys.executable, ROOT / "cli.py", "push", store_path, s3, "--parallel", "2"]
        )

        def kill(count: int, now: str) -> bool:
            if (count, now) != (moment, when):
                return False
            killed.kill()
            return True

        relay.on_write = kill
        assert killed.wait(60) == -signal.SIGKILL
    use(monkeypatch, server)
    if (moment, when) == (ALL, "after"):  # the manifest had arrived
        assert push(store_path, s3).sent_files == 0
    else:
        with pytest.raises(NotAStoreError):
            pull(s3, tmp_path / "back")
        push(store_path, s3)
    assert pull(s3, tmp_path / "back").digest == TokenStore.open(store_path).digest
    assert verify_store(tmp_path / "back").sound


def test_bytes_that_change_on_the_way_to_the_bucket_are_noticed(
    server: str, s3: str, store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = Relay(server)
    relay.spoil = lambda path, body: body[:-1] + b"\x7f" if path.endswith(CHUNK) else body
    with relay.serve() as endpoint:
        use(monkeypatch, endpoint)
        with pytest.raises(RemoteError, match=f"^{s3}/{CHUNK}: .* others arrived: push again$"):
            push(store_path, s3)
        with pytest.raises(NotAStoreError):
            pull(s3, tmp_path / "back")
        relay.spoil = lambda path, body: body
        push(store_path, s3)
        assert pull(s3, tmp_path / "back").digest == TokenStore.open(store_path).digest


def silent_about_secrets(done: subprocess.CompletedProcess[str]) -> None:
    for secret in (KEY, SECRET, TOKEN, "Signature", "Authorization"):
        assert secret not in done.stdout + done.stderr


@pytest.mark.parametrize("status", [301, 400, 401, 403, 409])
def test_a_server_that_repeats_what_it_was_sent_is_not_quoted(
    status: int, store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUST_LOG", "debug")
    with repeating(status) as endpoint:
        use(monkeypatch, endpoint)
        for command in (
            ("push", store_path, "s3://bucket/x"),
            ("pull", "s3://bucket/x", tmp_path / "back"),
        ):
            done = run(*command)
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr.startswith("error: s3://bucket/x/zarr.json: ")
            assert len(done.stderr.splitlines()) == 1
            silent_about_secrets(done)


def test_what_goes_well_and_what_the_server_refuses_show_no_secret(
    s3: str, store_path: Path, tmp_path: Path
) -> None:
    for command in (("push", store_path, s3), ("pull", s3, tmp_path / "back", "--json")):
        done = run(*command)
        assert done.returncode == 0, done.stderr
        silent_about_secrets(done)
    no_bucket = run("push", store_path, "s3://no-such-bucket/x")
    assert no_bucket.returncode == 1
    assert no_bucket.stderr == "error: s3://no-such-bucket/x: there is no such bucket\n"
    written = content_of(tmp_path / "back").values()
    assert not any(
        secret.encode() in content for secret in (KEY, SECRET, TOKEN) for content in written
    )


def test_no_server_is_one_line_without_secrets(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, "http://127.0.0.1:9")
    done = run("push", store_path, "s3://bucket/x")
    assert (done.returncode, done.stdout) == (1, "")
    assert "refuses the connection" in done.stderr
    silent_about_secrets(done)
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    assert (
        "plain http is not allowed: set AWS_ALLOW_HTTP=true"
        in run("push", store_path, "s3://bucket/x").stderr
    )
