"""Several stores as one: as if somebody had written all their windows, in that order, into a single store."""

from __future__ import annotations

import hashlib
import itertools
import pickle
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stores import MixtureSampler, StoreUnion, TokenStore, maps, open_stores
from stores.errors import ConfigError, DamagedStoreError
from stores.layout import MODES, SPLITS, chunk_file
from stores.manifest import read_manifest, write_manifest
from stores.overlap import OverlapCounts
from stores.provenance import survey
from stores.rows import read_rows
from stores.verify import check_content
from tests.helpers import build_store
from tests.stores.several import Several, build_several

ARRAYS = [(split, mode) for split in SPLITS for mode in MODES]
ROWS = {"monday": (1500, 400), "tuesday": (900, 0), "wednesday": (2000, 300)}
"""Tuesday has no test rows, so a border lies between stores that are not neighbours."""


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Several:
    folder = tmp_path_factory.mktemp("several")
    return build_several(folder, ROWS, {"monday": 7, "tuesday": 5, "wednesday": 11})


@pytest.fixture(scope="module")
def union(several: Several) -> StoreUnion:
    opened = open_stores(several.parts)
    assert isinstance(opened, StoreUnion)
    return opened


@pytest.fixture(scope="module")
def whole(several: Several) -> TokenStore:
    return TokenStore.open(several.whole)


@given(data=st.data())
def test_rows_of_all_are_gathered_as_from_one_store(
    union: StoreUnion, whole: TokenStore, data: st.DataObject
) -> None:
    split, mode = data.draw(st.sampled_from(ARRAYS))
    assert union.windows(split, mode) == whole.windows(split, mode)
    rows = data.draw(st.lists(st.integers(0, whole.windows(split, mode) - 1), max_size=40))
    tokens = union.gather(split, mode, rows)
    np.testing.assert_array_equal(tokens, whole.gather(split, mode, rows))
    assert tokens.dtype == np.uint16
    assert tokens.flags.writeable


@pytest.mark.parametrize(("split", "mode"), ARRAYS)
def test_on_both_sides_of_a_border_each_store_has_its_own_windows(
    union: StoreUnion, split: str, mode: str
) -> None:
    parts = [part for part in union.parts if part.windows(split, mode)]
    border = 0
    for before, after in itertools.pairwise(parts):
        border += before.windows(split, mode)
        last, first = union.gather(split, mode, [border - 1, border])
        ends = before.gather(split, mode, [before.windows(split, mode) - 1])
        np.testing.assert_array_equal(last, ends[0])
        np.testing.assert_array_equal(first, after.gather(split, mode, [0])[0])
    lengths = union.lengths(split, mode)
    np.testing.assert_array_equal(lengths, np.concatenate([p.lengths(split, mode) for p in parts]))
    assert not lengths.flags.writeable


def test_batches_are_those_of_one_store(
    several: Several, union: StoreUnion, whole: TokenStore
) -> None:
    again = open_stores(several.parts)
    for step in (0, 1, 40, 10**6):
        expected = MixtureSampler(whole, "train", 20, 3).batch(step)
        for store in (union, again):
            for ours, theirs in zip(
                MixtureSampler(store, "train", 20, 3).batch(step), expected, strict=True
            ):
                np.testing.assert_array_equal(ours, theirs)
    some = np.arange(20)
    for ours, theirs in zip(
        MixtureSampler(union, "train", 20, 3).following(2, some, 8),
        MixtureSampler(whole, "train", 20, 3).following(2, some, 8),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_rows_and_provenance_are_of_all_stores(union: StoreUnion, whole: TokenStore) -> None:
    for ours, theirs in zip(read_rows(union), read_rows(whole), strict=True):
        for name, column in vars(theirs).items():
            np.testing.assert_array_equal(getattr(ours, name), column, err_msg=name)
    seen: list[tuple[int, int]] = []
    found = survey(union, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (whole.windows("train", "full"),) * 2
    assert asdict(found) == asdict(survey(whole)) | {"store_digest": union.digest}
    assert found.rows == sum(train for train, _ in ROWS.values())


def test_the_digest_is_that_of_the_digests_in_order(several: Several, union: StoreUnion) -> None:
    lines = "".join(f"{TokenStore.open(part).digest}\n" for part in several.parts)
    assert union.digest == hashlib.sha256(lines.encode()).hexdigest()
    assert open_stores(several.parts).digest == union.digest
    assert open_stores(several.parts[::-1]).digest != union.digest
    assert open_stores(several.parts[:2]).digest != union.digest


def test_one_store_is_that_store(several: Several) -> None:
    for paths in (several.parts[0], str(several.parts[0]), [several.parts[0]]):
        opened = open_stores(paths)
        assert type(opened) is TokenStore
        assert opened.path == several.parts[0]
        assert opened.digest == read_manifest(several.parts[0]).digest


def test_a_store_given_twice_is_refused_by_name(several: Several, tmp_path: Path) -> None:
    monday, tuesday, _ = several.parts
    copy = shutil.copytree(monday, tmp_path / "copy")
    for again in (monday, copy):
        with pytest.raises(ConfigError) as caught:
            open_stores([monday, tuesday, again])
        assert str(caught.value).startswith(f"{again}: the same store as {monday} (digest ")
    with pytest.raises(ConfigError, match="no store: name at least one"):
        open_stores([])


def test_stores_of_different_splits_are_refused_by_name(several: Several, tmp_path: Path) -> None:
    divided = build_store(tmp_path / "divided", train=300, validation=90, test=60)
    with pytest.raises(ConfigError) as caught:
        open_stores([several.parts[0], divided])
    assert str(caught.value) == (
        f"{divided}: has the splits train, validation, test, but {several.parts[0]} has train, test: "
        "prepare all of them with --validation, or none"
    )


def test_a_validation_split_that_only_one_store_has_rows_of_chooses(tmp_path: Path) -> None:
    paths = [
        build_store(tmp_path / f"{rows}", train=300, validation=rows, test=60, seed=rows)
        for rows in (0, 90)
    ]
    assert open_stores(paths).choosing_split == "validation"
    assert open_stores(paths[:1]).choosing_split == "test"


@pytest.mark.parametrize("rows", [[0, 10**6], [-1], [0.5], [[1]]])
def test_rows_that_do_not_exist_are_refused_as_by_one_store(
    union: StoreUnion, whole: TokenStore, rows: list[object]
) -> None:
    messages = []
    for store in (union, whole):
        with pytest.raises(IndexError) as caught:
            store.gather("train", "full", rows)  # type: ignore[arg-type]
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    with pytest.raises(ConfigError, match="no array training/full"):
        union.gather("training", "full", [])


def test_maps_are_bounded_for_all_stores_together(
    several: Several, whole: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maps, "MAX_MAPS", 3)
    union = open_stores(several.parts, resident_bytes=1)  # releases at every gather
    rows = np.random.default_rng(0).permutation(whole.windows("train", "none"))
    for part in np.array_split(rows, 5):
        np.testing.assert_array_equal(
            union.gather("train", "none", part), whole.gather("train", "none", part)
        )
    assert len(union.maps) == 3
    assert not any(len(part.maps) for part in union.parts)


def test_a_union_survives_pickling(union: StoreUnion) -> None:
    again = pickle.loads(pickle.dumps(union))
    assert repr(again) == repr(union)
    np.testing.assert_array_equal(
        again.gather("test", "mixed", [0, 3]), union.gather("test", "mixed", [0, 3])
    )


def test_the_content_of_every_store_is_checked(several: Several, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(several.parts[2], tmp_path / "damaged"))
    check_content(open_stores([*several.parts[:2], damaged]))
    file = chunk_file(damaged, "train", "none", "tokens", 1)
    content = bytearray(file.read_bytes())
    content[5] ^= 1
    file.write_bytes(content)
    with pytest.raises(DamagedStoreError, match=f"{file}: SHA-256 is"):
        check_content(open_stores([*several.parts[:2], damaged]))


def test_one_simulated_store_among_others_makes_the_data_mixed(
    several: Several, tmp_path: Path
) -> None:
    simulated = Path(shutil.copytree(several.parts[1], tmp_path / "simulated"))
    manifest = read_manifest(simulated)
    configuration = manifest.configuration | {"simulate": {"seed": 0}}
    write_manifest(simulated, replace(manifest, configuration=configuration))
    assert survey(open_stores([several.parts[0], simulated])).data == "mixed"
    assert survey(open_stores(several.parts[:2])).data == "real"


def test_a_warning_about_new_sources_names_the_store(several: Several, tmp_path: Path) -> None:
    assert open_stores(several.parts).new_sources is None
    warned = []
    for part in several.parts[1:]:
        warned.append(Path(shutil.copytree(part, tmp_path / part.name)))
        counts = {"sources": OverlapCounts(train=10, test=20, both=5)}
        write_manifest(warned[-1], replace(read_manifest(part), overlap=counts))
    found = open_stores([several.parts[0], warned[0]]).new_sources
    assert found is not None
    assert found.startswith(
        f"{warned[0]}, counted without the other stores: 15 of the 20 sources in test (75%) are not in train"
    )
    found = open_stores([several.parts[0], *warned]).new_sources
    assert found is not None
    assert found.startswith(f"{warned[0]} and 1 more of the 3 stores, counted without")
