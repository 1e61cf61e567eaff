"""The store that tokenize writes: complete, whole, and the same wherever it is cut."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import zarr

from pipeline.measurements import SCHEMA
from pipeline.tokenize import stage
from stores import TokenStore, layout
from stores.codec import decode_rtt, decode_window, encode_rtt
from stores.errors import ConfigError, InputError
from stores.layout import MODES, SPLITS
from stores.verify import verify_store
from tests.pipeline.tables import measurement_table, read_split, with_column, write_parquet


def decoded(store: TokenStore, split: str, mode: str) -> list:
    tokens = store.gather(split, mode, np.arange(store.windows(split, mode)))
    return [
        m
        for line, length in zip(tokens, store.lengths(split, mode), strict=True)
        for m in decode_window(line, int(length))
    ]


def expected(out: Path, split: str, with_time: bool) -> Counter:
    """Measurements of a split as a decoder gives them back."""
    counts: Counter = Counter()
    for shard in read_split(out, split):
        times = shard.column("event_time").cast(pa.int64()).to_numpy() // 1_000_000
        for src, dst, rtt, time in zip(
            shard.column("src_addr").to_pylist(),
            shard.column("dst_addr").to_pylist(),
            shard.column("rtt").to_pylist(),
            times.tolist(),
            strict=True,
        ):
            ms = None if rtt < 0 else decode_rtt(encode_rtt(rtt))
            counts[src, dst, ms, time if with_time else None] += 1
    return counts


@pytest.fixture
def split_folder(tmp_path: Path, run_split) -> Path:
    """Eight train shards of 3,600 rows in all, and a test shard."""
    table = measurement_table(4000, sources=40)
    run_split([write_parquet(table, tmp_path / "a.parquet")], tmp_path / "out", rows_per_shard=450)
    return tmp_path / "out"


@pytest.mark.parametrize("per_chunk", [3, 50, 8192])
@pytest.mark.parametrize("rows_per_unit", [1, 10**9])
def test_every_measurement_is_exactly_once_in_each_mode(
    per_chunk: int, rows_per_unit: int, split_folder: Path, run_tokenize, monkeypatch
) -> None:
    """Whether chunks are smaller or larger than shards, and units one shard or all of them."""
    monkeypatch.setattr(layout, "MAX_WINDOWS_PER_CHUNK", per_chunk)
    monkeypatch.setattr(stage, "_ROWS_PER_UNIT", rows_per_unit)
    run_tokenize(split_folder)
    assert verify_store(split_folder / "store.zarr").problems == []
    store = TokenStore.open(split_folder / "store.zarr")
    for split in SPLITS:
        for mode in ("full", "none"):
            found = Counter(
                (str(m.src), str(m.dst), m.rtt_ms, m.time) for m in decoded(store, split, mode)
            )
            assert found == expected(split_folder, split, mode == "full")
        mixed = Counter((str(m.src), str(m.dst), m.rtt_ms) for m in decoded(store, split, "mixed"))
        full = Counter((str(m.src), str(m.dst), m.rtt_ms) for m in decoded(store, split, "full"))
        assert mixed == full


def test_passes_are_whole_copies_with_other_orders(split_folder: Path, run_tokenize) -> None:
    record = run_tokenize(split_folder, passes=3)
    store = TokenStore.open(split_folder / "store.zarr")
    assert verify_store(split_folder / "store.zarr").problems == []
    rows = sum(len(shard) for shard in read_split(split_folder, "train"))
    for mode in MODES:
        assert record.arrays[f"train/{mode}"].measurements == 3 * rows
        windows = store.windows("train", mode)
        tokens = store.gather("train", mode, np.arange(windows))
        assert len(np.unique(tokens, axis=0)) > 0.9 * windows


def test_any_zarr_reader_opens_the_store_and_memory_maps_equal_its_reads(
    split_folder: Path, run_tokenize
) -> None:
    record = run_tokenize(split_folder)
    path = split_folder / "store.zarr"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        group = zarr.open(path, mode="r")
        assert sorted(name for name, _ in group.members()) == ["test", "train"]
    assert group.attrs["pinglm"]["digest"] == record.digest
    store = TokenStore.open(path)
    for split in SPLITS:
        for mode in MODES:
            tokens = group[f"{split}/{mode}/tokens"][:]
            assert tokens.dtype == np.uint16
            assert tokens.shape == (store.windows(split, mode), 1024)
            np.testing.assert_array_equal(store.gather(split, mode, np.arange(len(tokens))), tokens)
            raw = np.memmap(layout.chunk_file(path, split, mode, "tokens", 0), "<u2", "r")
            np.testing.assert_array_equal(raw.reshape(-1, 1024)[: len(tokens)], tokens)
            lengths = group[f"{split}/{mode}/length"][:]
            np.testing.assert_array_equal(store.lengths(split, mode), lengths)


def test_fill_is_at_least_97_5_percent(tmp_path: Path, run_split, run_tokenize) -> None:
    table = measurement_table(60_000, sources=30)
    run_split([write_parquet(table, tmp_path / "a.parquet")], tmp_path / "out")
    for name, array in run_tokenize(tmp_path / "out").arrays.items():
        if name.startswith("train"):
            assert array.tokens / (array.windows * 1024) >= 0.975


def test_an_empty_test_split_is_an_array_of_no_windows(
    tmp_path: Path, run_split, run_tokenize
) -> None:
    one_second = pa.array([1_750_000_000_000_000] * 30).cast(SCHEMA.field("event_time").type)
    table = with_column(measurement_table(30), "event_time", one_second)
    run_split([write_parquet(table, tmp_path / "a.parquet")], tmp_path / "out")
    run_tokenize(tmp_path / "out")
    store = TokenStore.open(tmp_path / "out/store.zarr")
    assert store.windows("test", "full") == 0
    assert store.gather("test", "full", []).shape == (0, 1024)
    assert zarr.open(tmp_path / "out/store.zarr")["test/full/tokens"].shape == (0, 1024)
    assert verify_store(tmp_path / "out/store.zarr").problems == []


def test_digest_depends_on_seed_and_data_but_not_on_the_place(
    tmp_path: Path, run_split, run_tokenize
) -> None:
    def digest(place: str, seed: int, rows: int = 500) -> str:
        path = write_parquet(measurement_table(rows), tmp_path / place / "in.parquet")
        run_split([path], tmp_path / place / "out")
        return run_tokenize(tmp_path / place / "out", seed=seed).digest

    assert digest("a", 0) == digest("b/c", 0)
    assert len({digest("d", 0), digest("e", 1), digest("f", 0, 501)}) == 3


def test_tokenize_needs_a_finished_split_and_the_same_options(
    tmp_path: Path, split_folder: Path, run_tokenize
) -> None:
    with pytest.raises(InputError, match="no finished split"):
        run_tokenize(tmp_path / "empty")
    record = run_tokenize(split_folder)
    assert run_tokenize(split_folder) == record
    with pytest.raises(ConfigError, match="seed 0, not 5"):
        run_tokenize(split_folder, seed=5)
    with pytest.raises(ConfigError, match="--passes 0"):
        run_tokenize(split_folder, passes=0)
