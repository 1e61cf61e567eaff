"""A keyed bijection over [0, n): the order of an epoch, without a table and from any index.

A Feistel network over a power of two that holds n, walked in cycles until the result is
below n (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002). Not cryptography: the
rounds only have to mix well.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

ROUNDS = 6
MIN_BITS = 7  # smaller networks favour some orders, whatever the number of rounds

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)


def mix64(values: ArrayLike) -> NDArray[np.uint64]:
    """SplitMix64 finalizer of uint64 values, elementwise: a bijection that scatters every bit."""
    h = np.array(values, np.uint64, ndmin=1)
    h = (h ^ (h >> np.uint64(30))) * _MIX1
    h = (h ^ (h >> np.uint64(27))) * _MIX2
    return h ^ (h >> np.uint64(31))


def keyed(*words: ArrayLike) -> NDArray[np.uint64]:
    """One 64-bit key out of integer words, elementwise with broadcasting; never 0-dimensional.

    Word by word as the field-order hash of `stores.codec`. Negative words count as two's complement.
    """
    h = np.zeros(1, np.uint64)
    for word in words:
        h = mix64((h ^ np.asarray(word).astype(np.uint64)) + GOLDEN)
    return h


def permute(index: ArrayLike, n: int, key: ArrayLike) -> NDArray[np.int64]:
    """Image of each index under the bijection that its key picks: int64 (m,), in [0, n).

    `index` is (m,) integers in [0, n), `key` uint64, one or (m,). For a fixed key it is a bijection
    of [0, n). About 0.07 µs an index, more for n below 64.
    """
    start = np.array(index, np.uint64, ndmin=1)
    keys = np.array(key, np.uint64, ndmin=1)
    if start.size and not 0 <= int(start.max()) < n:
        raise ValueError(f"index {int(start.max())} is outside [0, {n})")
    bits = max(MIN_BITS, (n - 1).bit_length())
    image = _feistel(start, bits, keys)
    outside = np.flatnonzero(image >= np.uint64(n))  # under half, unless n is tiny
    while outside.size:
        image[outside] = _feistel(image[outside], bits, keys if len(keys) == 1 else keys[outside])
        outside = outside[image[outside] >= np.uint64(n)]
    return image.astype(np.int64)


def _feistel(value: NDArray[np.uint64], bits: int, key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A bijection of [0, 2**bits): each round changes one half by a hash of the other, so it can be
    undone, whatever the hash and however unequal the halves."""
    low_bits = np.uint64((bits + 1) // 2)
    high_bits = np.uint64(bits // 2)
    low_mask = (np.uint64(1) << low_bits) - np.uint64(1)
    low, high = value & low_mask, value >> low_bits
    for number in range(0, ROUNDS, 2):
        low ^= _round(high, key, number) >> (np.uint64(64) - low_bits)
        high ^= _round(low, key, number + 1) >> (np.uint64(64) - high_bits)
    return high << low_bits | low


def _round(half: NDArray[np.uint64], key: NDArray[np.uint64], number: int) -> NDArray[np.uint64]:
    """A hash whose high bits are good; `key` is mixed already."""
    h = (half + key * np.uint64(2 * number + 1)) * _MIX1
    return (h ^ (h >> np.uint64(32))) * _MIX2
