"""A real S3 server, which is another process, and how tests find it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.stores.remote_servers import Relay

SERVER = Path(sys.prefix) / "s3/bin/moto_server"
KEY, SECRET, TOKEN = "AKIANEVERPRINTED", "sesame/never+printed", "a-token-never-printed"
SIGNED = {
    "Authorization": "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/s3/aws4_request, "
    "SignedHeaders=host, Signature=x"
}


@contextmanager
def s3_server() -> Iterator[str]:
    """An S3 server for the block; yields its URL. Skips the test where none is installed."""
    if not SERVER.exists():
        pytest.skip(f"{SERVER} is not installed: run `make setup`")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [SERVER, "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"{url}/moto-api/data.json").close()
                break
            except OSError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
        yield url
    finally:
        process.kill()
        process.wait()


def new_bucket(server: str) -> str:
    """Make a bucket; return its s3:// URL."""
    name = f"bucket{uuid.uuid4().hex[:8]}"
    make = urllib.request.Request(f"{server}/{name}", method="PUT", headers=SIGNED)
    urllib.request.urlopen(make).close()
    return f"s3://{name}"


def environment(endpoint: str) -> dict[str, str]:
    """The variables with which s3:// URLs lead there."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_SESSION_TOKEN": TOKEN,
    }


def use(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """Set the environment so that s3:// URLs lead there."""
    for name, value in environment(endpoint).items():
        monkeypatch.setenv(name, value)


@contextmanager
def google(monkeypatch: pytest.MonkeyPatch, server: str, folder: Path) -> Iterator[None]:
    """For the block, gs:// URLs lead to the same buckets: reading, writing and listing files of Google's storage is
    done in the words of S3. But nobody signs what is asked of an emulator, so that is made up for on the way."""
    relay = Relay(server)
    relay.headers = SIGNED
    with relay.serve() as url:
        account = {"gcs_base_url": url, "disable_oauth": True}
        secrets = dict.fromkeys(("client_email", "private_key", "private_key_id"), "")
        (folder / "account.json").write_text(json.dumps(account | secrets))
        monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(folder / "account.json"))
        monkeypatch.setenv("GOOGLE_ALLOW_HTTP", "true")
        yield


def change(server: str, url: str, content: bytes | None) -> None:
    """Write an object behind our back, or delete it."""
    request = urllib.request.Request(
        f"{server}/{quote(url.removeprefix('s3://'))}",
        data=content,
        method="DELETE" if content is None else "PUT",
        # without a type, urllib calls it a form, and the server would read it as one and keep nothing
        headers={**SIGNED, "Content-Type": "application/octet-stream"},
    )
    urllib.request.urlopen(request).close()
