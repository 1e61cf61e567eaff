"""Files on web servers, read from servers that fail, lie, and know little."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import random
from collections.abc import Iterator

import pytest

from pipeline.hashed_file import BLOCK, hash_file
from pipeline.input_stream import open_input
from pipeline.inputs import RemoteInput, find_inputs
from pipeline.remote import tries
from stores.errors import InputError, RemoteError
from tests.pipeline.remote.web_server import Web

TEXT = b"".join(b'{"a": %d}\n' % random.Random(i).getrandbits(64) for i in range(50_000))
LARGE = TEXT * 4
FILES = {
    "a.json": TEXT,
    "a.json.gz": gzip.compress(TEXT, 1),
    "a.bz2": bz2.compress(TEXT, 1),
    "empty": b"",
    "large.json": LARGE,
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Web, str]]:
    monkeypatch.setattr(tries, "FIRST_PAUSE", 0.001)
    found = Web(dict(FILES))
    with found.serve() as url:
        yield found, url


def find(url: str) -> RemoteInput:
    [file] = find_inputs([url])
    assert isinstance(file, RemoteInput)
    return file


def content(file: RemoteInput) -> bytes:
    """The whole text; the digest must be that of the file."""
    with open_input(file) as stream:
        text = b"".join(stream.blocks())
    raw = FILES[file.name]
    assert (stream.sha256, stream.size) == (hashlib.sha256(raw).hexdigest(), len(raw))
    return text


@pytest.mark.parametrize("length", ["stated", "chunked"])
@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize(("tags", "times"), [(True, True), (False, True), (False, False)])
def test_any_server_gives_the_text_of_the_file(
    tags: bool, times: bool, ranges: bool, length: str, server: tuple[Web, str]
) -> None:
    at, url = server
    at.tags, at.times, at.ranges, at.length = tags, times, ranges, length
    for name in ("a.json", "a.json.gz", "a.bz2", "empty"):
        file = find(f"{url}/{name}")
        assert file.ranges == (ranges and name != "empty")
        assert file.sized == (file.ranges or length == "stated")
        assert bool(file.version) == (tags or times)
        assert content(file) == (TEXT if name != "empty" else b"")


def test_the_first_block_is_as_long_as_that_of_a_local_file(server: tuple[Web, str]) -> None:
    """By its first MiB a file counts as NDJSON or not."""
    with open_input(find(f"{server[1]}/large.json")) as stream:
        assert [len(block) for block in stream.blocks()] == [4 << 20, len(LARGE) - (4 << 20)]


@pytest.mark.parametrize("fault", ["500", "429", "416", "drop", "more", "less", "all", "shifted"])
def test_faults_that_pass_leave_no_trace(fault: str, server: tuple[Web, str]) -> None:
    at, url = server
    file = find(f"{url}/a.json")
    at.faults["a.json"] = [fault, fault, "drop", fault]
    assert content(file) == TEXT
    at.faults["a.json"] = [fault, fault, "drop", fault]
    assert hash_file(file).sha256 == hashlib.sha256(TEXT).hexdigest()


def test_what_has_arrived_is_not_asked_for_again(server: tuple[Web, str]) -> None:
    at, url = server
    file = find(f"{url}/a.json")
    at.sent = 0
    at.faults["a.json"] = ["drop"] * 4
    assert content(file) == TEXT
    assert at.sent == len(TEXT) + 1  # and one byte to see that nothing changed


def test_a_table_that_cannot_be_looked_into_is_not_taken_for_another(
    server: tuple[Web, str],
) -> None:
    at, url = server
    at.files["t.parquet"] = b"PAR1" + TEXT
    at.faults["t.parquet"] = ["", *["500"] * tries.TRIES]
    with pytest.raises(RemoteError, match=rf"^{url}/t\.parquet: .*500"):
        find(f"{url}/t.parquet")


@pytest.mark.parametrize("length", ["stated", "chunked"])
@pytest.mark.parametrize("fault", ["500", "drop"])
def test_without_ranges_it_is_read_again_from_the_start(
    fault: str, length: str, server: tuple[Web, str]
) -> None:
    at, url = server
    at.ranges, at.length = False, length
    file = find(f"{url}/a.json")
    at.faults["a.json"] = [fault, "drop", fault]
    assert content(file) == TEXT


@pytest.mark.parametrize("other", [b"x" + TEXT[1:], TEXT[:1000]])
def test_without_ranges_nor_tags_a_change_between_two_tries_is_noticed(
    other: bytes, server: tuple[Web, str]
) -> None:
    at, url = server
    at.ranges = at.tags = at.times = False
    at.length = "chunked"
    file = find(f"{url}/a.json")
    at.faults["a.json"] = ["drop"]
    first = len(at.asked) + 1
    at.on_request = lambda count: at.files.update({"a.json": TEXT if count == first else other})
    with pytest.raises(InputError, match=r"a\.json: changed since this run began"):
        content(file)


@pytest.mark.parametrize("tags", [True, False])
@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("name", ["a.json", "a.json.gz", "a.bz2"])
def test_a_file_that_changes_while_it_is_read_is_named(
    name: str, ranges: bool, tags: bool, server: tuple[Web, str]
) -> None:
    at, url = server
    at.ranges, at.tags = ranges, tags
    changed = pytest.raises(InputError, match=rf"^{url}/{name}: changed since this run began")
    file = find(f"{url}/{name}")
    if tags:  # of the same length, before it is read and at its end
        other = FILES[name][:-1] + b"#"
        at.files[name] = other
        with changed, open_input(file) as stream:
            list(stream.blocks())
        at.files[name] = FILES[name]
        with changed, open_input(file) as stream:
            blocks = stream.blocks()
            next(blocks)
            at.files[name] = other
            list(blocks)
    at.files[name] = FILES[name][:-5]
    with changed, open_input(file) as stream:
        list(stream.blocks())
    if ranges:
        with changed:
            hash_file(file)


@pytest.mark.parametrize("fault", ["500", "drop", "416"])
def test_faults_without_end_are_one_line_that_names_the_file(
    fault: str, server: tuple[Web, str]
) -> None:
    at, url = server
    file = find(f"{url}/a.json")
    at.faults["a.json"] = ["drop"] * 2 + [fault] * 500
    at.files["a.json"] = TEXT
    with pytest.raises(RemoteError, match=rf"^{url}/a\.json: .* \(8 tries\)$"):
        content(file)


def test_a_length_that_is_too_long_is_named_and_one_too_short_cannot_pass_for_whole(
    server: tuple[Web, str],
) -> None:
    at, url = server
    at.ranges = at.tags = at.times = False
    at.faults["a.json"] = ["more"] * 500
    with pytest.raises(
        RemoteError, match=rf"^{url}/a\.json: the connection broke off.* \(8 tries\)$"
    ):
        content(find(f"{url}/a.json"))
    at.faults["a.bz2"] = ["less"] * 500
    with pytest.raises(InputError, match=rf"^{url}/a\.bz2: damaged or cut-off bz2 file"):
        content(find(f"{url}/a.bz2"))


def test_a_server_that_states_no_end_is_refused(server: tuple[Web, str]) -> None:
    at, url = server
    at.ranges, at.length = False, "none"
    with pytest.raises(InputError, match=rf"^{url}/a\.json: the server states no length"):
        find(f"{url}/a.json")


def test_retry_after_is_obeyed(server: tuple[Web, str], monkeypatch: pytest.MonkeyPatch) -> None:
    at, url = server
    waits: list[float] = []
    monkeypatch.setattr(tries.time, "sleep", waits.append)
    for said in ("7", "Fri, 01 Jan 2100 00:00:00 GMT", "soon"):
        at.retry_after = said
        at.faults["a.json"] = ["429"]
        if said.startswith("Fri"):
            with pytest.raises(RemoteError, match=r"answers 429: .* \(it asks to wait \d+ s\)"):
                find(f"{url}/a.json")
        else:
            find(f"{url}/a.json")
    assert waits[0] == 7
    assert waits[1] < 0.01


def test_pieces_are_read_from_anywhere_in_the_file(server: tuple[Web, str]) -> None:
    from pipeline.hashed_file import open_hashed

    at, url = server
    at.faults["large.json"] = ["", "drop", "500"]
    with open_hashed(find(f"{url}/large.json")) as file:
        for start, size in ((3 * BLOCK + 5, 100), (0, 3 * BLOCK), (len(LARGE) - 7, 100), (10, 20)):
            file.seek(start)
            assert file.read(size) == LARGE[start : start + size]
    assert all(wanted for _, wanted in at.asked)


def test_redirections_are_followed_and_not_shown(server: tuple[Web, str]) -> None:
    at, url = server
    at.moved = {"moved": f"{url}/a.json?token=neverprinted", "away": "ftp://neverprinted/x"}
    at.moved["circle"] = f"{url}/circle?token=neverprinted"
    file = find(f"{url}/moved")
    at.faults["a.json"] = ["drop", "500"]
    with open_input(file) as stream:
        assert b"".join(stream.blocks()) == TEXT
    assert file.ranges
    at.moved["moved"] = f"{url}/gone?token=neverprinted"
    with pytest.raises(RemoteError, match=rf"^{url}/moved: there is no such file$"):
        find(f"{url}/moved")
    said = rf"^{url}/away: the server redirects to what is neither http nor https$"
    with pytest.raises(RemoteError, match=said):
        find(f"{url}/away")
    at.moved["circle?token=neverprinted"] = f"{url}/circle"
    with pytest.raises(RemoteError, match=rf"^{url}/circle: the server answers 302$"):
        find(f"{url}/circle")


def test_refusals_say_what_to_do(server: tuple[Web, str]) -> None:
    _, url = server
    for given, said in (
        (f"{url}/none.json?token=abc", rf"^{url}/none\.json: there is no such file$"),
        (f"{url}/*.json", r"a web server lists no files for a glob: name each file$"),
        (
            "http://me:word@host/x",
            r"^http://host/x: a URL with a user or password: leave them out$",
        ),
        ("http:///x", r"names no host"),
        ("ftp://host/x", r"^ftp://: expected a path, or a URL that begins with s3://, gs://, http"),
        ("http://host:port/x", r"not a URL that can be asked for"),
    ):
        with pytest.raises((InputError, RemoteError), match=said):
            find_inputs([given])
