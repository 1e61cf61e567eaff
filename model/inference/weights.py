"""Weights of a trained model as named arrays, from a run or an export.

Names are paths in `model.network.transformer.Transformer`: `embedding`, `blocks.0.attention.out.kernel`, …
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util
from numpy.typing import NDArray

from model.config import ModelConfig
from model.devices import compute_dtype
from model.network.attention import choose_attention
from model.network.transformer import Transformer
from model.run_folder import CHECKPOINTS_FOLDER, EVALUATIONS_FILE, RunRecord, StepLoss
from stores.errors import CheckpointError

# Flax leaves these two without types.
flatten_dict: Callable[..., dict[Any, Any]] = traverse_util.flatten_dict
unflatten_dict: Callable[..., dict[Any, Any]] = traverse_util.unflatten_dict


@dataclass(frozen=True)
class Weights:
    """A model that can be used or exported."""

    config: ModelConfig
    arrays: dict[str, NDArray[Any]]
    """By name, float32 or bfloat16."""
    origin: dict[str, Any]
    """Where they come from, JSON-able: `store_digest`, `code_version`, `step`, `test_loss` (nats per
    measurement, or `None`)."""

    def model(self) -> Transformer:
        """The transformer with these weights in float32; it computes in the device's precision.

        Raises `CheckpointError` naming an array that is missing, unknown, or of another shape.
        """
        dtype = compute_dtype(self.config)
        implementation, _ = choose_attention(self.config, dtype)
        model = nnx.eval_shape(lambda: Transformer(self.config, dtype, implementation, nnx.Rngs(0)))
        expected = flatten_dict(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
        names = {".".join(map(str, path)): path for path in expected}
        self._check({name: expected[path].shape for name, path in names.items()})
        filled = {path: jnp.asarray(self.arrays[name], jnp.float32) for name, path in names.items()}
        state = nnx.state(model, nnx.Param)
        nnx.replace_by_pure_dict(state, unflatten_dict(filled))
        nnx.update(model, state)
        return model

    def _check(self, shapes: dict[str, tuple[int, ...]]) -> None:
        for name in sorted(shapes.keys() ^ self.arrays.keys()):
            problem = "is missing" if name in shapes else "is not part of a model of this shape"
            raise CheckpointError(f"weights: {name} {problem}: the files do not belong together")
        for name, shape in shapes.items():
            found = self.arrays[name].shape
            if found != shape:
                raise CheckpointError(
                    f"weights: {name} has the shape {found}, expected {shape}: the files do not "
                    "belong together"
                )


def read_run(path: Path) -> Weights:
    """Weights of the training run's checkpoint with the lowest test loss, or of the last one if none has any.

    It only reads, so a run that is still training is not disturbed. Raises `CheckpointError`.
    """
    import orbax.checkpoint as ocp  # exported models do not need it

    folder = (path / CHECKPOINTS_FOLDER).absolute()
    steps = sorted(int(p.name) for p in folder.glob("*") if p.name.isdigit())
    if not steps:
        raise CheckpointError(f"{path}: has no finished checkpoint yet: let it train longer")
    tested = {step: loss for step, loss in _test_losses(path).items() if step in steps}
    step = min(tested, key=tested.__getitem__) if tested else steps[-1]
    try:
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as json_reader:
            saved = json_reader.restore(folder / str(step) / "record")
        arrays = _restore_weights(folder / str(step) / "state")
    except Exception as error:  # Orbax and TensorStore raise many classes for system errors
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{folder / str(step)}: cannot be read ({type(error).__name__}: {reason})"
        ) from error
    record = RunRecord.from_dict(saved, folder / str(step) / "record")
    origin = {
        "store_digest": record.store_digest,
        "code_version": record.code_version,
        "step": step,
        "test_loss": tested.get(step),
    }
    return Weights(record.config.model, arrays, origin)


def _restore_weights(path: Path) -> dict[str, NDArray[np.float32]]:
    """Only the weights of a checkpoint's `TrainState`, a third of its bytes."""
    import orbax.checkpoint as ocp

    handler = ocp.PyTreeCheckpointHandler()
    wanted = {"weights": handler.metadata(path).tree["weights"]}
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
    arguments = ocp.args.PyTreeRestore(wanted, restore_args=as_numpy, partial_restore=True)
    with ocp.Checkpointer(handler) as reader:
        tree = reader.restore(path, args=arguments)["weights"]
    return {name.removesuffix(".value"): a for name, a in flatten_dict(tree, sep=".").items()}


def _test_losses(path: Path) -> dict[int, float]:
    """Nats per measurement by step, of a run's evaluations."""
    lines = StepLoss.read_lines(path / EVALUATIONS_FILE)
    return {line.step: line.nats_per_measurement for line in lines}
