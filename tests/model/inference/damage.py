"""What tests of damaged models claim, and whether a model came through whole."""

from __future__ import annotations

import numpy as np

from model.inference.weights import Weights

HUGE = 10**9


def is_same(found: Weights, expected: Weights) -> bool:
    arrays = found.arrays
    return (
        (found.config, found.origin) == (expected.config, expected.origin)
        and arrays.keys() == expected.arrays.keys()
        and all(np.array_equal(arrays[name], a) for name, a in expected.arrays.items())
    )
