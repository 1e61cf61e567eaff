"""Inference: queries in; RTT distributions, completed addresses and sampled addresses out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.inference.ping_model import PingModel

__all__ = ["PingModel"]


def __getattr__(name: str) -> Any:
    """`PingModel`, loaded when it is first asked for: its commands show their help without JAX."""
    if name == "PingModel":
        from model.inference.ping_model import PingModel

        return PingModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
