"""One small store for the tests that only read, and a bucket with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from stores.push import push
from tests.helpers import build_store


@pytest.fixture(scope="session")
def store_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound store with several chunk files an array, the last ones padded."""
    return build_store(tmp_path_factory.mktemp("store") / "store.zarr", per_chunk=7)


@pytest.fixture
def bucket(store_path: Path, tmp_path: Path) -> Path:
    """A folder that the store was pushed to."""
    folder = tmp_path / "a bucket"
    push(store_path, folder.as_uri())
    return folder
