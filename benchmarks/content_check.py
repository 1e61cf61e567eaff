"""What it costs that a run compares its store with the digests while it trains.

One run, in which the check is there in every second interval of steps: steps per second with it, divided by those
of the interval before without it, and the CPU time of the check itself. The check begins anew whenever it has come
to the end of the store.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from model.config import make_config
from model.run_folder import MetricsLine
from model.training.content_check import ContentCheck
from model.training.loop import train
from model.training.progress import TrainingProgress
from stores.errors import PinglmError
from stores.reader import TokenStore

INTERVALS, STEPS = 40, 10
"""Of how many steps each. Of the intervals, the first two compile and are left out."""


class _Endless(ContentCheck):
    """Checks again and again."""

    cpu_s = wall_s = 0.0
    bytes = 0

    def _find(self) -> None:
        cpu, wall = time.thread_time(), time.monotonic()
        try:
            while True:
                super()._find()
        finally:
            self.cpu_s, self.wall_s = time.thread_time() - cpu, time.monotonic() - wall

    def _go_on(self, done: int, total: int) -> None:
        self.bytes += done - (self._done if done > self._done else 0)  # it may have begun anew
        super()._go_on(done, total)


class _Alternating(TrainingProgress):
    """Starts a check at the end of an interval, and ends it at that of the next."""

    def __init__(self, store: Path) -> None:
        self.store = TokenStore.open(store)
        self.rates: list[float] = []
        self.checks: list[_Endless] = []

    def metrics(self, line: MetricsLine) -> None:
        self.rates.append(line.tokens_per_second)
        if len(self.rates) % 2:
            self.checks.append(_Endless(self.store))
            self.checks[-1].__enter__()
        else:
            self.checks[-1].__exit__()


def run(store: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Train `tiny` with these settings; returns what the check cost."""
    never = 10 * INTERVALS * STEPS
    rhythm = {"log_every": STEPS, "eval_every": never, "save_every": never, "eval_batches": 10}
    config = make_config("tiny", {**settings, **rhythm, "steps": INTERVALS * STEPS})
    seen = _Alternating(store)
    with tempfile.TemporaryDirectory() as scratch:
        train(config, store, Path(scratch, "run"), progress=seen, verified=True)
    pairs = list(zip(seen.rates[2::2], seen.rates[3::2], strict=False))
    ratios = sorted(checked / alone for alone, checked in pairs)
    checks = seen.checks[1:]
    gigabytes = sum(check.bytes for check in checks) / 1e9
    return {
        "intervals": len(pairs),
        "with_check_over_without": round(statistics.median(ratios), 3),
        "quartiles": [round(q, 3) for q in statistics.quantiles(ratios)[::2]],
        "cpu_s_per_gb": round(sum(check.cpu_s for check in checks) / gigabytes, 2),
        "mb_per_s": round(1e3 * gigabytes / sum(check.wall_s for check in checks)),
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks content_check", description=__doc__)
    parser.add_argument("--store", type=Path, help="one that is there; else 2 M rows are simulated")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--context", type=int, default=256)
    options = parser.parse_args(argv)
    settings = {"batch_size": options.batch_size, "context": options.context}
    with tempfile.TemporaryDirectory() as scratch:
        if options.store is None:
            prepare = [sys.executable, "cli.py", "prepare", "--rows", "2000000", "--out", scratch]
            subprocess.run([*prepare, "--json"], check=True, stdout=subprocess.DEVNULL)
        try:
            result = run(options.store or Path(scratch, "store.zarr"), settings)
        except PinglmError as error:
            sys.exit(f"error: {error}")
    json.dump(result, sys.stdout, indent=1)
    print()
