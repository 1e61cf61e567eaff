"""The results of a slice, as the RIPE Atlas API gives them: one JSON object a line.

https://atlas.ripe.net/docs/apis/rest-api-reference/measurements/measurements_results
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

from pipeline.fetch.question import Question, Slice
from pipeline.remote.web import ask, blocks
from stores.errors import ConfigError, RemoteError, TransientError
from stores.files import parse_json

KEY = "RIPE_ATLAS_API_KEY"
"""The environment variable that holds an API key. It is sent to the API's server, and shown nowhere."""
_LONGEST_LINE = 16 << 20  # bytes, as `stores.measurements.atlas_json` reads them
_TIME = re.compile(rb'"timestamp"\s*:\s*(\d+)')
_WITHOUT_KEY = f"access denied: set {KEY} to a key that may see this measurement"
_WITH_KEY = f"access denied: the key in {KEY} may not see this measurement, or is no longer valid"


def find_key(url: str) -> str:
    """The key in the environment; empty if there is none. Raises `ConfigError` if it cannot be sent, or would
    be readable on its way."""
    key = os.environ.get(KEY, "").strip()
    if key and not (key.isascii() and key.isprintable()):
        raise ConfigError(f"{KEY}: holds characters that no key has")
    if key and urlsplit(url).scheme == "http" and not _is_this_machine(url):
        raise ConfigError(
            f"--url {url}: anyone on the way could read the key in {KEY}: use https://, or unset it"
        )
    return key


def _is_this_machine(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_slice(question: Question, part: Slice, key: str) -> Iterator[tuple[bytes, int]]:
    """Ask once for a slice. Yields its lines in blocks of up to some 256 KiB, with how many each block has.

    Whether the API means the seconds at both ends of a range, it does not say: it is asked for one more at
    either end, and what lies outside the slice is left out.

    Raises `TransientError`, also while blocks are read, when asking again may help; `RemoteError` when the
    server refuses, or answers with something else.
    """
    place = f"{question.url}/api/v2/measurements/{part.measurement}/results/"
    shown = f"{place} ({part.file})"
    query = f"start={max(0, part.start - 1)}&stop={part.stop}&format=txt"
    if question.probes:
        query += f"&probe_ids={','.join(question.probes)}"
    authorization = f"Key {key}" if key else ""
    with ask(
        f"{place}?{query}", shown, {}, authorization=authorization, refusals=_refusals(bool(key))
    ) as answer:
        if answer.length is None and not answer.chunked:
            raise RemoteError(
                f"{shown}: the server states no length, so a connection that breaks off would look like the "
                "end: expected a RIPE Atlas API"
            )
        for lines in _lines(blocks(shown, answer, answer.length), shown):
            kept = [line for line in lines if _lies_in(part, line)]
            if kept:
                yield b"\n".join(kept) + b"\n", len(kept)


def _refusals(with_key: bool) -> Mapping[int, str]:
    denied = _WITH_KEY if with_key else _WITHOUT_KEY
    return {
        400: "the server does not accept the question: are the probes right?",
        401: denied,
        403: denied,
        404: "there is no such measurement",
        414: "too many probes for one question: ask for ranges of them, or for fewer",
    }


def _lines(pieces: Iterator[bytes], shown: str) -> Iterator[list[bytes]]:
    """The lines of an answer that are not blank, as they become whole.

    A line may only lack its end at the end of the answer, and only if it is a whole object. Raises
    `RemoteError` for a line that is none.
    """
    count, held = 0, b""
    for piece in pieces:
        *whole, held = (held + piece).split(b"\n")
        if len(held) > _LONGEST_LINE:
            raise _no_object(count + len(whole) + 1, shown)
        lines = []
        for line in whole:
            count += 1
            if text := line.strip():
                _check(text, count, shown)
                lines.append(text)
        yield lines
    if text := held.strip():
        count += 1
        if not text.startswith(b"{"):
            raise _no_object(count, shown)
        if not _is_object(text):
            raise TransientError(
                f"{shown}: the answer ends in the midst of a line: run the same command again to continue"
            )
        yield [text]


def _check(line: bytes, number: int, shown: str) -> None:
    """Raise `RemoteError` unless a line looks like an object; the first must be one. What is broken inside a
    later one is for `prepare` to reject, with its place."""
    looks = line.startswith(b"{") and line.endswith(b"}")
    if not looks or (number == 1 and not _is_object(line)):
        raise _no_object(number, shown)


def _no_object(number: int, shown: str) -> RemoteError:
    return RemoteError(
        f"{shown}: line {number} of the answer is no JSON object: does --url name a RIPE Atlas API?"
    )


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(parse_json(line), dict)
    except ValueError:
        return False


def _lies_in(part: Slice, line: bytes) -> bool:
    """Whether a result's time is in the slice; one without a time, or with many, is left to `prepare`."""
    times = _TIME.findall(line)
    return len(times) != 1 or part.start <= int(times[0]) < part.stop
