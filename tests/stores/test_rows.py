"""Rows of a store as arrays, against the plain decoder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stores import TokenStore
from stores.codec import decode_window
from stores.errors import DamagedStoreError
from stores.layout import chunk_file
from stores.rows import Rows, is_ipv4, read_rows
from stores.truth import pack_addresses


def decoded(store: TokenStore, split: str) -> list[tuple]:
    """Every row of a split by the plain decoder."""
    rows = []
    for _, tokens, lengths in store.blocks(split, "full"):
        for window, length in zip(tokens, lengths, strict=True):
            for m in decode_window(window, int(length)):
                src, dst = pack_addresses([m.src, m.dst]).tolist()
                rows.append((*src, *dst, m.time, m.rtt_ms))
    return rows


def listed(rows: Rows) -> list[tuple]:
    src, dst = rows.addresses[rows.src], rows.addresses[rows.dst]
    rtts = [None if np.isnan(rtt) else rtt for rtt in rows.rtt_ms.tolist()]
    return [
        (*a, *b, time, rtt)
        for a, b, time, rtt in zip(
            src.tolist(), dst.tolist(), rows.seconds.tolist(), rtts, strict=True
        )
    ]


def test_rows_are_what_the_plain_decoder_says(store: Path) -> None:
    opened = TokenStore.open(store)
    train, test = read_rows(opened)
    assert listed(train) == decoded(opened, "train")
    assert listed(test) == decoded(opened, "test")
    assert train.failed.any()
    assert set(is_ipv4(train.addresses[train.src])) == {True, False}


def test_addresses_are_distinct_and_all_in_use(store: Path) -> None:
    train, test = read_rows(TokenStore.open(store))
    assert train.addresses is test.addresses
    assert len(np.unique(train.addresses, axis=0)) == len(train.addresses)
    used = np.concatenate([train.src, train.dst, test.src, test.dst])
    np.testing.assert_array_equal(np.unique(used), np.arange(len(train.addresses)))


def test_copies_of_further_passes_are_left_out(tmp_path: Path) -> None:
    rows = {}
    for passes in ("1", "2"):
        out = tmp_path / passes
        options = ["--rows", "3000", "--passes", passes, "--workers", "1", "--json"]
        made = subprocess.run(
            [sys.executable, "cli.py", "prepare", "--out", str(out), *options],
            capture_output=True,
            text=True,
        )
        assert made.returncode == 0, made.stderr
        rows[passes] = read_rows(TokenStore.open(out))
    for once, twice in zip(rows["1"], rows["2"], strict=True):
        assert sorted(map(repr, listed(once))) == sorted(map(repr, listed(twice)))


def test_damage_is_named(tmp_path: Path, store: Path) -> None:
    copy = tmp_path / "store.zarr"
    subprocess.run(["cp", "-r", str(store), str(copy)], check=True)
    file = chunk_file(copy, "test", "full", "tokens", 0)
    tokens = np.fromfile(file, "<u2")
    tokens[1024] = 300
    tokens.tofile(file)
    with pytest.raises(DamagedStoreError, match="window 1 of test/full breaks the grammar"):
        read_rows(TokenStore.open(copy))
