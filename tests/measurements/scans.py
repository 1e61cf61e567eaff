"""Three results, and what a scan finds in a text."""

from __future__ import annotations

import json
from typing import Any

from stores.measurements.atlas_json import find_results
from stores.measurements.json_scanner import RESULT

FIRST = {"msm_id": 1, "prb_id": 7, "timestamp": 5, "result": [{"rtt": 1.5}, {"x": "*"}]}
SECOND = {"dst_name": 'a "quoted" {name} \\', "prb_id": 8, "msm_id": 2, "result": [{"x": ["]"]}]}
THIRD = {"timestamp": 9, "result": {"deep": [{"er": [{}]}]}, "msm_id": 3}
RESULTS = [FIRST, SECOND, THIRD]


def found(text: bytes, block: int = 1 << 20) -> list[tuple[int, int, bytes | None]]:
    """(kind, row, text) of every span, reading in blocks of `block` bytes."""
    blocks = (text[i : i + block] for i in range(0, len(text), block))
    return [
        (kind, row, bytes(data[start:end]) if start >= 0 else None)
        for data, spans in find_results(blocks)
        for start, end, kind, row in spans
    ]


def results(text: bytes, block: int = 1 << 20) -> list[Any]:
    spans = found(text, block)
    assert all(kind == RESULT for kind, _, _ in spans), spans
    return [json.loads(piece) for _, _, piece in spans if piece is not None]
