"""The weights of a transformer as arrays by name: `embedding`, `blocks.0.attention.out.kernel`, …

Names are paths of attributes in `model.network.transformer.Transformer`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx, traverse_util
from numpy.typing import NDArray

from stores.errors import CheckpointError

# Flax leaves these two without types.
flatten_dict: Callable[..., dict[Any, Any]] = traverse_util.flatten_dict
unflatten_dict: Callable[..., dict[Any, Any]] = traverse_util.unflatten_dict


def fill_weights(state: nnx.State[Any, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Put the arrays, as float32, in the place of a model's parameters, which may be abstract.

    Raises `CheckpointError` naming an array that is missing, unknown, or of another shape.
    """
    expected = flatten_dict(nnx.to_pure_dict(state))
    paths = {".".join(map(str, path)): path for path in expected}
    for name in sorted(paths.keys() ^ arrays.keys()):
        problem = "is missing" if name in paths else "is not part of a model of this shape"
        raise CheckpointError(f"weights: {name} {problem}: the files do not belong together")
    for name, path in paths.items():
        if arrays[name].shape != expected[path].shape:
            raise CheckpointError(
                f"weights: {name} has the shape {arrays[name].shape}, expected "
                f"{expected[path].shape}: the files do not belong together"
            )
    filled = {path: jnp.asarray(arrays[name], jnp.float32) for name, path in paths.items()}
    nnx.replace_by_pure_dict(state, unflatten_dict(filled))
