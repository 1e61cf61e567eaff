"""The 64-bit hash behind every shuffle, coin flip and field order: SplitMix64, folded word by word.

The finalizer is that of Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators" (2014).
Hashes end up in the bytes of a store, so no value may ever change.

Two other places write the same rounds out, from the constants here: `stores.codec.order_hash`, which
hashes one measurement at a time in plain Python integers as the readable reference, and
`pipeline.tokenize.encoder.mix_word`, which is compiled and cannot call NumPy code. Tests hold both to
this module.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

MASK64 = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / the golden ratio: the increment of SplitMix64
MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
SHIFTS = (30, 27, 31)


def mix64(values: ArrayLike) -> NDArray[np.uint64]:
    """SplitMix64 finalizer of uint64 `values`, elementwise: a bijection that scatters every bit.

    Returns uint64 of the same shape, but never 0-dimensional.
    """
    h = np.array(values, np.uint64, ndmin=1)
    h = (h ^ (h >> np.uint64(SHIFTS[0]))) * np.uint64(MULTIPLIERS[0])
    h = (h ^ (h >> np.uint64(SHIFTS[1]))) * np.uint64(MULTIPLIERS[1])
    return h ^ (h >> np.uint64(SHIFTS[2]))


def fold(hashes: NDArray[np.uint64], words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Fold one uint64 word into each hash, elementwise with broadcasting."""
    return mix64((hashes ^ words) + np.uint64(GOLDEN))


def keyed(*words: ArrayLike, start: int = 0) -> NDArray[np.uint64]:
    """Hash integer words into 64 bits, elementwise with broadcasting; never 0-dimensional.

    `start`, in [0, 2**64), selects one of many independent hash functions; the field order of
    `stores.codec` uses 0. Negative words count as two's complement.
    """
    h = np.array([start], np.uint64)
    for word in words:
        h = fold(h, np.asarray(word).astype(np.uint64))
    return h
