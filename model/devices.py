"""The devices of this process: their mesh, shardings, precision, compile cache and memory."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from model.config import ModelConfig
from model.nvidia import OLDEST_DRIVER, extra_for, find_driver
from stores.errors import ConfigError

BATCH_AXIS = "batch"


@dataclass(frozen=True)
class Devices:
    """All visible devices in a row, and how arrays are placed on them."""

    mesh: Mesh

    @property
    def count(self) -> int:
        return self.mesh.size

    @property
    def kind(self) -> str:
        """The vendor's name of the device, such as "NVIDIA H100 80GB HBM3" or "cpu"."""
        kind: str = self.mesh.devices.flat[0].device_kind
        return kind

    @property
    def replicated(self) -> NamedSharding:
        """A copy on every device, for the weights and the optimizer."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def by_row(self) -> NamedSharding:
        """The rows of a batch, divided among the devices."""
        return NamedSharding(self.mesh, PartitionSpec(BATCH_AXIS))

    def check_batch(self, batch_size: int) -> None:
        """Raise `ConfigError` when a batch cannot be divided evenly among the devices."""
        if batch_size % self.count:
            raise ConfigError(
                f"batch size {batch_size} over {self.count} devices: expected a multiple of {self.count}"
            )


def visible_devices() -> Devices:
    """Every device that this process sees (CUDA_VISIBLE_DEVICES limits them)."""
    devices = jax.devices()
    mesh = jax.make_mesh((len(devices),), (BATCH_AXIS,), (AxisType.Auto,), devices=devices)
    return Devices(mesh)


def unused_gpu() -> str | None:
    """One line to print when this machine has an NVIDIA GPU but JAX computes on CPUs, without being told to by
    `JAX_PLATFORMS`; else `None`."""
    if jax.default_backend() != "cpu" or os.environ.get("JAX_PLATFORMS"):
        return None
    driver = find_driver()
    if driver is None:
        return None
    found = f"this machine has an NVIDIA GPU (driver {driver}), but JAX"
    slow = "everything runs on CPUs, many times slower, and the default preset is tiny, not 85m"
    plugins = [f"jax_{extra}_plugin" for extra in OLDEST_DRIVER]
    if any(importlib.util.find_spec(plugin) for plugin in plugins):
        return f"{found} cannot use it: {slow}. What JAX says above tells why"
    extra = extra_for(driver)
    if extra is None:
        return f"{found} is installed for CPUs only, and the driver is too old for it: {slow}. Update the driver"
    return (
        f"{found} is installed for CPUs only: {slow}. Run `make setup ACCELERATOR={extra}`, or "
        f"`pip install 'jax[{extra}]=={jax.__version__}'`"
    )


def compute_dtype(config: ModelConfig) -> jnp.dtype:
    """The type of activations: the configured one, or for "auto" bfloat16 on accelerators and float32 on
    CPUs."""
    if config.precision == "auto":
        return jnp.dtype("float32" if jax.default_backend() == "cpu" else "bfloat16")
    return jnp.dtype(config.precision)


def use_compile_cache() -> None:
    """Keep compiled programs in the user's cache folder, so that the next start is quick.

    `JAX_COMPILATION_CACHE_DIR` names another folder, as it does for any JAX program.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(base) / "pinglm" / "xla"))


def memory_statistics() -> dict[str, int | None] | None:
    """`peak_bytes` and `limit_bytes` of the first device, or `None` where the backend keeps no count."""
    found = jax.devices()[0].memory_stats()
    if not found or "peak_bytes_in_use" not in found:
        return None
    return {"peak_bytes": found["peak_bytes_in_use"], "limit_bytes": found.get("bytes_limit")}
