"""The order of arguments before 0.2.0, in which a search began with its target RTT instead of its source."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from numbers import Real
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def source_first(function: Callable[P, R]) -> Callable[P, R]:
    """A method of (self, src, target_rtt_ms, …) that also takes the target first: a number, which no address is.
    It then warns with a `DeprecationWarning`."""

    @functools.wraps(function)
    def either_order(*arguments: P.args, **named: P.kwargs) -> R:
        own, first, *others = (*arguments, None) if len(arguments) < 2 else arguments
        if not isinstance(first, Real):
            return function(*arguments, **named)
        warnings.warn(
            "the source comes first: (src, target_rtt_ms, …)", DeprecationWarning, stacklevel=2
        )
        if others:
            return function(own, others[0], first, *others[1:], **named)  # type: ignore[arg-type]
        return function(own, target_rtt_ms=first, **named)  # type: ignore[arg-type]

    return either_order
