"""The store of pairs, for all tests of windows made of pairs."""

from __future__ import annotations

import pytest

from stores.codec import Measurement
from stores.sampler import MixtureSampler
from tests.model.training.pairs import Pair, asking_rows, sampler_of_pairs


@pytest.fixture(scope="session")
def sampler(tmp_path_factory: pytest.TempPathFactory) -> MixtureSampler:
    return sampler_of_pairs(tmp_path_factory.mktemp("pairs") / "store.zarr")


@pytest.fixture(scope="session")
def asking(sampler: MixtureSampler) -> dict[Pair, set[Measurement]]:
    return asking_rows(sampler)
