from __future__ import annotations

import threading
from pathlib import Path

import jax
import numpy as np
import pytest

from model.devices import visible_devices
from model.training.batches import AHEAD, Batches, DeviceBatches, make_batches
from stores.reader import TokenStore
from stores.sampler import MixtureSampler
from tests.model.conftest import small_config


def test_a_batch_is_a_function_of_seed_and_step(store: Path) -> None:
    opened = TokenStore.open(store)

    def batch(seed: int, step: int) -> np.ndarray:
        sampler = MixtureSampler(opened, "train", 8, seed)
        return Batches(sampler, 128, seed).batch(step)[0]

    np.testing.assert_array_equal(batch(1, 3), batch(1, 3))
    assert not np.array_equal(batch(1, 3), batch(1, 4))
    assert not np.array_equal(batch(1, 3), batch(2, 3))


@pytest.mark.parametrize("hosts", [2, 4])
def test_the_parts_of_all_processes_are_the_batch_of_one(store: Path, hosts: int) -> None:
    config = small_config(composed=0.5, scattered=0.25)
    whole = MixtureSampler(TokenStore.open(store), "train", 8, config.train.seed)
    parts = [make_batches(config, whole.shard(host, hosts)) for host in range(hosts)]
    for step in (0, 1, 7, 1000):
        for array, pieces in zip(
            make_batches(config, whole).batch(step),
            zip(*(part.batch(step) for part in parts), strict=True),
            strict=True,
        ):
            assert len(pieces[0]) == len(array) // hosts
            np.testing.assert_array_equal(array, np.concatenate(pieces))


def test_device_batches_come_in_order_as_uint16(store: Path) -> None:
    batches = Batches(MixtureSampler(TokenStore.open(store), "train", 8, 0), 128, 0)
    with DeviceBatches(batches, visible_devices(), 5, 15) as feed:
        for step in range(5, 15):
            tokens, lengths = next(feed)
            expected = batches.batch(step)
            assert tokens.dtype == lengths.dtype == np.uint16
            np.testing.assert_array_equal(jax.device_get(tokens), expected[0])
            np.testing.assert_array_equal(jax.device_get(lengths), expected[1])


class Failing:
    """A sampler whose fourth batch cannot be read."""

    shard_index = 0

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        if step == 3:
            raise OSError("the disk is gone")
        return np.zeros((8, 1024), np.uint16), np.ones(8, np.uint16)


def test_a_failure_of_the_thread_reaches_the_loop() -> None:
    with DeviceBatches(Batches(Failing(), 128, 0), visible_devices(), 0, 10) as feed:
        for _ in range(3):
            next(feed)
        with pytest.raises(OSError, match="the disk is gone"):
            next(feed)


def test_the_thread_ends_with_the_loop_and_keeps_few_batches(store: Path) -> None:
    before = threading.active_count()
    batches = Batches(MixtureSampler(TokenStore.open(store), "train", 8, 0), 128, 0)
    with DeviceBatches(batches, visible_devices(), 0, 10**9) as feed:
        next(feed)
        assert feed._ready.maxsize == AHEAD
    assert threading.active_count() == before
