"""What a run would be: sizes, cost and memory, without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax

from model.config import DEFAULT_STORE, Config
from model.devices import compute_dtype, visible_devices
from model.network.flops import count_parameters, estimate_memory, flops_per_token, peak_flops
from stores.errors import ConfigError
from stores.layout import MODES
from stores.reader import TokenStore


def default_preset() -> str:
    """`85m` on an accelerator, `tiny` on CPUs."""
    return "tiny" if jax.default_backend() == "cpu" else "85m"


def find_default_store() -> Path | None:
    """Where `prepare` writes by default, if there is something."""
    path = Path(DEFAULT_STORE)
    return path if path.exists() else None


def make_plan(config: Config, store_path: Path | None) -> dict[str, Any]:
    """JSON-able plan of a run; without a store, what depends on it is `None`.

    `flops_per_token` by convention (`model.network.flops`); `memory` in bytes on each device, an estimate;
    `epochs` by mode-weighted windows. Raises what opening the store raises.
    """
    devices = visible_devices()
    devices.check_batch(config.train.batch_size)
    flops = flops_per_token(config.model)
    tokens_per_step = config.train.batch_size * config.model.context
    rows = config.train.batch_size // devices.count
    plan = {
        "preset": config.preset,
        "parameters": count_parameters(config.model),
        "tokens_per_step": tokens_per_step,
        "steps": config.train.steps,
        "tokens": tokens_per_step * config.train.steps,
        "flops_per_token": flops,
        "flops": {
            name: count * tokens_per_step * config.train.steps for name, count in flops.items()
        },
        "memory": estimate_memory(config.model, rows, compute_dtype(config.model).itemsize),
        "precision": compute_dtype(config.model).name,
        "device": devices.kind,
        "devices": devices.count,
        "peak_flops_per_device": peak_flops(devices.kind),
        "config": config.as_dict(),
        "store": None,
    }
    if store_path is not None:
        store = TokenStore.open(store_path)
        windows = sum(store.windows("train", mode) for mode in MODES)
        if config.train.batch_size > windows:
            raise ConfigError(
                f"batch of {config.train.batch_size} windows: expected 1 to the {windows} that train "
                f"holds in {store.path}"
            )
        plan["store"] = {
            "path": str(store.path),
            "digest": store.digest,
            "windows": windows,
            "epochs": config.train.steps * config.train.batch_size / windows,
        }
    return plan
