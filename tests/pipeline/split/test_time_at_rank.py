"""Where a shard ends inside a source: the time of one of its rows, found without sorting them all."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.split import plan


@pytest.mark.parametrize("at_once", [1, 5, 1000])
@pytest.mark.parametrize("seconds", [1, 3, 500])
def test_the_time_of_a_rank_is_that_of_all_streams_sorted(
    at_once: int, seconds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "_RANKED_ROWS", at_once)
    rng = np.random.default_rng(0)
    streams = [np.sort(rng.integers(0, seconds, rows)) for rows in (0, 1, 40, 159)]
    together = np.sort(np.concatenate(streams))
    found = [plan._time_at_rank(streams, rank) for rank in range(len(together))]
    assert found == together.tolist()
