"""Compilation with numba, without losing the types that mypy checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function) -> Function:
    """Compile `function` on its first call, without the GIL; the machine code is cached on disk."""
    return cast(Function, numba.njit(cache=True, nogil=True)(function))


def inlined(function: Function) -> Function:
    """Like `compiled`, but copied into its compiled callers, for functions that run for every few bytes."""
    return cast(Function, numba.njit(cache=True, nogil=True, inline="always")(function))
