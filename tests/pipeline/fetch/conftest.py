"""A server to fetch from."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline.fetch.api import KEY as KEY_VARIABLE
from pipeline.remote import tries
from tests.pipeline.fetch.atlas_api import Api
from tests.pipeline.fetch.downloads import results


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tries, "FIRST_PAUSE", 0.001)
    monkeypatch.delenv(KEY_VARIABLE, raising=False)


@pytest.fixture
def server() -> Iterator[tuple[Api, str]]:
    api = Api(results())
    with api.serve() as url:
        yield api, url
