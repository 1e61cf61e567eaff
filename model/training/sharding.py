"""Weights and optimizer state in parts: each of K devices keeps a part of every large array (`--fsdp K`).

The rule is a function of an array's shape and K, and applies alike to weights, gradients and the optimizer's
moments, so that an update needs no exchange. Forward and backward pass gather each array where they need it
(`whole`), and each device gets the sum of its part of the gradient; the exchanges are XLA's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import NamedSharding, PartitionSpec

from model.devices import WEIGHTS_AXIS, Devices

SMALL = 4096
"""Elements; gathering a smaller array costs more than keeping it whole on every device."""
_GATHERED = "gathered weights"


def divided_dimension(shape: tuple[int, ...], ways: int) -> int | None:
    """The largest dimension that `ways` divides; `None` for an array that every device keeps whole."""
    divisible = [at for at, size in enumerate(shape) if size % ways == 0]
    if ways == 1 or math.prod(shape) < SMALL or not divisible:
        return None
    return max(divisible, key=lambda at: shape[at])


def place_state(tree: Any, devices: Devices) -> Any:
    """How each array of a state, given by anything that has its shape, is placed on the devices."""

    def place(array: Any) -> NamedSharding:
        at = divided_dimension(array.shape, devices.fsdp)
        spec = () if at is None else (*(None,) * at, WEIGHTS_AXIS)
        return NamedSharding(devices.mesh, PartitionSpec(*spec))

    return jax.tree.map(place, tree)


def whole(weights: Any, devices: Devices) -> Any:
    """The weights, gathered. Otherwise their division would pass to activations, which are divided by row."""
    if devices.fsdp == 1:
        return weights
    return jax.tree.map(
        lambda array: checkpoint_name(
            jax.lax.with_sharding_constraint(array, devices.replicated), _GATHERED
        ),
        weights,
    )


def gathering_again(loss: Callable[..., Any], devices: Devices) -> Callable[..., Any]:
    """The loss, whose backward pass gathers the weights once more instead of keeping them until then."""
    if devices.fsdp == 1:
        return loss
    policy = jax.checkpoint_policies.save_anything_except_these_names(_GATHERED)
    return jax.checkpoint(loss, policy=policy)


def bytes_per_device(tree: Any, ways: int) -> int:
    """Bytes of these arrays (or shapes with a type) that one of the devices keeps."""
    return sum(
        math.prod(array.shape)
        * array.dtype.itemsize
        // (1 if divided_dimension(array.shape, ways) is None else ways)
        for array in jax.tree.leaves(tree)
    )
