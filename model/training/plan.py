"""What a run would be: its sizes, cost and memory, without training."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax

from model.config import DEFAULT_STORE, Config
from model.devices import (
    check_batch,
    check_fsdp,
    compute_dtype,
    memory_statistics,
    visible_devices,
)
from model.network.flops import count_parameters, estimate_activations, flops_per_token, peak_flops
from model.training.sharding import bytes_per_device
from model.training.step import state_shapes
from stores.errors import ConfigError
from stores.layout import MODES
from stores.union import StorePaths, open_stores


def default_preset() -> str:
    """`85m` on an accelerator, `tiny` on CPUs."""
    return "tiny" if jax.default_backend() == "cpu" else "85m"


def find_default_store() -> Path | None:
    """Where `prepare` writes by default, if something is there."""
    path = Path(DEFAULT_STORE)
    return path if path.exists() else None


@dataclass(frozen=True)
class PlannedStore:
    """The store of a planned run, or its stores."""

    path: str
    """Of several, all of them, separated by commas."""
    digest: str
    windows: int
    """Of the train split, over all modes."""
    epochs: float
    """Rows of all steps over `windows`."""


@dataclass(frozen=True)
class Plan:
    """What a run would be."""

    preset: str
    parameters: dict[str, int]
    """`matrices` (the embeddings among them) and `total`."""
    tokens_per_step: int
    steps: int
    tokens: int
    """Of all steps."""
    flops_per_token: dict[str, int]
    """By convention of counting attention, see `model.network.flops`."""
    flops: dict[str, int]
    """Of all steps."""
    memory: dict[str, int]
    """Bytes on each device, by purpose and in `total`; activations and logits are estimates."""
    device_memory: int | None
    """Bytes that a device has, where it tells or it was given."""
    fits: bool | None
    """Whether `total` is less; `None` where the memory of a device is not known."""
    precision: str
    device: str
    devices: int
    peak_flops_per_device: float | None
    """Per second; `None` for a device that is not in the table."""
    config: Config
    store: PlannedStore | None
    """`None` when no store was given."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)


def make_plan(
    config: Config,
    store_paths: StorePaths | None,
    *,
    devices: int | None = None,
    device_memory: int | None = None,
) -> Plan:
    """The plan of a run, on a number of devices of the kind of this process's (all of them, unless given) with
    so many bytes of memory each (what they tell, unless given) and, if given, on a store or several.

    Raises what opening the store raises, and `ConfigError` for a batch that does not fit the devices or
    the store, or devices that cannot share the weights as configured.
    """
    visible = visible_devices()
    devices = devices or visible.count
    if device_memory is None:
        device_memory = (memory_statistics() or {}).get("limit_bytes")
    check_batch(config.train, devices)
    check_fsdp(config.train.fsdp, devices)
    memory = plan_memory(config, config.train.batch_size // devices)
    flops = flops_per_token(config.model)
    tokens_per_step = config.train.batch_size * config.model.context
    planned_store = None
    if store_paths is not None:
        store = open_stores(store_paths)
        windows = sum(store.windows("train", mode) for mode in MODES)
        if config.train.batch_size > windows:
            raise ConfigError(
                f"batch of {config.train.batch_size} windows: expected at most the {windows} windows of "
                f"the train split of {store.name}"
            )
        epochs = config.train.steps * config.train.batch_size / windows
        planned_store = PlannedStore(store.name, store.digest, windows, epochs)
    return Plan(
        preset=config.preset,
        parameters=count_parameters(config.model),
        tokens_per_step=tokens_per_step,
        steps=config.train.steps,
        tokens=tokens_per_step * config.train.steps,
        flops_per_token=flops,
        flops={name: count * tokens_per_step * config.train.steps for name, count in flops.items()},
        memory=memory,
        device_memory=device_memory,
        fits=None if device_memory is None else memory["total"] < device_memory,
        precision=compute_dtype(config.model).name,
        device=visible.kind,
        devices=devices,
        peak_flops_per_device=peak_flops(visible.kind),
        config=config,
        store=planned_store,
    )


def plan_memory(config: Config, rows: int) -> dict[str, int]:
    """Bytes on each device in a step in which it has `rows` rows of the batch, by purpose and in total."""
    shapes, ways = state_shapes(config), config.train.fsdp
    weights = bytes_per_device(shapes.weights, ways)
    parts = {
        "weights": weights,
        "gradients": weights,
        "optimizer": bytes_per_device(shapes.optimizer, ways),
        **estimate_activations(config.model, rows, compute_dtype(config.model).itemsize),
    }
    return {**parts, "total": sum(parts.values())}
