"""Ranges of files on web servers, one request at a time, with nothing but the standard library: obstore wants
a length in every answer and has no place for a query, and API results have none of the one and much of the
other. What fails is repeated by `pipeline.remote.reader`.

A URL may be signed, and so may what it redirects to: no error repeats either.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from http.client import HTTPException, HTTPResponse, InvalidURL
from socket import EAI_NONAME, gaierror
from typing import Any
from urllib import request
from urllib.error import HTTPError, URLError
from urllib.parse import quote

from pipeline.inputs import RemoteInput
from pipeline.remote.tries import Tries
from stores.errors import InputError, RemoteError, TransientError
from stores.measurements.regular_file import changed

_SILENCE = 60.0  # seconds without a byte
_AT_ONCE = 1 << 18
_START = 4  # bytes that tell Parquet
_NO_SUCH_RANGE = 416
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_AGAIN = "run the same command again to continue"
_BROKEN_OFF = f"the connection broke off: {_AGAIN}"
_REFUSALS = {
    401: "not signed in, or the URL's signature has expired",
    403: "access denied: if the URL is signed, sign it again",
    404: "there is no such file",
    410: "there is no such file any more",
}


@dataclass(frozen=True)
class WebFile:
    """A file as its server describes it."""

    size: int | None
    """In bytes; `None` when the server does not say."""
    version: str
    """ETag or, without one, the time of the last change; else empty."""
    ranges: bool
    start: bytes
    """Its first four bytes, or as many as it has."""


def probe(url: str, path: str) -> WebFile:
    """Ask for the first bytes of a file; `path` is what of its URL may be shown.

    Raises `RemoteError`, after several tries where that may help, and `InputError` for an answer of which
    the end could not be told from a broken connection.
    """
    tries = Tries()
    while True:
        try:
            return _probed(url, path)
        except TransientError as error:
            tries.failed(error)


def _probed(url: str, path: str) -> WebFile:
    with ask(url, path, {"Range": f"bytes=0-{_START - 1}"}) as answer:
        total = _total(answer)
        if answer.status == 206 and total is not None:
            start = b"".join(blocks(path, answer, min(_START, total)))
            return WebFile(total, _version(answer), True, start)
        if answer.status == 200:
            return _without_ranges(path, answer)
    with ask(
        url, path, {}
    ) as answer:  # that for ranges was 416, as for an empty file, or states no total
        return _without_ranges(path, answer)


def _without_ranges(path: str, answer: HTTPResponse) -> WebFile:
    size = answer.length
    if answer.status != 200:
        raise RemoteError(f"{path}: the server answers {answer.status}, expected the file")
    if size is None and not answer.chunked:
        raise InputError(
            f"{path}: the server states no length, so a connection that breaks off would look like the end "
            "of the file: download it, and name it where it lies"
        )
    start = answer.read(_START)
    return WebFile(size, _version(answer), False, start)


@contextmanager
def open_web(file: RemoteInput, start: int, end: int | None) -> Iterator[Iterator[bytes]]:
    """Bytes `start` to before `end`, in blocks; of a file without ranges always all from 0, and `end` is `None`
    where the file's size is not known.

    Raises `InputError` when the file is not the one that was found, `RemoteError` when it cannot be had, and
    `TransientError`, also while the blocks are read, when that may pass.
    """
    headers = {}
    conditional = False
    if file.ranges:
        assert end is not None
        headers["Range"] = f"bytes={start}-{end - 1}"
        # a weak tag is no condition for a range; that it is the same is seen from the answer
        conditional = bool(file.version) and not file.version.startswith("W/")
        if conditional:
            headers["If-Range"] = file.version
    with ask(file.url, file.path, headers) as answer:
        _check(file, answer, start, end, conditional)
        yield blocks(file.path, answer, None if end is None else end - start)


def confirm_web(file: RemoteInput) -> None:
    """Raise `InputError` when the file is not the one that was found, as far as the server says. Errors as
    `open_web`."""
    if file.ranges and file.size:
        with open_web(file, file.size - 1, file.size):
            pass
    elif file.version:
        with open_web(file, 0, file.size if file.sized else None):
            pass


def _check(
    file: RemoteInput, answer: HTTPResponse, start: int, end: int | None, conditional: bool
) -> None:
    """That an answer is to what was asked, and of the file that was found."""
    partial = answer.status == 206
    stated = {answer.headers.get("ETag"), answer.headers.get("Last-Modified")} - {None}
    if partial or answer.status == _NO_SUCH_RANGE:
        total = _total(answer)
        if total is not None and total != file.size:
            raise changed(file.path)
        first = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
        if not partial or first is None or int(first[1]) != start:
            raise TransientError(
                f"{file.path}: the server answers {answer.status} when it is asked for bytes {start} to "
                f"{end} of {file.size}"
            )
        if not stated and conditional:
            return  # such an answer need not repeat what it was conditional on
    elif answer.status != 200:
        raise RemoteError(f"{file.path}: the server answers {answer.status}, expected the file")
    if file.version and file.version not in stated:
        raise changed(file.path)
    if partial:
        return
    if file.sized and answer.length not in (None, file.size):
        raise changed(file.path)
    if file.ranges and (start, end) != (0, file.size):
        raise TransientError(
            f"{file.path}: the server gives the whole file when it is asked for bytes {start} to {end}"
        )


def blocks(path: str, answer: HTTPResponse, left: int | None) -> Iterator[bytes]:
    """The next `left` bytes of an answer, or all. Raises `TransientError` when they end before."""
    while left is None or left:
        try:
            block = answer.read(_AT_ONCE if left is None else min(_AT_ONCE, left))
        except (OSError, HTTPException) as error:
            raise TransientError(f"{path}: {_reason(error)}") from None
        if not block:
            break
        if left is not None:
            left -= len(block)
        yield block
    if left:
        raise TransientError(f"{path}: {_BROKEN_OFF}")


def ask(
    url: str,
    path: str,
    headers: dict[str, str],
    *,
    authorization: str = "",
    refusals: Mapping[int, str] = _REFUSALS,
) -> HTTPResponse:
    """The answer to a GET, its body not read yet: its status is 2xx or 416.

    `authorization` goes to this server alone, and to none that it redirects to; `refusals` has the words for
    the statuses that do not pass. Raises `RemoteError`, and `TransientError` where asking again may help.
    """
    safe = quote(url, safe="%/:?#[]@!$&'()*+,;=~")  # spaces and letters of all alphabets
    try:
        asked = request.Request(safe, headers={"User-Agent": "pinglm", **headers})
        if authorization:
            asked.add_unredirected_header("Authorization", authorization)
        answer: HTTPResponse = _opener().open(asked, timeout=_SILENCE)
    except HTTPError as error:
        with error:
            raise _refusal(path, error, refusals) from None
    except (InvalidURL, ValueError):
        raise RemoteError(
            f"{path}: not a URL that can be asked for: is it spelled right?"
        ) from None
    except (OSError, HTTPException) as error:
        cause = error.reason if isinstance(error, URLError) else error
        permanent = isinstance(cause, (ssl.SSLCertVerificationError, str)) or (
            isinstance(cause, gaierror) and cause.errno == EAI_NONAME
        )
        kind = RemoteError if permanent else TransientError
        raise kind(f"{path}: {_reason(cause)}") from None
    return answer


class _Answers(request.HTTPErrorProcessor):
    """Takes 416 for an answer, too."""

    def http_response(self, request: request.Request, response: HTTPResponse) -> Any:
        if response.status == _NO_SUCH_RANGE:
            return response
        return super().http_response(request, response)

    https_response = http_response


@cache
def _opener() -> request.OpenerDirector:
    """http and https only, wherever a server redirects to; through the proxies of the environment."""
    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler(),
        request.UnknownHandler(),
        request.HTTPHandler(),
        request.HTTPSHandler(),
        request.HTTPDefaultErrorHandler(),
        request.HTTPRedirectHandler(),
        _Answers(),
    ):
        opener.add_handler(handler)
    return opener


def _refusal(path: str, error: HTTPError, refusals: Mapping[int, str]) -> RemoteError:
    if error.code not in _PASSING:
        reason = refusals.get(error.code, f"the server answers {error.code}")
        return RemoteError(f"{path}: {reason}")
    again = TransientError(f"{path}: the server answers {error.code}: {_AGAIN}")
    again.wait = _seconds(error.headers.get("Retry-After", ""))
    return again


def _seconds(retry_after: str) -> float:
    """What a Retry-After asks for: seconds, or a time."""
    if retry_after.strip().isdigit():
        return float(retry_after)
    try:
        at = parsedate_to_datetime(retry_after)
    except ValueError:
        return 0.0
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())


def _reason(error: object) -> str:
    """Our words for what went wrong with a connection: a library's own might repeat a URL."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return "its certificate is not trusted: is the URL right, and the clock?"
    if isinstance(error, gaierror):
        return "the host's name is not known: is the URL right?"
    if isinstance(error, ConnectionRefusedError):
        return "the server refuses the connection: does it run?"
    if isinstance(error, TimeoutError):
        return f"the server does not answer: {_AGAIN}"
    if isinstance(error, (ConnectionError, HTTPException, ssl.SSLError)):
        return _BROKEN_OFF
    if isinstance(error, str):
        return "the server redirects to what is neither http nor https"
    return f"the request failed ({type(error).__name__})"


def _version(answer: HTTPResponse) -> str:
    return answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""


def _total(answer: HTTPResponse) -> int | None:
    """Bytes of the whole file, by an answer to a request for some of them."""
    found = re.fullmatch(r"bytes .*/(\d+)", answer.headers.get("Content-Range", ""))
    return int(found[1]) if found else None
