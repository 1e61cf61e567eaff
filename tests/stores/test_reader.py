"""TokenStore: the same bytes as zarr and np.memmap, clear errors, flat memory."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from stores import TokenStore, maps
from stores.errors import ConfigError, DamagedStoreError, NotAStoreError
from stores.layout import MODES, SPLITS, chunk_file
from stores.manifest import (
    FORMAT_VERSION,
    ArrayTotals,
    ChunkFile,
    LedgerTotals,
    Manifest,
    write_manifest,
)
from tests.helpers import build_store

ARRAYS = [(split, mode) for split in SPLITS for mode in MODES]


@pytest.fixture(scope="module")
def store(store_path: Path) -> TokenStore:
    return TokenStore.open(store_path)


@pytest.mark.parametrize(("split", "mode"), ARRAYS)
def test_memmap_of_chunk_files_equals_zarr(store_path: Path, split: str, mode: str) -> None:
    array = zarr.open(store_path)[f"{split}/{mode}/tokens"]
    rows = array.chunks[0]
    chunks = [
        np.memmap(
            chunk_file(store_path, split, mode, "tokens", chunk), "<u2", "r", shape=(rows, 1024)
        )
        for chunk in range(-(-array.shape[0] // rows))
    ]
    assert len(chunks) > 1
    np.testing.assert_array_equal(np.concatenate(chunks)[: array.shape[0]], array[:])
    for name in ("length", "measurements"):
        plain = np.memmap(chunk_file(store_path, split, mode, name), "<u2", "r")
        np.testing.assert_array_equal(plain, zarr.open(store_path)[f"{split}/{mode}/{name}"][:])


def test_zarr_opens_the_store_alone_and_shows_the_manifest(store_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        group = zarr.open(store_path, mode="r")
        members = dict(group.members(max_depth=None))
    assert {f"{s}/{m}/{n}" for s, m in ARRAYS for n in ("tokens", "length", "measurements")} <= set(
        members
    )
    store = TokenStore.open(store_path)
    fields = msgspec.to_builtins(store.manifest)
    assert fields.pop("overlap") == {}
    assert group.attrs["pinglm"] == {"digest": store.digest, **fields}


@given(data=st.data())
def test_gather_equals_indexing_the_whole_array(store: TokenStore, data: st.DataObject) -> None:
    split, mode = data.draw(st.sampled_from(ARRAYS))
    rows = data.draw(st.lists(st.integers(0, store.windows(split, mode) - 1), max_size=40))
    whole = np.concatenate([tokens for _, tokens, _ in store.blocks(split, mode)])
    tokens = store.gather(split, mode, rows)
    assert tokens.dtype == np.uint16
    assert tokens.shape == (len(rows), 1024)
    np.testing.assert_array_equal(tokens, whole[np.array(rows, int)])
    chunks, offsets = store.locate(split, mode, rows)
    np.testing.assert_array_equal(store.gather_at(chunks.tolist(), offsets.tolist()), tokens)


@pytest.mark.parametrize(("split", "mode"), ARRAYS)
def test_blocks_are_the_whole_array_in_order(
    store: TokenStore, store_path: Path, split: str, mode: str
) -> None:
    blocks = list(store.blocks(split, mode, rows=5))
    assert [first for first, _, _ in blocks] == np.cumsum([0, *(len(b) for _, b, _ in blocks)])[
        :-1
    ].tolist()
    whole = zarr.open(store_path)[f"{split}/{mode}/tokens"][:]
    np.testing.assert_array_equal(np.concatenate([tokens for _, tokens, _ in blocks]), whole)
    lengths = np.concatenate([lengths for _, _, lengths in blocks])
    np.testing.assert_array_equal(lengths, store.lengths(split, mode))


def test_gathered_rows_are_a_copy_that_may_be_written(store: TokenStore) -> None:
    tokens = store.gather("train", "full", [0])
    tokens[:] = 9
    assert not (store.gather("train", "full", [0]) == 9).all()


def test_row_types_and_containers_do_not_matter(store: TokenStore) -> None:
    expected = store.gather("train", "full", [3, 1])
    for rows in (np.array([3, 1], np.uint8), np.array([3, 1], np.int32), (3, 1), range(3, 0, -2)):
        np.testing.assert_array_equal(store.gather("train", "full", rows), expected)
    assert store.gather("train", "full", []).shape == (0, 1024)


def test_lengths_and_measurements_are_read_only_and_add_up(store: TokenStore) -> None:
    for split, mode in ARRAYS:
        described = store.manifest.arrays[f"{split}/{mode}"]
        lengths, measurements = store.lengths(split, mode), store.measurements(split, mode)
        assert lengths.shape == measurements.shape == (store.windows(split, mode),)
        assert lengths.dtype == measurements.dtype == np.uint16
        assert lengths.sum(dtype=int) == described.tokens
        assert measurements.sum(dtype=int) == described.measurements
        with pytest.raises(ValueError, match="read-only"):
            lengths[0] = 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([0, 84], "row 84 of train/full: expected 0 to 83"),
        ([-1], "row -1 of train/full: expected 0 to 83"),
        ([0.5], "expected integers of shape"),
        ([[0, 1]], "expected integers of shape"),
    ],
)
def test_bad_rows_are_an_index_error_that_names_them(
    store: TokenStore, rows: list[int], message: str
) -> None:
    assert store.windows("train", "full") == 84
    with pytest.raises(IndexError, match=message):
        store.gather("train", "full", rows)


def test_unknown_array_is_refused(store: TokenStore) -> None:
    for split, mode in (("valid", "full"), ("train", "half")):
        with pytest.raises(ConfigError, match=f"{split}/{mode}"):
            store.gather(split, mode, [0])


def test_store_opens_by_the_output_folder_it_lies_in(store_path: Path) -> None:
    assert TokenStore.open(store_path.parent).path == store_path


def test_unfinished_store_is_not_a_store(tmp_path: Path) -> None:
    path = build_store(tmp_path / "store.zarr", train=50, test=50)
    (path / "zarr.json").unlink()
    with pytest.raises(NotAStoreError, match=r"no finished manifest.*: run `prepare` \(again\)"):
        TokenStore.open(path)
    with pytest.raises(NotAStoreError, match=r"no finished manifest.*: there is nothing at this"):
        TokenStore.open(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (["ledger"], None, "missing required field `ledger`"),
        (["ledger", "train"], None, "missing required field `train`"),
        (["ledger", "train"], "many", "Expected `int`, got `str`"),
        (["inputs"], {}, "Expected `array`, got `object`"),
        (["arrays", "train/full"], None, "does not describe train/full"),
        (["arrays", "train/full", "windows_per_chunk"], 0, "Expected `int` >= 1"),
        (["files"], 3, "Expected `object`, got `int`"),
        (["format_version"], None, "KeyError"),
        (["digest"], None, "KeyError"),
        (["vocabulary_version"], 2, "it was edited"),
    ],
)
def test_manifest_of_another_shape_is_damage_in_one_line(
    tmp_path: Path, keys: list[str], value: object, message: str
) -> None:
    path = build_store(tmp_path / "store.zarr", train=50, test=50)
    group = json.loads((path / "zarr.json").read_text())
    *parents, last = keys
    inside = group["attributes"]["pinglm"]
    for key in parents:
        inside = inside[key]
    inside.pop(last)
    if value is not None:
        inside[last] = value
    (path / "zarr.json").write_text(json.dumps(group))
    with pytest.raises(DamagedStoreError, match=re.escape(message)) as raised:
        TokenStore.open(path)
    assert "\n" not in str(raised.value)


def test_edited_manifest_is_damage(tmp_path: Path) -> None:
    path = build_store(tmp_path / "store.zarr", train=50, test=50)
    text = (path / "zarr.json").read_text()
    (path / "zarr.json").write_text(text.replace('"bad_rtt": 3', '"bad_rtt": 4'))
    with pytest.raises(DamagedStoreError, match="edited"):
        TokenStore.open(path)


@pytest.mark.parametrize("name", ["tokens", "length", "measurements"])
def test_missing_and_short_files_are_named(tmp_path: Path, name: str) -> None:
    path = build_store(tmp_path / "store.zarr", train=50, test=50)
    file = chunk_file(path, "train", "none", name)
    file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(DamagedStoreError, match=f"none/{name}.* bytes, expected"):
        TokenStore.open(path)
    file.unlink()
    with pytest.raises(DamagedStoreError, match=f"none/{name}.*No such file"):
        TokenStore.open(path)


def test_file_that_shrinks_after_opening_is_damage_not_a_crash(tmp_path: Path) -> None:
    path = build_store(tmp_path / "store.zarr", train=50, test=50)
    store = TokenStore.open(path)
    file = chunk_file(path, "train", "full", "tokens")
    file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(DamagedStoreError, match="full/tokens"):
        store.gather("train", "full", [0])
    with pytest.raises(DamagedStoreError, match="full/tokens"):
        list(store.blocks("train", "full"))


def test_store_survives_pickling(store: TokenStore) -> None:
    again = pickle.loads(pickle.dumps(store))
    assert again.digest == store.digest
    np.testing.assert_array_equal(
        again.gather("test", "mixed", [2, 0]), store.gather("test", "mixed", [2, 0])
    )


def test_more_chunk_files_than_maps_are_read_with_few_maps(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maps, "MAX_MAPS", 3)
    store = TokenStore.open(store_path)
    rows = np.random.default_rng(0).integers(0, store.windows("train", "full"), 500)
    whole = np.concatenate([tokens for _, tokens, _ in store.blocks("train", "full")])
    np.testing.assert_array_equal(store.gather("train", "full", rows), whole[rows])
    assert len(store.maps) == 3


def test_threads_gather_the_same_rows_while_maps_come_and_go(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maps, "MAX_MAPS", 2)
    store = TokenStore.open(store_path, resident_bytes=1)  # releases at every gather
    whole = np.concatenate([tokens for _, tokens, _ in store.blocks("train", "mixed")])

    def read(seed: int) -> bool:
        rng = np.random.default_rng(seed)
        batches = [rng.integers(0, len(whole), 32) for _ in range(100)]
        return all((store.gather("train", "mixed", rows) == whole[rows]).all() for rows in batches)

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(read, range(4)))


def test_reading_needs_nothing_but_numpy(store_path: Path) -> None:
    code = (
        "import sys; from stores import TokenStore, MixtureSampler;"
        f"store = TokenStore.open({str(store_path)!r});"
        "MixtureSampler(store, 'train', 4, 0).batch(0);"
        "heavy = {'zarr', 'rich', 'polars', 'pyarrow', 'numba', 'jax', 'matplotlib', 'typer'};"
        "loaded = heavy & set(sys.modules); assert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def sparse_store(path: Path, windows: int, per_chunk: int) -> Path:
    """A store of that many windows of one token per train array, whose chunk files take no disk space."""
    arrays, files = {}, {}
    for split, mode in ARRAYS:
        count = windows if (split, mode) == ("train", "full") else 0
        arrays[f"{split}/{mode}"] = ArrayTotals(count, per_chunk, count, count)
        for name in ("length", "measurements") if count else ():
            file = chunk_file(path, split, mode, name)
            file.parent.mkdir(parents=True)
            np.ones(count, "<u2").tofile(file)
            files[str(file.relative_to(path))] = ChunkFile(2 * count, "")
        for chunk in range(count // per_chunk):
            file = chunk_file(path, split, mode, "tokens", chunk)
            file.parent.mkdir(parents=True)
            with open(file, "wb") as handle:
                handle.truncate(per_chunk * 2048)
            files[str(file.relative_to(path))] = ChunkFile(per_chunk * 2048, "")
    write_manifest(
        path, Manifest(FORMAT_VERSION, 1, {}, [], LedgerTotals(0, 0, 0, {}), arrays, files)
    )
    return path


MEASURE = """
import sys
import numpy as np
from stores import TokenStore

def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024

store = TokenStore.open(sys.argv[1], resident_bytes=int(sys.argv[2]))
rng = np.random.default_rng(0)
before, most = resident(), 0
for step in range(600):
    store.gather("train", "full", rng.integers(0, store.windows("train", "full"), 32))
    most = max(most, resident()) if step % 5 == 0 else most
print(most - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="measures memory by /proc")
def test_memory_stays_flat_on_a_store_larger_than_its_budget(tmp_path: Path) -> None:
    path = sparse_store(tmp_path / "store.zarr", windows=36 * 8_000, per_chunk=8_000)  # 590 MB

    def growth_mb(resident_bytes: int) -> float:
        command = [sys.executable, "-c", MEASURE, str(path), str(resident_bytes)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return float(done.stdout)

    assert growth_mb(64 << 20) < 100
    assert growth_mb(4 << 30) > 300  # the limit is what keeps it flat
