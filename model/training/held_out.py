"""Loss on fixed batches of test or validation, for each timestamp mode and for all together."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from flax import nnx

from model.devices import Devices
from model.run_folder import Evaluation, LossByMode
from model.training.batches import put
from model.training.loss import Tally, combine, summarize
from model.training.step import Steps
from stores.cut import TokenRows, cut_windows
from stores.errors import TrainingError
from stores.layout import MODES
from stores.sampler import BLOCK, SHARES
from stores.union import Store

ROWS = 32  # of an evaluation batch, whatever the size of a training batch


def rows_on(devices: Devices) -> int:
    """`ROWS`, rounded up to a multiple of the number of devices; the surplus rows are empty."""
    return -(-ROWS // devices.count) * devices.count


def fixed_batches(
    store: Store, batches: int, context: int, split: str = "test"
) -> list[tuple[str, TokenRows]]:
    """(mode, rows) of evenly spaced windows of a split, the same for every run on that store.

    In all `batches` of `ROWS` rows, fewer if a mode has too few windows: (ROWS, context) uint16 tokens
    and (ROWS,) uint16 lengths. Raises `TrainingError` when the split is empty.
    """
    result: list[tuple[str, TokenRows]] = []
    for mode in MODES:
        windows = store.windows(split, mode)
        wanted = min(windows, round(batches * SHARES[mode] / BLOCK) * ROWS)
        spaced = (np.arange(wanted) * windows) // max(wanted, 1)
        for start in range(0, wanted, ROWS):
            rows = spaced[start : start + ROWS]
            tokens = store.gather(split, mode, rows)
            lengths = np.asarray(store.lengths(split, mode)[rows])
            result.append((mode, cut_windows(tokens, lengths, context, (0, len(result)))))
    if not result:
        raise TrainingError(
            f"{store.name}: the {split} split is empty, so there is nothing to evaluate on"
        )
    return result


class HeldOutLoss:
    """The fixed batches of a split for a run, and the loss of a model's weights on them."""

    def __init__(
        self, store: Store, batches: int, context: int, devices: Devices, split: str = "test"
    ):
        self.split = split
        self.batches = fixed_batches(store, batches, context, split)
        self.devices = devices

    def measure(self, steps: Steps, weights: nnx.State[Any, Any], step: int) -> Evaluation:
        """The loss of `weights`, those after `step` steps; fetches from the devices once, at the end."""
        count = rows_on(self.devices)
        own = self.devices.own_rows(count)
        tallies = []
        for _, rows in self.batches:
            tokens, lengths = pad_rows(rows, count)
            placed = put((tokens[own], lengths[own]), self.devices)
            tallies.append(steps.evaluate(weights, *placed))
        fetched = jax.device_get(tallies)
        names = [mode for mode, _ in self.batches]
        return Evaluation(**vars(summarize_modes(names, fetched)), step=step, split=self.split)


def summarize_modes(names: list[str], tallies: list[Tally]) -> LossByMode:
    """The summary of all tallies together and of those of each mode; `names[i]` is the mode of
    `tallies[i]`."""
    modes = {
        mode: summarize(combine([t for n, t in zip(names, tallies, strict=True) if n == mode]))
        for mode in dict.fromkeys(names)
    }
    return LossByMode(**vars(summarize(combine(tallies))), modes=modes)


def pad_rows(rows: TokenRows, count: int) -> TokenRows:
    """The rows, then empty ones (length 0) up to `count`."""
    tokens, lengths = rows
    missing = count - len(lengths)
    return np.pad(tokens, ((0, missing), (0, 0))), np.pad(lengths, (0, missing))
