"""What JAX raises while it trains, in one line for the user."""

from __future__ import annotations

import jax

from model.config import Config
from model.training.peers import AGAIN
from stores.errors import TrainingError


def device_failure(error: Exception, config: Config) -> Exception:
    """A one-line error for a failure that the user can do something about, else the failure itself."""
    if jax.process_count() > 1 and any(word in str(error) for word in ("Gloo", "NCCL")):
        return TrainingError(
            f"the processes have lost each other ({' '.join(str(error).split())}): {AGAIN}"
        )
    if "RESOURCE_EXHAUSTED" not in str(error):
        return error
    return TrainingError(
        f"out of device memory at batch size {config.train.batch_size}: lower it, or set remat=true"
    )
