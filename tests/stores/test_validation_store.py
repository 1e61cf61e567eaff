"""A store with a validation split, to everything that reads stores; and stores without one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from stores import TokenStore
from stores.errors import ConfigError, DamagedStoreError
from stores.inspect import inspect_store
from stores.layout import MODES, WITH_VALIDATION, chunk_file
from stores.manifest import read_manifest, write_manifest
from stores.overlap import OverlapCounts
from stores.pull import pull
from stores.push import push
from stores.verify import verify_store
from tests.helpers import build_store
from tests.stores.mirrors import content_of
from tests.test_cli import run


@pytest.fixture
def divided(tmp_path: Path) -> Path:
    """A store of 300 train, 90 validation and 60 test rows."""
    return build_store(tmp_path / "store.zarr", train=300, validation=90, test=60)


def test_a_store_with_validation_is_opened_verified_and_inspected_whole(divided: Path) -> None:
    assert verify_store(divided).problems == []
    assert verify_store(divided).measurements == 3 * 450
    store = TokenStore.open(divided)
    assert store.splits == WITH_VALIDATION
    assert store.choosing_split == "validation"
    for mode in MODES:
        assert store.gather("validation", mode, [0]).shape == (1, 1024)
    report = inspect_store(divided)
    assert list(report.splits) == list(WITH_VALIDATION)
    assert report.splits["validation"]["full"].measurements == 90
    assert json.loads(json.dumps(report.as_json()))["ledger"]["validation"] == 90


def test_commands_take_the_split_and_say_when_there_is_none(divided: Path, store: Path) -> None:
    looked = run("inspect-store", divided)
    assert "453 rows = 300 train + 90 validation + 60 test + 3 rejected" in looked.stdout
    assert "validation/mixed" in looked.stdout
    only = run("inspect-store", divided, "--split", "validation", "--json")
    assert list(json.loads(only.stdout)["splits"]) == ["validation"]
    shown = run("decode", divided, "--split", "validation", "--json")
    assert json.loads(shown.stdout)["windows"][0]["split"] == "validation"
    for command in ("inspect-store", "decode"):
        refused = run(command, store, "--split", "validation")
        assert refused.returncode == 1
        assert "no array validation/full: the split is one of train, test" in refused.stderr


def test_a_store_with_validation_goes_to_a_bucket_and_back(divided: Path, tmp_path: Path) -> None:
    url = (tmp_path / "bucket").as_uri()
    push(divided, url)
    pull(url, tmp_path / "back.zarr")
    assert content_of(tmp_path / "back.zarr") == content_of(divided)


def test_damage_in_the_validation_split_is_found(divided: Path) -> None:
    file = chunk_file(divided, "validation", "full", "tokens")
    content = bytearray(file.read_bytes())
    content[5] ^= 1
    file.write_bytes(content)
    assert any("validation/full" in problem for problem in verify_store(divided).problems)
    file.unlink()
    with pytest.raises(DamagedStoreError, match="validation/full"):
        TokenStore.open(divided)


def test_a_manifest_without_its_arrays_is_refused(divided: Path) -> None:
    manifest = read_manifest(divided)
    arrays = {name: a for name, a in manifest.arrays.items() if name != "validation/none"}
    write_manifest(divided, replace(manifest, arrays=arrays))
    with pytest.raises(DamagedStoreError, match="does not describe validation/none"):
        read_manifest(divided)


def test_without_the_split_test_is_chosen_on(store: Path) -> None:
    opened = TokenStore.open(store)
    assert opened.splits == ("train", "test")
    assert opened.choosing_split == "test"
    with pytest.raises(ConfigError, match="the split is one of train, test"):
        opened.windows("validation", "full")


@pytest.mark.parametrize(
    "counts",
    [
        OverlapCounts(train=5, test=3, both=4),
        OverlapCounts(train=2, test=9, both=3),
        OverlapCounts(train=5, test=3, both=3, validation=1, validation_both=2),
    ],
)
def test_impossible_counts_are_refused(divided: Path, counts: OverlapCounts) -> None:
    write_manifest(divided, replace(read_manifest(divided), overlap={"sources": counts}))
    with pytest.raises(DamagedStoreError, match=r"overlap: . sources in train and"):
        read_manifest(divided)
