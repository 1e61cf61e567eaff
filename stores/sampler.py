"""Batch = f(seed, step): the training order, with no state to save, to resume or to share.

The windows that a run reads form one endless sequence. Its modes repeat a pattern of ten, so any ten
consecutive windows are 4 `full`, 3 `none` and 3 `mixed` ones; the k-th window of a mode is window
k mod n of that mode's epoch k // n, and each epoch has its own order. A batch is `batch_size`
consecutive windows of the sequence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stores.cut import TokenRows
from stores.errors import ConfigError
from stores.hashing import MASK64, keyed
from stores.layout import MODES
from stores.permutation import permute
from stores.union import Store
from stores.vocabulary import CONTEXT

PATTERN = ("full", "none", "mixed") * 3 + ("full",)
BLOCK = len(PATTERN)
SHARES = {mode: PATTERN.count(mode) for mode in MODES}

_PLAN_WINDOWS = 8192  # planned at once, so that NumPy's cost per call vanishes
_MODE = np.array([MODES.index(mode) for mode in PATTERN])  # of each place in the pattern
_SHARE = np.array([SHARES[mode] for mode in PATTERN])  # of that place's mode, in ten
_BEFORE = np.array([PATTERN[:place].count(mode) for place, mode in enumerate(PATTERN)])


@dataclass(frozen=True)
class Plan:
    """Which windows a few consecutive steps read; every field has the shape (steps, windows per batch)."""

    first_step: int
    mode: NDArray[np.int64]
    """Index into `MODES`."""
    row: NDArray[np.int64]
    chunk: list[list[int]]
    offset: list[list[int]]
    """Places in the store, as `TokenStore.gather_at` takes them."""
    length: NDArray[np.uint16]


class MixtureSampler:
    """Batches of the three modes, mixed 40/30/30.

    The mixture is exact over any ten consecutive windows. Each mode is read once per epoch of that
    mode, every window of it, before any comes again. Safe to use from several threads.
    """

    def __init__(
        self,
        store: Store,
        split: str,
        batch_size: int,
        seed: int,
        *,
        shard_index: int = 0,
        shard_count: int = 1,
    ) -> None:
        """`batch_size` counts windows over all hosts; `seed` is any integer.

        Raises `ConfigError` when a mode of the split has no windows, when the batch is larger than the
        split, or when `shard_count` does not divide it.
        """
        windows = [store.windows(split, mode) for mode in MODES]
        if 0 in windows:
            raise ConfigError(
                f"{store.name}: {split}/{MODES[windows.index(0)]} has no windows, so no batch can be "
                "drawn: prepare more rows"
            )
        if not 1 <= batch_size <= sum(windows):
            raise ConfigError(
                f"batch of {batch_size} windows: expected 1 to the {sum(windows)} that "
                f"{split} holds in {store.name}"
            )
        if shard_count < 1 or batch_size % shard_count or not 0 <= shard_index < shard_count:
            raise ConfigError(
                f"shard {shard_index} of {shard_count}: expected an index below the count, "
                f"and a count that divides the batch of {batch_size}"
            )
        self.store = store
        self.split = split
        self.batch_size = batch_size
        self.seed = seed & MASK64
        self.shard_index = shard_index
        self.shard_count = shard_count
        self._plan: Plan | None = None

    def shard(self, index: int, count: int) -> MixtureSampler:
        """The sampler of host `index` out of `count`: its contiguous part of every batch.

        The batches of all shards, one after the other, are the batch of the whole. Raises
        `ConfigError` unless `count` divides the batch size and 0 ≤ index < count.
        """
        return MixtureSampler(
            self.store,
            self.split,
            self.batch_size,
            self.seed,
            shard_index=index,
            shard_count=count,
        )

    def batch(self, step: int) -> TokenRows:
        """Tokens uint16 (B, 1024) and lengths uint16 (B,) of a step ≥ 0, fresh arrays.

        B is `batch_size` over the shard count. Tokens past a window's length are 0 and to be masked.
        A pure function of store, split, batch size, seed and step. Costs about 0.8 µs a window from
        the page cache; a step far from the last one asked for also plans the steps around it, 3 ms.
        """
        plan = self._plan_of(step)
        at = step - plan.first_step
        return self.store.gather_at(plan.chunk[at], plan.offset[at]), plan.length[at].copy()

    def following(
        self, step: int, rows: NDArray[np.integer], count: int
    ) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
        """Windows of `batch(step)`, each with those that come after it in the store.

        `rows` (n,) are places in the batch. Returns tokens (n, count, 1024) and lengths (n, count), both
        uint16; past the end of an array, the length is 0.
        """
        mode, first = (part[rows] for part in self.windows(step))
        tokens = np.zeros((len(rows), count, CONTEXT), np.uint16)
        lengths = np.zeros((len(rows), count), np.uint16)
        for at, (index, row) in enumerate(zip(mode.tolist(), first.tolist(), strict=True)):
            name = MODES[index]
            stop = min(row + count, self.store.windows(self.split, name))
            tokens[at, : stop - row] = self.store.gather(self.split, name, np.arange(row, stop))
            lengths[at, : stop - row] = self.store.lengths(self.split, name)[row:stop]
        return tokens, lengths

    def windows(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Which windows `batch(step)` holds: index into `MODES` and row, int64 (B,) each."""
        plan = self._plan_of(step)
        at = step - plan.first_step
        return plan.mode[at].copy(), plan.row[at].copy()

    def _plan_of(self, step: int) -> Plan:
        if step < 0:
            raise ConfigError(f"step {step}: expected 0 or more")
        steps = max(1, _PLAN_WINDOWS // self.batch_size)
        first_step = step // steps * steps
        plan = self._plan
        if plan is None or plan.first_step != first_step:
            self._plan = plan = self._make_plan(first_step, steps)
        return plan

    def _make_plan(self, first_step: int, steps: int) -> Plan:
        first = first_step * self.batch_size
        modes, counts = self._sequence(first, first + steps * self.batch_size)
        part = self.batch_size // self.shard_count
        mine = slice(self.shard_index * part, (self.shard_index + 1) * part)
        mode = modes.reshape(steps, -1)[:, mine].ravel()
        count = counts.reshape(steps, -1)[:, mine].ravel()
        row, chunk, offset = np.empty_like(count), np.empty_like(count), np.empty_like(count)
        length = np.empty(len(count), np.uint16)
        for index, name in enumerate(MODES):
            at = np.flatnonzero(mode == index)
            windows = self.store.windows(self.split, name)
            epoch, place = np.divmod(count[at], windows)
            if len(epoch) and epoch[0] == epoch[-1]:
                epoch = epoch[:1]  # one key for all, as nearly always: half the work
            rows = permute(place, windows, keyed(self.seed, index, epoch))
            row[at] = rows
            chunk[at], offset[at] = self.store.locate(self.split, name, rows)
            length[at] = self.store.lengths(self.split, name)[rows]
        shape = steps, part
        return Plan(
            first_step=first_step,
            mode=mode.reshape(shape),
            row=row.reshape(shape),
            chunk=chunk.reshape(shape).tolist(),
            offset=offset.reshape(shape).tolist(),
            length=length.reshape(shape),
        )

    @staticmethod
    def _sequence(first: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of windows first … stop - 1 of the sequence: the mode, and how many of that mode came before."""
        pattern, place = np.divmod(np.arange(first, stop), BLOCK)
        return _MODE[place], pattern * _SHARE[place] + _BEFORE[place]
