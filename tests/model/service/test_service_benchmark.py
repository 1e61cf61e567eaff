"""The load generator of `python -m benchmarks service`, against a real server."""

from __future__ import annotations

import asyncio

from benchmarks.service import drive


def test_requests_of_a_schedule_are_answered_and_counted(url: str) -> None:
    load = asyncio.run(drive(url, "two clients", clients=2, seconds=1.0, rate=8.0))
    assert load.wrong == 0
    assert load.answered_per_s > 0
    assert 0 < load.p50_ms <= load.p99_ms


def test_a_closed_loop_offers_no_rate(url: str) -> None:
    load = asyncio.run(drive(url, "closed loop", clients=2, seconds=0.5))
    assert load.offered_per_s is None
    assert load.wrong == 0
