"""What tests of more than one side share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import build_store


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound store with a few thousand rows, for tests that only read it."""
    return build_store(tmp_path_factory.mktemp("store") / "store.zarr", train=6000, test=600)
