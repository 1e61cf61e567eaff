"""The devices of a run: their mesh, shardings, precision, compile cache and memory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from model.config import ModelConfig
from stores.errors import ConfigError

BATCH_AXIS = "batch"


@dataclass(frozen=True)
class Devices:
    """All devices of the run in a row, those of one process side by side, and how arrays are placed on them."""

    mesh: Mesh

    @property
    def count(self) -> int:
        return self.mesh.size

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
    """Every device that this process sees (CUDA_VISIBLE_DEVICES limits them), and those of the processes that
    train with it. Raises `ConfigError` when one has more of them than another."""
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    counts = np.bincount([device.process_index for device in devices]).tolist()
    if len(set(counts)) > 1:
        raise ConfigError(
            f"the processes have {', '.join(map(str, counts))} devices: expected as many in each: set "
            "CUDA_VISIBLE_DEVICES"
        )
    mesh = jax.make_mesh((len(devices),), (BATCH_AXIS,), (AxisType.Auto,), devices=devices)
    return Devices(mesh)


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
