"""A keyed bijection over [0, n): the order of an epoch, without a table and from any index.

A Feistel network over the smallest suitable power of two, applied again until the result is below n
(cycle walking: Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002). This is not
cryptography: the rounds only have to mix well.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stores.hashing import MULTIPLIERS

ROUNDS = 6
MIN_BITS = 7  # smaller networks favour some orders, whatever the number of rounds


def permute(index: ArrayLike, n: int, key: ArrayLike) -> NDArray[np.int64]:
    """Image of each index under the bijection that its key selects: int64 (m,), in [0, n).

    `index` holds (m,) integers in [0, n); `key` is one uint64 or (m,) of them. Every key gives a
    bijection of [0, n). Takes about 0.07 µs per index, more for n below 64.

    Raises `ValueError` if an index is n or more.
    """
    start = np.array(index, np.uint64, ndmin=1)
    keys = np.array(key, np.uint64, ndmin=1)
    if start.size and not 0 <= int(start.max()) < n:
        raise ValueError(f"index {int(start.max())} is outside [0, {n})")
    bits = max(MIN_BITS, (n - 1).bit_length())
    image = _feistel(start, bits, keys)
    outside = np.flatnonzero(image >= np.uint64(n))  # fewer than half, unless n is tiny
    while outside.size:
        image[outside] = _feistel(image[outside], bits, keys if len(keys) == 1 else keys[outside])
        outside = outside[image[outside] >= np.uint64(n)]
    return image.astype(np.int64)


def _feistel(value: NDArray[np.uint64], bits: int, key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A bijection of [0, 2**bits): each round changes one half by a hash of the other, so it can be
    undone whatever the hash is and however unequal the halves are."""
    low_bits = np.uint64((bits + 1) // 2)
    high_bits = np.uint64(bits // 2)
    low_mask = (np.uint64(1) << low_bits) - np.uint64(1)
    low, high = value & low_mask, value >> low_bits
    for number in range(0, ROUNDS, 2):
        low ^= _round(high, key, number) >> (np.uint64(64) - low_bits)
        high ^= _round(low, key, number + 1) >> (np.uint64(64) - high_bits)
    return high << low_bits | low


def _round(half: NDArray[np.uint64], key: NDArray[np.uint64], number: int) -> NDArray[np.uint64]:
    """A hash with good high bits; `key` is already well mixed."""
    h = (half + key * np.uint64(2 * number + 1)) * np.uint64(MULTIPLIERS[0])
    return (h ^ (h >> np.uint64(32))) * np.uint64(MULTIPLIERS[1])
