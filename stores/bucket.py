"""Files at a URL, by name: in a bucket, on a web server, or in a folder.

Credentials are found by obstore where it usually looks (environment, role of the machine or container) and
never appear in a message: what a server answers may quote them, so errors are told in our own words.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

from stores.errors import ConfigError, RemoteError, TransientError
from stores.urls import is_url

if TYPE_CHECKING:
    from obstore import GetOptions
    from obstore.store import ClientConfig, ObjectStore

WRITABLE = ("s3", "gs", "file")
READABLE = (*WRITABLE, "http", "https")

_BLOCK = 1 << 20
RETRIES = 6  # with the pauses between them, a server that is down is given up after about 6 s
_FIRST_PAUSE = timedelta(milliseconds=100)
_REQUEST = timedelta(minutes=10)  # a file of 16 MiB then needs no more than 28 kB/s
_SILENCE = timedelta(seconds=60)

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class RemoteFile:
    """A file as a listing shows it."""

    size: int
    """In bytes."""
    tag: str | None
    """What the server calls this version of the file; the MD5 of the content in most buckets."""


class Bucket:
    """The files whose names begin with the path of a URL. Safe to use from several threads."""

    def __init__(self, url: str, objects: ObjectStore) -> None:
        """Use `open_bucket`."""
        self.url = url
        self._objects = objects

    def where(self, name: str) -> str:
        """What messages call a file."""
        return f"{self.url}/{name}"

    def open(self, name: str) -> Iterator[memoryview] | None:
        """Blocks of a file's content, of about 1 MiB, or `None` when there is no such file.

        Raises `RemoteError` when the file cannot be had; the iterator does, when the connection breaks
        off. A server that fails or drops a request is asked again, up to 6 times.
        """
        import obstore

        try:
            found = obstore.get(self._objects, name)
        except FileNotFoundError:
            return None
        except Exception as error:
            raise self._explained(name, error) from None
        return self._blocks(name, iter(found.stream(_BLOCK)))

    def _blocks(self, name: str, stream: Iterator[Any]) -> Iterator[memoryview]:
        while True:
            try:
                block = next(stream)
            except StopIteration:
                return
            except Exception as error:
                raise self._explained(name, error) from None
            yield memoryview(block)

    def read(self, name: str) -> bytes | None:
        """A whole file, or `None` when there is no such file. Errors as `open`."""
        blocks = self.open(name)
        return None if blocks is None else b"".join(blocks)

    def open_range(
        self, name: str, start: int, end: int, tag: str | None
    ) -> Iterator[memoryview] | None:
        """Blocks of bytes `start` to before `end` of a file, or `None` when the file is gone, or `tag` is
        not its tag any more. Errors as `open`."""
        import obstore
        from obstore.exceptions import PreconditionError

        try:
            options: GetOptions = {"range": (start, end), "if_match": tag}
            found = obstore.get(self._objects, name, options=options)
        except (FileNotFoundError, PreconditionError):
            return None
        except Exception as error:
            raise self._explained(name, error) from None
        if tag is not None and found.meta["e_tag"] != tag:
            return None
        return self._blocks(name, iter(found.stream(_BLOCK)))

    def find(self, name: str) -> RemoteFile | None:
        """A file by its whole name, or `None` when there is no such file. Raises `RemoteError`."""
        import obstore

        try:
            file = obstore.head(self._objects, name)
        except FileNotFoundError:
            return None
        except Exception as error:
            raise self._explained(name, error) from None
        return RemoteFile(file["size"], file["e_tag"])

    def files(self, folder: str = "") -> dict[str, RemoteFile]:
        """All files, or those below a folder, by name. One request for a thousand of them. Raises
        `RemoteError`."""
        import obstore

        return self._ask(
            folder,
            lambda: {
                file["path"]: RemoteFile(file["size"], file["e_tag"])
                for page in obstore.list(self._objects, prefix=folder or None)
                for file in page
            },
        )

    def holds(self, name: str, content: bytes, listed: RemoteFile | None) -> bool:
        """Whether the file that a listing shows has this content. It is read where its tag is not the MD5
        of `content`. Errors as `open`."""
        if listed is None or listed.size != len(content):
            return False
        return _is_md5(listed.tag, content) or self.read(name) == content

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all, and make sure that it arrived: by its tag if that is an MD5,
        else by reading it. Raises `RemoteError`, also when what arrived is something else."""
        import obstore

        put = self._ask(
            name, lambda: obstore.put(self._objects, name, content, use_multipart=False)
        )
        if not _is_md5(put["e_tag"], content) and self.read(name) != content:
            raise RemoteError(
                f"{self.where(name)}: {len(content)} bytes were sent, but others arrived: push again"
            )

    def remove(self, name: str) -> None:
        """Remove a file. Raises `RemoteError`."""
        import obstore

        self._ask(name, lambda: obstore.delete(self._objects, name))

    def _ask(self, name: str, request: Callable[[], _Result]) -> _Result:
        try:
            return request()
        except Exception as error:
            raise self._explained(name, error) from None

    def _explained(self, name: str, error: Exception) -> RemoteError:
        kind = TransientError if _may_pass(error) else RemoteError
        return kind(f"{self.where(name).rstrip('/')}: {_reason(error)}")


def open_bucket(url: str, *, writing: bool = False, retries: int = RETRIES) -> Bucket:
    """The files below a URL: s3://, gs:// or file://, and http:// or https:// only to read. A request that
    fails in a way that may pass is repeated up to `retries` times.

    Nothing is asked of the server yet. Raises `ConfigError` for another scheme, and for a URL with a user,
    a password or a query, which it does not repeat.
    """
    scheme = url.partition("://")[0].lower()
    allowed = WRITABLE if writing else READABLE
    if not is_url(url) or scheme not in allowed:
        shown = f"{scheme}://" if is_url(url) else url
        raise ConfigError(
            f"{shown}: expected a URL that begins with "
            f"{', '.join(f'{each}://' for each in allowed)}"
        )
    if scheme != "file" and re.search("[@?#]", url):
        raise ConfigError(
            f"a {scheme}:// URL with @, ? or #: expected {scheme}://HOST/PATH and nothing secret in it; "
            "credentials come from the environment"
        )
    url = url.rstrip("/")
    try:
        return Bucket(url, _objects(url, scheme, writing, retries))
    except (ModuleNotFoundError, ConfigError):
        raise
    except Exception as error:
        raise ConfigError(f"{url}: cannot be used as a store's place: {_reason(error)}") from None


def _objects(url: str, scheme: str, writing: bool, retries: int) -> ObjectStore:
    from obstore.store import GCSStore, HTTPStore, LocalStore, S3Store

    if scheme == "file":
        parts = urlsplit(url)
        if parts.netloc not in ("", "localhost"):
            raise ConfigError(f"{url}: names a host: expected file:///PATH")
        folder = Path(url2pathname(url.partition("://")[2].removeprefix(parts.netloc)))
        return LocalStore(folder, mkdir=True) if writing else LocalStore(folder)
    options: ClientConfig = {"timeout": _REQUEST}
    if not writing:
        options["read_timeout"] = _SILENCE
    # options given here hide those of the environment
    variable = {"s3": "AWS_ALLOW_HTTP", "gs": "GOOGLE_ALLOW_HTTP"}.get(scheme, "")
    if scheme == "http" or os.environ.get(variable, "").lower() in ("true", "1"):
        options["allow_http"] = True
    common: dict[str, Any] = {
        "client_options": options,
        "retry_config": {"max_retries": retries, "backoff": {"init_backoff": _FIRST_PAUSE}},
    }
    if scheme == "s3":
        return S3Store.from_url(url, **common)
    if scheme == "gs":
        return GCSStore.from_url(url, **common)
    return HTTPStore.from_url(url, **common)


def _is_md5(tag: str | None, content: bytes) -> bool:
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return (tag or "").strip('"') == md5


_REASONS = (
    (r"NoSuchBucket", "there is no such bucket"),
    (r"No space left|StorageFull|os error 28", "no space left"),
    (r"os error 13|Permission denied", "permission denied"),
    (r"dns error|failed to lookup", "the host's name is not known: is the URL right?"),
    (r"ConnectionRefused|Connection refused", "the server refuses the connection: does it run?"),
    (r"kind: Timeout|timed out", "the server does not answer: try again"),
    (r"BadScheme", "plain http is not allowed: set AWS_ALLOW_HTTP=true (gs://: GOOGLE_ALLOW_HTTP)"),
    (r"status code: 401|status: 401|Unauthenticated", "not signed in: check the credentials"),
    (r"status code: 403|status: 403|PermissionDenied", "access denied: check the credentials"),
    (r"status code: 404|status: 404", "there is no such file"),
    (r"169\.254\.169\.254|InstanceCredential", "found no credentials: set them in the environment"),
    (
        r"end of file before|IncompleteMessage|ConnectionReset|BrokenPipe|kind: Body|kind: Decode|Interrupted",
        "the connection broke off: run the same command again to continue",
    ),
)
"""What is found in a library's error, and what is said for it; the first match counts."""


_PASSING = (
    r"status(?: code)?: (408|429|5\d\d)\b|SlowDown|ConnectionRefused|Connection refused|kind: Timeout|timed out|"
    r"end of file before|IncompleteMessage|ConnectionReset|BrokenPipe|kind: Body|kind: Decode|Interrupted"
)


def _may_pass(error: Exception) -> bool:
    """Whether the same request may succeed a little later."""
    return re.search(_PASSING, str(error)) is not None


def _reason(error: Exception) -> str:
    """Our words for a library's error: never its own, which may quote what was signed and with what key."""
    text = str(error)
    for pattern, reason in _REASONS:
        if re.search(pattern, text):
            return reason
    status = re.search(r"status(?: code)?: ([1-5]\d\d)\b", text)
    if status:
        return f"the server answers {status[1]}: try again later"
    return f"the request failed ({type(error).__name__})"
