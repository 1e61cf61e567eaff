"""Compilation with numba, without losing the types that mypy checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

try:
    import numba
except ModuleNotFoundError:
    numba = None  # type: ignore[assignment]

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function) -> Function:
    """Compile `function` on its first call, without the GIL; the machine code is cached on disk.

    Without numba, which asking a model does not need, it stays as it is: slower by far, with the same result.
    """
    return _compile(function)


def inlined(function: Function) -> Function:
    """Like `compiled`, but copied into its compiled callers, for functions that run for every few bytes."""
    return _compile(function, inline="always")


def records(array: NDArray[np.void]) -> NDArray[Any]:
    """A structured array whose items have attributes in compiled functions and in those that stay as they are."""
    return array if numba else array.view(np.recarray)


def _compile(function: Function, **options: Any) -> Function:
    if not numba:
        return function
    return cast(Function, numba.njit(cache=True, nogil=True, **options)(function))
