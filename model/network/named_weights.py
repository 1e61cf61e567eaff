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


Shapes = Mapping[str, tuple[int, ...]]
"""Of arrays, by name."""


def fill_weights(state: nnx.State[Any, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Put the arrays, as float32, in the place of a model's parameters, which may be abstract.

    Raises `CheckpointError` naming an array that is missing, unknown, or of another shape.
    """
    places = flatten_dict(nnx.to_pure_dict(state))
    paths = {".".join(map(str, path)): path for path in places}
    expected = {name: tuple(places[path].shape) for name, path in paths.items()}
    compare_shapes(expected, {name: array.shape for name, array in arrays.items()})
    filled = {path: jnp.asarray(arrays[name], jnp.float32) for name, path in paths.items()}
    nnx.replace_by_pure_dict(state, unflatten_dict(filled))


def compare_shapes(expected: Shapes, found: Shapes) -> None:
    """Raise `CheckpointError` naming an array that the model lacks, does not have, or has in another shape."""
    for name in sorted(expected.keys() ^ found.keys()):
        problem = "is missing" if name in expected else "is not part of a model of this shape"
        raise CheckpointError(f"weights: {name} {problem}: the files do not belong together")
    for name, shape in expected.items():
        if found[name] != shape:
            raise CheckpointError(
                f"weights: {name} has the shape {found[name]}, expected {shape}: the files do not "
                "belong together"
            )
