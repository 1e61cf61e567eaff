"""The devices of a run: their mesh, shardings, precision, compile cache and memory."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from model.config import ModelConfig, TrainConfig
from model.nvidia import OLDEST_DRIVER, extra_for, find_driver
from stores.errors import ConfigError

BATCH_AXIS = "batch"
WEIGHTS_AXIS = "weights"
"""Over the devices that share weights and optimizer; the rows of a batch are divided over both axes."""


@dataclass(frozen=True)
class Devices:
    """All devices of the run, those of one process side by side, and how arrays are placed on them.

    Each row of the mesh (count / fsdp, fsdp) keeps weights and optimizer once, in parts or all on each device.
    """

    mesh: Mesh

    @property
    def count(self) -> int:
        return self.mesh.size

    @property
    def fsdp(self) -> int:
        """How many devices share weights and optimizer."""
        ways: int = self.mesh.shape[WEIGHTS_AXIS]
        return ways

    @property
    def host(self) -> int:
        """This process among those that train together, counted from 0."""
        index: int = jax.process_index()
        return index

    @property
    def hosts(self) -> int:
        """How many processes train together; each has the same number of the devices."""
        count: int = jax.process_count()
        return count

    def own_rows(self, count: int) -> slice:
        """Which rows of a batch of `count` this process puts on its devices."""
        part = count // self.hosts
        return slice(self.host * part, (self.host + 1) * part)

    @property
    def kind(self) -> str:
        """The vendor's name of the device, such as "NVIDIA H100 80GB HBM3" or "cpu"."""
        kind: str = self.mesh.devices.flat[0].device_kind
        return kind

    @property
    def replicated(self) -> NamedSharding:
        """A copy on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def by_row(self) -> NamedSharding:
        """The rows of a batch, divided among the devices."""
        return NamedSharding(self.mesh, PartitionSpec((BATCH_AXIS, WEIGHTS_AXIS)))


def check_batch(config: TrainConfig, devices: int) -> None:
    """Raise `ConfigError` when the windows of a step cannot be divided evenly among so many devices."""
    sizes = {"batch size": config.batch_size, "placement_windows": config.placement_windows}
    for name, size in sizes.items():
        if size % devices:
            raise ConfigError(
                f"{name} {size} over {devices} devices: expected a multiple of {devices}"
            )


def check_fsdp(fsdp: int, devices: int) -> None:
    """Raise `ConfigError` when so many devices cannot share the weights in groups of `fsdp`."""
    if devices % fsdp:
        raise ConfigError(f"fsdp {fsdp} over {devices} devices: expected a divisor of {devices}")


def visible_devices(fsdp: int = 1) -> Devices:
    """Every device that this process sees (CUDA_VISIBLE_DEVICES limits them), and those of the processes that
    train with it; `fsdp` of them share the weights. Raises `ConfigError` when one process has more of them
    than another, or `fsdp` does not divide their number."""
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    counts = np.bincount([device.process_index for device in devices]).tolist()
    if len(set(counts)) > 1:
        raise ConfigError(
            f"the processes have {', '.join(map(str, counts))} devices: expected as many in each: set "
            "CUDA_VISIBLE_DEVICES"
        )
    check_fsdp(fsdp, len(devices))
    shape, axes = (len(devices) // fsdp, fsdp), (BATCH_AXIS, WEIGHTS_AXIS)
    mesh = jax.make_mesh(shape, axes, (AxisType.Auto,) * 2, devices=devices)
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
    """`peak_bytes` and `limit_bytes` of this process's first device, or `None` where the backend keeps no
    count."""
    found = jax.local_devices()[0].memory_stats()
    if not found or "peak_bytes_in_use" not in found:
        return None
    return {"peak_bytes": found["peak_bytes_in_use"], "limit_bytes": found.get("bytes_limit")}
