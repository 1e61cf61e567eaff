"""Batches, from the store to the devices: uint16 all the way, and prefetched by a thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Protocol

import jax
import numpy as np
from numpy.typing import NDArray

from model.config import Config
from model.devices import Devices
from model.training.compose import Composer
from model.training.scatter import PairRows, Scatterer
from model.training.source_windows import SourceWindows
from stores.cut import TokenRows, cut_windows
from stores.sampler import MixtureSampler

HostRows = tuple[NDArray[np.uint16], ...]
"""(B, context) tokens and (B,) lengths, and (W, context) tokens that only the placement reads, if there are any."""
DeviceRows = tuple[jax.Array, ...]
"""The same on the devices."""

AHEAD = 4  # batches on the devices, waiting for their step


class Sampler(Protocol):
    """Where the batches come from: `stores.sampler.MixtureSampler`, or a stand-in for it in a test."""

    def batch(self, step: int) -> TokenRows:
        """The windows of a step: (B, 1024) uint16 tokens and (B,) uint16 lengths. A pure function of `step`."""
        ...

    @property
    def shard_index(self) -> int:
        """Which part of the batch `batch` returns, counted from 0; parts are of the same size."""
        ...


class Batches:
    """The batch of each step: the sampler's windows, cut to the context, some of them replaced, and further
    ones for the placement. A pure function of seed and step."""

    def __init__(
        self,
        sampler: Sampler,
        context: int,
        seed: int,
        *replacers: Composer | Scatterer,
        of_sources: SourceWindows | None = None,
    ) -> None:
        """The `replacers` work one after the other on the cut windows; `of_sources` are for the placement."""
        self.sampler = sampler
        self.context = context
        self.seed = seed
        self.replacers = replacers
        self.of_sources = of_sources

    def batch(self, step: int) -> HostRows:
        """The rows of a step, counted from 0."""
        tokens, lengths = self.sampler.batch(step)
        first = self.sampler.shard_index * len(tokens)
        tokens, lengths = cut_windows(tokens, lengths, self.context, (self.seed, step), first)
        for replacer in self.replacers:
            replacer.replace(step, tokens, lengths)
        if self.of_sources is None:
            return tokens, lengths
        return tokens, lengths, self.of_sources.batch(step)


def make_batches(config: Config, sampler: MixtureSampler) -> Batches:
    """The batches that a run of this configuration trains on."""
    context, train = config.model.context, config.train
    replacers: list[Composer | Scatterer] = []
    of_sources = None
    further = train.placement_windows if config.model.places else 0
    if train.composed:
        replacers.append(Composer(sampler, context, train.seed, train.composed))
    if train.scattered or further:
        rows = PairRows.find(sampler.store, sampler.split)
        if train.scattered:
            replacers.append(Scatterer(sampler, rows, context, train.seed, train.scattered))
        if further:
            of_sources = SourceWindows(sampler, rows, context, train.seed, further)
    return Batches(sampler, context, train.seed, *replacers, of_sources=of_sources)


def put(rows: HostRows, devices: Devices) -> DeviceRows:
    """The rows on the devices, divided among them; returns before the transfer is complete.

    Where several processes train, `rows` are this one's (`Devices.own_rows`), and the arrays are of them all.
    """
    placed: DeviceRows
    if devices.hosts == 1:
        placed = jax.device_put(rows, devices.by_row)
    else:
        with jax.transfer_guard(
            "allow"
        ):  # asked for here, but JAX takes it for an implicit transfer
            places = (devices.by_row,) * len(rows)
            placed = jax.make_array_from_process_local_data(places, rows)
    return placed


class DeviceBatches(Iterator[DeviceRows]):
    """The batches of steps `start` … `stop` - 1 in order, on the devices before they are needed.

    A thread makes them, at most `AHEAD` in advance; when it fails, `next` raises its error. Use this as
    a context manager, so that the thread ends with the loop.
    """

    def __init__(
        self, batches: Batches, devices: Devices, start: int, stop: int, *, same: bool = False
    ):
        """With `same`, every step gets the batch of step 0."""
        self._ready: queue.Queue[DeviceRows | BaseException] = queue.Queue(AHEAD)
        self._ended = threading.Event()
        steps = (0 if same else step for step in range(start, stop))
        arguments = (batches, devices, steps)
        self._thread = threading.Thread(target=self._fill, args=arguments, daemon=True)
        self._thread.start()

    def _fill(self, batches: Batches, devices: Devices, steps: Iterator[int]) -> None:
        try:
            for step in steps:
                self._offer(put(batches.batch(step), devices))
                if self._ended.is_set():
                    return
        except BaseException as error:  # for the thread that waits for the batch
            self._offer(error)
        else:
            self._offer(StopIteration())

    def _offer(self, item: DeviceRows | BaseException) -> None:
        while not self._ended.is_set():
            try:
                return self._ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def __next__(self) -> DeviceRows:
        item = self._ready.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def __enter__(self) -> DeviceBatches:
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join()
