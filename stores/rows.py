"""The measurements of a store as flat NumPy arrays, for models that are fitted to rows rather than tokens."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stores.codec import decode_rtts
from stores.errors import DamagedStoreError
from stores.grammar import parse_windows
from stores.program import command
from stores.progress import Progress
from stores.reader import TokenStore
from stores.union import Store
from stores.vocabulary import (
    BYTE0,
    CONTEXT,
    DST_IPV4,
    DST_IPV6,
    SRC_IPV4,
    SRC_IPV6,
    TIMESTAMP_ABS,
    TIMESTAMP_DELTA1,
    TIMESTAMP_DELTA4,
)

Words = NDArray[np.uint64]

_WINDOWS = 1024  # a block, about 60,000 rows


@dataclass(frozen=True)
class Rows:
    """Measurements, each array (rows,); an address is a number, its row in the table `addresses`."""

    addresses: Words
    """(addresses, 2): high and low half of every address, sorted; an IPv4 address is a low half."""
    src: NDArray[np.int32]
    dst: NDArray[np.int32]
    seconds: NDArray[np.int64]
    """Unix time."""
    rtt_ms: NDArray[np.float64]
    """NaN: no answer. Within 1/2048 of the measured RTT, the precision of its tokens."""

    def __len__(self) -> int:
        return len(self.src)

    @property
    def failed(self) -> NDArray[np.bool_]:
        """Rows without an answer."""
        return np.isnan(self.rtt_ms)

    @property
    def pair(self) -> NDArray[np.int64]:
        """One number for each (source, destination)."""
        return pair_key(self.src, self.dst)

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_] | slice) -> Rows:
        """These rows, with the same address table."""
        return Rows(
            self.addresses, self.src[rows], self.dst[rows], self.seconds[rows], self.rtt_ms[rows]
        )


def pair_key(src: NDArray[np.int32], dst: NDArray[np.int32]) -> NDArray[np.int64]:
    """One number for each (source, destination), int64."""
    return src.astype(np.int64) << 32 | dst


def is_ipv4(addresses: Words) -> NDArray[np.bool_]:
    """(n,) of packed addresses (n, 2)."""
    low: NDArray[np.bool_] = (addresses[:, 0] == 0) & (addresses[:, 1] < 2**32)
    return low


def read_rows(
    store: Store,
    progress: Progress = lambda done, total: None,
    held_out: Literal["test", "validation"] = "test",
) -> tuple[Rows, Rows]:
    """Train and test (or validation) rows of a store or of several, in stored order, with one address table.

    Read from the `full` arrays, where every row has its time; the copies that further passes add are
    left out. Raises `DamagedStoreError` for a window that breaks the grammar. About 1 M rows/s, and
    24 bytes a row in memory.
    """
    splits = ("train", held_out)
    total = sum(store.windows(split, "full") for split in splits)
    done = train_rows = 0
    blocks: list[Rows] = []
    for split in splits:
        for part in store.parts:
            for windows, block in row_blocks(part, split):
                blocks.append(block)
                train_rows += len(block) if split == "train" else 0
                done += windows
                progress(done, total)
    rows = _join(blocks)
    train, others = rows.take(slice(train_rows)), rows.take(slice(train_rows, None))
    if any(part.manifest.passes > 1 for part in store.parts):
        return _distinct(train), _distinct(others)
    return train, others


def row_blocks(store: TokenStore, split: str) -> Iterator[tuple[int, Rows]]:
    """The rows of a split in stored order, block by block: how many windows were read, and their rows with an
    address table of their own. Raises as `read_rows`, whose rows these are before copies are left out.
    """
    for first, tokens, lengths in store.blocks(split, "full", _WINDOWS):
        yield len(tokens), _decode(store.path, split, first, tokens, lengths)


def _decode(
    path: os.PathLike[str],
    split: str,
    first: int,
    tokens: NDArray[np.uint16],
    lengths: NDArray[np.uint16],
) -> Rows:
    """Rows of a block of windows; `src` and `dst` count in its own address table."""
    parsed = parse_windows(tokens, lengths)
    if parsed.bad.size:
        raise DamagedStoreError(
            f"{path}: window {first + parsed.bad[0]} of {split}/full breaks the grammar: "
            f"run `{command('verify-store', path)}` to see where"
        )
    body = tokens[np.arange(CONTEXT, dtype=np.uint16) < lengths[:, None]]
    heads = np.flatnonzero(body < BYTE0)  # roles; a valid measurement has each field once
    roles = body[heads]
    src = _addresses(body, heads, roles, SRC_IPV4, SRC_IPV6)
    dst = _addresses(body, heads, roles, DST_IPV4, DST_IPV6)
    addresses, number = number_words(np.concatenate([src, dst]))
    rtt_ms = np.full(len(src), np.nan)
    rtt_ms[~parsed.failed] = decode_rtts(parsed.rtt_code)
    seconds = seconds_of(body, heads, roles)
    return Rows(addresses, number[: len(src)], number[len(src) :], seconds, rtt_ms)


def _integer(body: NDArray[np.uint16], heads: NDArray[np.int64], start: int, size: int) -> Words:
    """Big-endian uint64 of `size` payload bytes from byte `start` behind each role."""
    value = np.zeros(len(heads), np.uint64)
    for byte in range(start, start + size):
        value = value << np.uint64(8) | (body[heads + 1 + byte] - np.uint16(BYTE0))
    return value


def _addresses(
    body: NDArray[np.uint16],
    heads: NDArray[np.int64],
    roles: NDArray[np.uint16],
    ipv4: int,
    ipv6: int,
) -> Words:
    """(n, 2) packed addresses of one field."""
    at = (roles == ipv4) | (roles == ipv6)
    heads, roles = heads[at], roles[at]
    packed = np.zeros((len(heads), 2), np.uint64)
    short, long = heads[roles == ipv4], heads[roles == ipv6]
    packed[roles == ipv4, 1] = _integer(body, short, 0, 4)
    packed[roles == ipv6, 0] = _integer(body, long, 0, 8)
    packed[roles == ipv6, 1] = _integer(body, long, 8, 8)
    return packed


def seconds_of(
    body: NDArray[np.uint16], heads: NDArray[np.int64], roles: NDArray[np.uint16]
) -> NDArray[np.int64]:
    """(n,) Unix seconds of the measurements that have a time, given all role tokens of windows one after the
    other, and where in `body` they are: a delta counts from the time before it, and a window begins with none."""
    at = (roles >= TIMESTAMP_ABS) & (roles <= TIMESTAMP_DELTA4)
    heads, roles = heads[at], roles[at]
    value = np.zeros(len(heads), np.int64)
    for role, size in ((TIMESTAMP_ABS, 8), (TIMESTAMP_DELTA1, 1), (TIMESTAMP_DELTA4, 4)):
        value[roles == role] = _integer(body, heads[roles == role], 0, size)
    absolute = roles == TIMESTAMP_ABS
    advance = np.cumsum(np.where(absolute, 0, value))
    clock = np.flatnonzero(absolute)[np.cumsum(absolute) - 1]  # where it was last set
    seconds: NDArray[np.int64] = value[clock] + advance - advance[clock]
    return seconds


def number_words(words: Words) -> tuple[Words, NDArray[np.int32]]:
    """Distinct packed addresses (a, 2), sorted, and the number of each given one among them (n,)."""
    order = np.lexsort((words[:, 1], words[:, 0]))
    ordered = words[order]
    new = np.any(np.diff(ordered, axis=0, prepend=~ordered[:1]) != 0, axis=1)
    number = np.empty(len(words), np.int32)
    number[order] = np.cumsum(new, dtype=np.int32) - 1
    return ordered[new], number


def _join(blocks: list[Rows]) -> Rows:
    """All blocks end to end, with one address table instead of one each."""
    if not blocks:
        none = np.zeros(0, np.int32)
        return Rows(np.zeros((0, 2), np.uint64), none, none, np.zeros(0, np.int64), np.zeros(0))
    addresses, number = number_words(np.concatenate([block.addresses for block in blocks]))
    ends = np.cumsum([len(block.addresses) for block in blocks])
    numbers = np.split(number, ends[:-1])
    return Rows(
        addresses,
        np.concatenate([own[block.src] for own, block in zip(numbers, blocks, strict=True)]),
        np.concatenate([own[block.dst] for own, block in zip(numbers, blocks, strict=True)]),
        np.concatenate([block.seconds for block in blocks]),
        np.concatenate([block.rtt_ms for block in blocks]),
    )


def _distinct(rows: Rows) -> Rows:
    """Each row once, sorted by source, destination and time."""
    order = np.lexsort((rows.rtt_ms, rows.seconds, rows.dst, rows.src))
    rows = rows.take(order)
    columns = (rows.src, rows.dst, rows.seconds, rows.rtt_ms)
    again = np.logical_and.reduce(
        [(c[1:] == c[:-1]) | ((c[1:] != c[1:]) & (c[:-1] != c[:-1])) for c in columns]
    )
    return rows.take(np.append(True, ~again)[: len(rows)])
