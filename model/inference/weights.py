"""Weights of a trained model as named arrays, from a run or an export.

`model.network.named_weights` says what the names are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from model.config import ModelConfig
from model.devices import compute_dtype
from model.model_files import check_digests, regular_file, unreadable
from model.network.attention import choose_attention
from model.network.flops import count_parameters
from model.network.named_weights import Shapes, compare_shapes, fill_weights, flatten_dict
from model.network.transformer import Transformer
from model.orbax_errors import quiet_orbax, reason
from model.run_folder import (
    CHECKPOINTS_FOLDER,
    EVALUATIONS_FILE,
    RECORD_FILE,
    RunRecord,
    StepLoss,
)
from stores.errors import CheckpointError
from stores.provenance import Provenance, survey
from stores.union import Store


@dataclass(frozen=True)
class Origin:
    """Where weights come from."""

    store_digest: str
    code_version: str
    step: int
    test_loss: float | None
    """Nats per measurement, on the split that the checkpoint was chosen on."""
    chosen_on: str = "test"
    """The split on which it had the lowest loss of its run: `validation` where the store has that."""
    base: str | None = None
    """Digest of the store of the model that the run began with; `None` for random weights."""


@dataclass(frozen=True)
class Weights:
    """A model that can be used or exported."""

    config: ModelConfig
    arrays: dict[str, NDArray[Any]]
    """By name, float32 or bfloat16."""
    origin: dict[str, Any]
    """Where they come from, JSON-able: the fields of `Origin`."""
    provenance: Provenance | None = None
    """What they were trained on; `None` if nobody noted it."""
    rtt_temperature: float = 1.0
    """At which temperature RTTs are predicted (`model.inference.prediction.tempered`)."""

    def model(self) -> Transformer:
        """The transformer with these weights in float32; it computes in the device's precision.

        Raises `CheckpointError` naming an array that is missing, unknown, or of another shape.
        """
        check_shapes(self.config, {name: array.shape for name, array in self.arrays.items()})
        model = _abstract_model(self.config)
        state = nnx.state(model, nnx.Param)
        fill_weights(state, self.arrays)
        nnx.update(model, state)
        return model


def with_provenance(weights: Weights, store: Store) -> Weights:
    """The weights with what their store holds. Raises `CheckpointError` for another store than they were trained
    on, and for weights that began as those of a model of unknown data; and as `survey`."""
    expected = weights.origin.get("store_digest")
    if store.digest != expected:
        raise CheckpointError(
            f"{store.name}: its digest is {store.digest}, but the model was trained on {expected}: name that "
            "store, or all of several in the same order"
        )
    if weights.origin.get("base") and weights.provenance is None:
        raise CheckpointError(
            f"{store.name}: is not all that the model was trained on, and nobody noted what the model that it "
            "began with was trained on: leave out --store"
        )
    return weights if weights.provenance else replace(weights, provenance=survey(store))


def check_size(config: ModelConfig, shapes: Shapes, where: Path) -> None:
    """Raise `CheckpointError` naming `where` unless arrays of these shapes have together as many weights as
    the configuration says. It takes no time, whatever the configuration claims."""
    described, found = count_parameters(config)["total"], sum(map(math.prod, shapes.values()))
    if described != found:
        raise CheckpointError(
            f"{where}: describes a model of {described} weights, but there are {found}: the files are damaged "
            "or do not belong together"
        )


def check_shapes(config: ModelConfig, shapes: Shapes) -> None:
    """Raise `CheckpointError` naming an array that the model lacks, does not have, or has in another shape."""
    compare_shapes(_expected_shapes(config, most_layers=len(shapes) + 1), shapes)


def check_finite(arrays: Mapping[str, NDArray[Any]], where: Path) -> None:
    """Raise `CheckpointError` naming `where` and an array that holds NaN or infinity."""
    for name, array in arrays.items():
        wrong = int(array.size - np.count_nonzero(np.isfinite(array)))
        if wrong:
            raise CheckpointError(
                f"{where}: {name} holds {wrong} weights that are NaN or infinite, so the model cannot answer: "
                "use another checkpoint or export"
            )


def known_first_bytes(arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_] | None:
    """Which first bytes of the RTT code some training row had, (256,): their rows in the table of results
    have been learned, all others are still 0. `None` for a model without that table, or an untrained one."""
    table = arrays.get("lookups.result")
    known = None if table is None else (np.asarray(table[:256], np.float32) != 0).any(axis=1)
    return known if known is not None and known.any() else None


def read_run(path: Path) -> Weights:
    """Weights of the training run's checkpoint with the lowest loss on validation, or else on test; of the last
    one if none has any.

    It only reads, so a run that is still training is not disturbed. Raises `CheckpointError`.
    """
    folder = (path / CHECKPOINTS_FOLDER).absolute()
    names = (p.name for p in folder.glob("*") if p.name.isascii())
    steps = sorted(int(name) for name in names if name.isdigit())
    if not steps:
        raise CheckpointError(f"{path}: has no finished checkpoint yet: let it train longer")
    tested = {line.step: line for line in _evaluations(path) if line.step in steps}
    step = min(tested, key=lambda s: tested[s].nats_per_measurement) if tested else steps[-1]
    record, arrays = _read_checkpoint(folder / str(step))
    origin = {
        "store_digest": record.store_digest,
        "code_version": record.code_version,
        "step": step,
        "test_loss": tested[step].nats_per_measurement if tested else None,
        "chosen_on": tested[step].split if tested else "test",
        "base": record.base.store_digest if record.base else None,
    }
    return Weights(record.config.model, arrays, origin, _provenance(path, record))


def _provenance(path: Path, record: RunRecord) -> Provenance | None:
    """What a run is trained on, from the record of a checkpoint; one of the first may have been saved before that
    was known, then from the run's own, if it is of the same store."""
    if record.provenance is not None:
        return record.with_base(record.provenance)
    try:
        own = RunRecord.read_if_whole(path / RECORD_FILE)
    except CheckpointError:  # the weights are fine all the same
        return None
    return (
        record.with_base(own.provenance)
        if own and own.store_digest == record.store_digest
        else None
    )


def _read_checkpoint(path: Path) -> tuple[RunRecord, dict[str, NDArray[np.float32]]]:
    """What a checkpoint belongs to, and its weights: a third of the bytes of its `TrainState`."""
    import orbax.checkpoint as ocp  # exported models do not need it

    quiet_orbax()
    for item in ("record", "state"):
        check_digests(path, item)
    try:
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as json_reader:
            record = RunRecord.from_dict(json_reader.restore(path / "record"), path / "record")
        handler = ocp.PyTreeCheckpointHandler()
        wanted = {"weights": handler.metadata(path / "state").tree["weights"]}
        shapes = {name: tuple(leaf.shape) for name, leaf in _by_name(wanted).items()}
        check_size(record.config.model, shapes, path / "record")
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        arguments = ocp.args.PyTreeRestore(wanted, restore_args=as_numpy, partial_restore=True)
        with ocp.Checkpointer(handler) as reader:
            arrays = _by_name(reader.restore(path / "state", args=arguments))
    except CheckpointError:
        raise
    except Exception as error:  # Orbax and TensorStore raise many classes for system errors
        raise unreadable(path, reason(error)) from error
    check_shapes(record.config.model, {name: array.shape for name, array in arrays.items()})
    check_finite(arrays, path)
    return record, arrays


def _by_name(state: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves of the weights of a `TrainState`, by the names of this module."""
    leaves = flatten_dict(state["weights"], sep=".").items()
    return {name.removesuffix(".value"): leaf for name, leaf in leaves}


def _evaluations(path: Path) -> list[StepLoss]:
    """A run's evaluations whose loss is a number. Raises `CheckpointError`."""
    file = path / EVALUATIONS_FILE
    if not file.exists():
        return []
    lines = StepLoss.read_lines(regular_file(path, EVALUATIONS_FILE))
    return [line for line in lines if math.isfinite(line.nats_per_measurement)]


def _abstract_model(config: ModelConfig) -> Transformer:
    """The transformer with shapes in the place of arrays."""
    dtype = compute_dtype(config)
    implementation, _ = choose_attention(config, dtype)
    model: Transformer = nnx.eval_shape(
        lambda: Transformer(config, dtype, implementation, nnx.Rngs(0))
    )
    return model


def _expected_shapes(config: ModelConfig, most_layers: int) -> dict[str, tuple[int, ...]]:
    """Of the model's arrays, by name, up to that many layers. All layers are alike, so one is traced."""
    state = nnx.state(_abstract_model(replace(config, layers=1)), nnx.Param)
    shapes = {}
    for path, leaf in flatten_dict(nnx.to_pure_dict(state)).items():
        in_layer = path[0] == "blocks"
        for layer in range(min(config.layers, most_layers)) if in_layer else (0,):
            names = ("blocks", layer, *path[2:]) if in_layer else path
            shapes[".".join(map(str, names))] = tuple(leaf.shape)
    return shapes
