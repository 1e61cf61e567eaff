"""Batches, from the store to the devices: uint16 all the way, and prefetched by a thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Protocol

import jax

from model.config import Config
from model.devices import Devices
from model.training.compose import Composer
from model.training.scatter import Scatterer
from stores.cut import TokenRows, cut_windows
from stores.sampler import MixtureSampler

DeviceRows = tuple[jax.Array, jax.Array]

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
    """The batch of each step: the sampler's windows, cut to the context, some of them replaced. A pure
    function of seed and step."""

    def __init__(
        self, sampler: Sampler, context: int, seed: int, *replacers: Composer | Scatterer
    ) -> None:
        """The `replacers` work one after the other on the cut windows."""
        self.sampler = sampler
        self.context = context
        self.seed = seed
        self.replacers = replacers

    def batch(self, step: int) -> TokenRows:
        """(B, context) uint16 tokens and (B,) uint16 lengths of a step, counted from 0."""
        tokens, lengths = self.sampler.batch(step)
        first = self.sampler.shard_index * len(tokens)
        tokens, lengths = cut_windows(tokens, lengths, self.context, (self.seed, step), first)
        for replacer in self.replacers:
            replacer.replace(step, tokens, lengths)
        return tokens, lengths


def make_batches(config: Config, sampler: MixtureSampler) -> Batches:
    """The batches that a run of this configuration trains on."""
    context, train = config.model.context, config.train
    replacers: list[Composer | Scatterer] = []
    if train.composed:
        replacers.append(Composer(sampler, context, train.seed, train.composed))
    if train.scattered:
        replacers.append(Scatterer(sampler, context, train.seed, train.scattered))
    return Batches(sampler, context, train.seed, *replacers)


def put(rows: TokenRows, devices: Devices) -> DeviceRows:
    """The rows on the devices, divided among them; returns before the transfer is complete.

    Where several processes train, `rows` are this one's (`Devices.own_rows`), and the arrays are of them all.
    """
    placed: DeviceRows
    if devices.hosts == 1:
        placed = jax.device_put(rows, (devices.by_row, devices.by_row))
    else:
        with jax.transfer_guard(
            "allow"
        ):  # asked for here, but JAX takes it for an implicit transfer
            placed = jax.make_array_from_process_local_data((devices.by_row, devices.by_row), rows)
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
