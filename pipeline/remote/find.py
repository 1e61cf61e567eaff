"""Which objects the user's URLs mean, and what servers say of them.

Local inputs and those in buckets follow the same rules, with one exception: in a folder or behind a glob of a
bucket a file is input by its name alone, as looking into each would be a request for each.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from pipeline.hashed_file import open_hashed
from pipeline.inputs import PARQUET, Kind, RemoteInput, has_known_suffix, is_compressed_by_name
from pipeline.remote.objects import bucket_of, first_bytes
from pipeline.remote.web import probe
from stores.bucket import RemoteFile
from stores.errors import InputError
from stores.urls import without_secrets

BUCKETS = ("s3", "gs")
WEB = ("http", "https")
_GLOB = "*?["


@dataclass(frozen=True)
class Found:
    """An object at a URL."""

    path: str
    """What of its URL may be shown."""
    name: str
    """As `InputFile.name`, not yet unique."""
    taken: bool
    """Whether it is input, or only lies among it."""
    url: str
    listed: RemoteFile | None
    """What the bucket says of it; a web server has not been asked yet."""

    def as_input(self, name: str) -> RemoteInput:
        """The input under its unique name; the server may be asked. Raises `RemoteError`, and `InputError`
        for what cannot be read."""
        file = self.path.partition("?")[0] if self.listed is None else self.path
        by_name = file.lower().endswith(".parquet")
        kind: Kind
        if self.listed is not None:
            known = has_known_suffix(file) or is_compressed_by_name(file)
            start = b"" if known else first_bytes(self.path, self.listed)
            kind = "parquet" if by_name or start == PARQUET else "atlas"
            version, size = self.listed.tag or "", self.listed.size
            return _told_apart(
                RemoteInput(self.path, name, size, 0, kind, version, self.url, True, True)
            )
        found = probe(self.url, self.path)
        kind = "parquet" if by_name or found.start == PARQUET else "atlas"
        if kind == "parquet" and not found.ranges:
            raise InputError(
                f"{self.path}: Parquet is read in ranges, and this server gives none: "
                "download the file, and name it where it lies"
            )
        sized = found.size is not None
        return _told_apart(
            RemoteInput(
                self.path,
                name,
                found.size or 0,
                0,
                kind,
                found.version,
                self.url,
                found.ranges,
                sized,
            )
        )


def _told_apart(file: RemoteInput) -> RemoteInput:
    """The same, as one of RIPE's BigQuery tables if it is one: a bucket is where BigQuery exports them to."""
    if file.kind != "parquet":
        return file
    from stores.measurements.bigquery import holds_results

    with open_hashed(file) as source:
        return replace(file, kind="bigquery") if holds_results(source) else file


def walk(urls: Sequence[str]) -> dict[str, Found]:
    """What URLs lead to, by `Found.path`; that which is named is taken, even if it also lies in a folder.

    Raises `InputError` for a URL of another kind or one that leads to nothing, and for two that differ only
    in what may not be shown; `RemoteError` when a bucket cannot be listed.
    """
    found: dict[str, Found] = {}
    for url in urls:
        for item in _found(url):
            other = found.setdefault(item.path, item)
            if other.url != item.url:
                raise InputError(
                    f"{item.path}: two inputs differ only in what signs a URL, and cannot be told apart: "
                    "name each file once"
                )
            if item.taken and not other.taken:
                found[item.path] = item
    return found


def _found(url: str) -> Iterator[Found]:
    scheme = url.partition("://")[0].lower()
    if scheme in BUCKETS:
        return _in_bucket(url)
    if scheme in WEB:
        return iter([_on_web(url)])
    raise InputError(
        f"{scheme}://: expected a path, or a URL that begins with "
        f"{', '.join(f'{each}://' for each in (*BUCKETS, *WEB))}"
    )


def _on_web(url: str) -> Found:
    shown = without_secrets(url)
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise InputError(f"{shown}: a URL with a user or password: leave them out")
    if not parts.netloc:
        raise InputError(f"{shown}: names no host: expected {parts.scheme}://HOST/PATH")
    if "*" in parts.path:
        raise InputError(f"{shown}: a web server lists no files for a glob: name each file")
    path, mark, query = shown.partition("?")
    name = path.rstrip("/").rpartition("/")[2] + mark + query
    return Found(shown, name, True, url.partition("#")[0], None)


def _in_bucket(url: str) -> Iterator[Found]:
    scheme, _, rest = url.partition("://")
    host, _, key = rest.partition("/")
    key = key.strip("/")
    if not host or set(host) & set(f"@:{_GLOB}"):
        raise InputError(
            f"{scheme}://: expected {scheme}://BUCKET/PATH, and nothing secret in it; "
            "credentials come from the environment"
        )
    root = f"{scheme.lower()}://{host}"
    bucket = bucket_of(root)

    def item(key: str, name: str, taken: bool, listed: RemoteFile) -> Found:
        return Found(f"{root}/{key}", name, taken, f"{root}/{key}", listed)

    if key and (listed := bucket.find(key)) is not None:
        yield item(key, os.path.basename(key), True, listed)
        return
    fixed = key[: min((key.find(c) for c in _GLOB if c in key), default=len(key))]
    pattern = fixed != key
    folder = fixed.rpartition("/")[0] if pattern else key
    objects = bucket.files(folder)
    folders = {parent for key in objects for parent in _parents(key)}
    empty = True
    for found, listed in sorted(objects.items()):
        if not listed.size and found in folders:
            continue  # an empty object in place of a folder, as consoles create them
        below = found[len(folder) :].lstrip("/")
        named = pattern and _matches(key.split("/"), found.split("/"))
        inside = not pattern or any(
            _matches(key.split("/"), parent.split("/")) for parent in _parents(found)
        )
        hidden = any(part.startswith(".") for part in below.split("/"))
        if named or (inside and not hidden):
            empty = False
            by_name = has_known_suffix(found) or is_compressed_by_name(found)
            yield item(found, below, named or by_name, listed)
    if empty:
        raise InputError(f"{url}: no such object or folder, and no object matches it as a glob")


def _parents(key: str) -> Iterator[str]:
    """The folders that an object lies in."""
    while "/" in key:
        key = key.rpartition("/")[0]
        yield key


def _matches(pattern: Sequence[str], parts: Sequence[str]) -> bool:
    """Whether a glob means a path, both cut at their slashes: * takes no slash and no hidden name, and ** any
    number of folders that are not hidden."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(
            _matches(pattern[1:], parts[taken:])
            for taken in range(len(parts) + 1)
            if not any(part.startswith(".") for part in parts[:taken])
        )
    if not parts or (parts[0].startswith(".") and not pattern[0].startswith(".")):
        return False
    return fnmatchcase(parts[0], pattern[0]) and _matches(pattern[1:], parts[1:])
