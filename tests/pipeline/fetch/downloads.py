"""What is to be fetched, ways to fetch it, and what came."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

from pipeline.fetch.dumps import Fetched, fetch
from pipeline.fetch.question import make_question
from tests.pipeline.fetch.atlas_api import Api
from tests.pipeline.ingest.results import ping
from tests.pipeline.remote.prepared import ROOT

JAN, DAY = 1704067200, 86400  # 2024-01-01


def results(count: int = 900) -> list[dict[str, Any]]:
    """Results of two measurements over three days, some of them at the very ends of a day."""
    rng = random.Random(0)
    ends = [JAN + day * DAY + second for day in range(4) for second in (-1, 0, 1)]
    times = ends + [JAN + rng.randrange(3 * DAY) for _ in range(count)]
    found = [
        ping(i, msm_id=1001 if i % 3 else 1004, prb_id=i % 50, timestamp=when)
        for i, when in enumerate(sorted(times))
    ]
    return list({(r["msm_id"], r["prb_id"], r["timestamp"]): r for r in found}.values())


def run(
    url: str, out: Path, stop: str = "2024-01-04", msm: str = "1001,1004", probes: str | None = None,
    start: str = "2024-01-01", key: str = "",
) -> Fetched:  # fmt: skip
    question = make_question(url, msm, start, stop, probes, "day")
    return fetch(question, out, key, lambda *_: None)


def files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("[!.]*"))}


def lines(out: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for text in files(out).values() for line in text.splitlines()]
    return sorted(found, key=lambda r: (r["timestamp"], r["msm_id"], r["prb_id"]))


def expected(api: Api, start: int = JAN, stop: int = JAN + 3 * DAY) -> list[dict[str, Any]]:
    inside = [r for r in api.results if start <= r["timestamp"] < stop]
    return sorted(inside, key=lambda r: (r["timestamp"], r["msm_id"], r["prb_id"]))


def command(url: str, out: Path, *more: str) -> list[str]:
    given = ["--msm", "1001,1004", "--start", "2024-01-01", "--stop", "2024-01-04", "--url", url]
    return [sys.executable, str(ROOT / "cli.py"), "fetch", *given, "--out", str(out), *more]


def execute(words: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
        cwd=ROOT,
    )
