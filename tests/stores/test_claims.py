"""What a manifest claims is checked against itself and against the files before anything relies on it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stores import TokenStore
from stores.errors import DamagedStoreError
from stores.files import sha256_file
from stores.layout import chunk_file
from stores.manifest import ChunkFile, read_manifest, write_manifest
from stores.verify import check_content, verify_store
from tests.helpers import build_store
from tests.test_cli import run

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small store."""
    return build_store(tmp_path_factory.mktemp("sound") / "store.zarr", train=50, test=20)


@pytest.fixture
def damaged(sound: Path, tmp_path: Path) -> Path:
    """A copy of it, to damage."""
    return Path(shutil.copytree(sound, tmp_path / "store.zarr"))


def claim(store: Path, change: Callable[[Any], None]) -> None:
    """Change the fields of the manifest, and make its digest fit."""
    group = json.loads((store / "zarr.json").read_bytes())
    fields = group["attributes"]["pinglm"]
    change(fields)
    fields.pop("digest", None)
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    fields["digest"] = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    (store / "zarr.json").write_text(json.dumps(group))


def refusal(store: Path) -> str:
    """What opening says of a store that it refuses; verifying says the same, and no more."""
    with pytest.raises(DamagedStoreError) as raised:
        TokenStore.open(store)
    assert "\n" not in str(raised.value)
    assert verify_store(store).problems == [str(raised.value)]
    return str(raised.value)


# --- Files that a manifest lists -------------------------------------------------------------------


def list_file(store: Path, name: str, size: int, sha256: str) -> None:
    manifest = read_manifest(store)
    write_manifest(store, replace(manifest, files=manifest.files | {name: ChunkFile(size, sha256)}))


def test_listed_files_outside_the_arrays_are_checked(damaged: Path) -> None:
    (damaged / "notes").mkdir()
    extra = damaged / "notes" / "extra.bin"
    extra.write_bytes(b"four")
    list_file(damaged, "notes/extra.bin", 4, sha256_file(extra))
    assert verify_store(damaged).problems == []
    extra.write_bytes(b"five")
    (problem,) = verify_store(damaged).problems
    assert problem.startswith(f"{extra}: SHA-256 is ")
    extra.write_bytes(b"seven")
    assert "5 bytes, expected 4" in refusal_of_a_file(damaged)
    extra.unlink()
    assert "No such file" in refusal_of_a_file(damaged)
    os.mkfifo(extra)
    assert "not a regular file" in refusal_of_a_file(damaged)


def refusal_of_a_file(store: Path) -> str:
    with pytest.raises(DamagedStoreError) as raised:
        TokenStore.open(store)
    assert str(raised.value) in verify_store(store).problems
    return str(raised.value)


def test_files_of_an_array_without_windows_are_checked(tmp_path: Path) -> None:
    store = build_store(tmp_path / "store.zarr", train=50, test=0)
    file = chunk_file(store, "test", "full", "length")
    file.parent.mkdir(parents=True)
    file.write_bytes(bytes(2))
    list_file(store, "test/full/length/c/0", 2, "0" * 64)
    (problem,) = verify_store(store).problems
    assert problem.startswith(f"{file}: SHA-256 is ")


@pytest.mark.parametrize(
    "name",
    [
        "../../../../etc/passwd",
        "/etc/passwd",
        "train/../../x",
        "./x",
        "x//y",
        "x/",
        "",
        ".",
        "a\0b",
    ],
)
def test_paths_that_leave_the_store_are_refused(name: str, damaged: Path) -> None:
    passwd = Path("/etc/passwd")
    list_file_raw = {"size": passwd.stat().st_size, "sha256": sha256_file(passwd)}
    claim(damaged, lambda fields: fields["files"].update({name: list_file_raw}))
    assert f"lists {name!r}, which is not a path inside the store" in refusal(damaged)


def test_a_pipe_that_is_not_listed_is_named(damaged: Path) -> None:
    os.mkfifo(damaged / "pipe")
    assert verify_store(damaged).problems == [f"{damaged}/pipe: not part of the store: remove it"]


# --- Numbers ----------------------------------------------------------------------------------------


def set_field(*keys: str, to: object) -> Callable[[Any], None]:
    def change(fields: Any) -> None:
        for key in keys[:-1]:
            fields = fields[key]
        fields[keys[-1]] = to

    return change


def remove(*keys: str) -> Callable[[Any], None]:
    def change(fields: Any) -> None:
        for key in keys[:-1]:
            fields = fields[key]
        del fields[keys[-1]]

    return change


ARRAY = ("arrays", "train/full")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_field(*ARRAY, "windows", to=10**12), "10" + "0" * 11 + " windows"),
        (set_field(*ARRAY, "windows", to=0), "in 0 windows"),
        (set_field(*ARRAY, "windows", to=10**30), "Expected `int` <= 9223372036854775807"),
        (set_field(*ARRAY, "windows_per_chunk", to=0), "Expected `int` >= 1"),
        (set_field(*ARRAY, "windows_per_chunk", to=10**12), "Expected `int` <= 8192"),
        (set_field(*ARRAY, "windows_per_chunk", to=1), "c/0/0 6144 bytes, its array 2048"),
        (remove("files", "train/full/length/c/0"), "does not list train/full/length/c/0"),
        (set_field(*ARRAY, "tokens", to=10**12), "at most 1024 tokens"),
        (set_field(*ARRAY, "measurements", to=0), "0 measurements in"),
        (set_field("configuration", to={"tokenize": {"passes": "two"}}), "passes is 'two'"),
        (set_field("configuration", to={"tokenize": {"passes": 0}}), "passes is 0"),
        (set_field("configuration", to={"tokenize": {"passes": float("inf")}}), "passes is inf"),
        (set_field("files", "train/full/length/c/0", "size", to=2**40), "its array"),
        (set_field("inputs", to=[{"name": "\ud800", "size": 1, "sha256": ""}]), "surrogates"),
    ],
)
def test_a_claim_that_cannot_be_true_is_one_line(
    change: Callable[[Any], None], message: str, damaged: Path
) -> None:
    claim(damaged, change)
    assert message in refusal(damaged)


def huge(fields: Any) -> None:
    """A trillion windows, and everything else so that it fits."""
    fields["arrays"]["train/full"] |= {
        "windows": 10**12,
        "windows_per_chunk": 8192,
        "measurements": 10**12,
        "tokens": 10**12,
    }


@pytest.mark.parametrize("command", ["verify-store", "inspect-store", "decode"])
def test_a_trillion_windows_are_one_line_at_once(command: str, damaged: Path) -> None:
    claim(damaged, huge)
    refused = run(command, damaged)
    assert refused.returncode == 1
    assert "1000000000000 windows of 8192 a file take 122070313 files" in " ".join(
        f"{refused.stdout} {refused.stderr}".split()
    )


# --- Anything ---------------------------------------------------------------------------------------


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in nested dicts and lists."""
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, inside in items:
        yield (*path, key)
        yield from paths_of(inside, (*path, key))


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value}
    return value


def opens(store: Path) -> bool:
    """Whether it does; anything but a `DamagedStoreError` is a failure of the test."""
    try:
        TokenStore.open(store)
    except DamagedStoreError:
        return False
    return True


VALUES = (None, "x", -1, 10**30, 1e400, [], nested(900), "\ud800")


def test_any_damage_to_a_manifest_is_refused_or_harmless(damaged: Path) -> None:
    """Every field gone, and every field with every one of some wrong values; with a digest that fits."""
    whole = (damaged / "zarr.json").read_bytes()
    places = list(paths_of(json.loads(whole)["attributes"]["pinglm"]))
    assert len(places) > 90
    opened = []
    for place in places:
        changes = (remove(*place), *(set_field(*place, to=value) for value in VALUES))
        for change in changes:
            (damaged / "zarr.json").write_bytes(whole)
            claim(damaged, change)
            if opens(damaged):
                opened.append(place[0])
    assert not {"arrays", "format_version"} & set(opened)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[",
        "[]",
        "{}",
        "[" * 100_000,
        '{"attributes": ' + '{"a":' * 100_000,
        '{"attributes": []}',
        "\xff",
    ],
)
def test_a_root_that_is_not_a_manifest_is_one_line(text: str, damaged: Path) -> None:
    (damaged / "zarr.json").write_bytes(text.encode("latin-1"))
    assert "not a pinglm manifest" in refusal(damaged)


def test_any_damage_to_the_metadata_of_an_array_is_named(damaged: Path) -> None:
    file = damaged / "train" / "full" / "tokens" / "zarr.json"
    whole = json.loads(file.read_bytes())
    texts = ["", "[]", "[" * 100_000, "null", "\0" * 40]
    for key in whole:
        texts.append(json.dumps({k: v for k, v in whole.items() if k != key}))
        texts += [
            json.dumps(whole | {key: value}) for value in (None, "x", -1, [], {}, 10**30, [0, 0])
        ]
    for text in texts:
        file.write_text(text)
        problems = verify_store(damaged).problems
        assert len(problems) <= 4
        assert all(problem.startswith(f"{file}: ") for problem in problems), text


@pytest.mark.parametrize("name", ["train", "train/full"])
@pytest.mark.parametrize(
    "text", ["", "[]", "[" * 100_000, '{"zarr_format": 3, "node_type": "array"}']
)
def test_damaged_metadata_of_a_group_is_named(name: str, text: str, damaged: Path) -> None:
    file = damaged / name / "zarr.json"
    file.write_text(text)
    (problem,) = verify_store(damaged).problems
    assert problem.startswith(f"{file}: zarr cannot open the group")


# --- Lengths and content ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "message"),
    [
        (5_000, "window 1 has the length 5000, expected 1 to 1024"),
        (0, "window 1 has the length 0, expected 1 to 1024"),
        (1_000, "adds up to"),
    ],
)
def test_impossible_lengths_are_refused_when_a_store_is_opened(
    length: int, message: str, damaged: Path
) -> None:
    file = chunk_file(damaged, "train", "none", "length")
    lengths = np.fromfile(file, "<u2")
    assert lengths[1] != length
    lengths[1] = length
    lengths.tofile(file)
    with pytest.raises(DamagedStoreError, match=message) as raised:
        TokenStore.open(damaged)
    assert str(raised.value).startswith(f"{file}: ")


def test_content_is_checked_file_by_file(damaged: Path) -> None:
    seen: list[tuple[int, int]] = []
    check_content(TokenStore.open(damaged), lambda done, total: seen.append((done, total)))
    total = sum(file.size for file in read_manifest(damaged).files.values())
    assert seen[-1] == (total, total)
    file = chunk_file(damaged, "test", "mixed", "tokens")
    data = bytearray(file.read_bytes())
    data[100] ^= 1
    file.write_bytes(data)
    with pytest.raises(DamagedStoreError, match=r"SHA-256 is .*, expected ") as raised:
        check_content(TokenStore.open(damaged))
    assert str(raised.value).startswith(f"{file}: ")
