"""Where the rows of a folder came from, over all its finished stages up to the split."""

from __future__ import annotations

from collections import Counter
from typing import Any

from pipeline.folder import OutputFolder

_STAGES = ("ingest", "simulate", "split")


def inputs(folder: OutputFolder) -> list[dict[str, Any]]:
    """The user's own files, by name: {"name", "size", "sha256"}."""
    found = [
        entry for stage in _STAGES for entry in (folder.record(stage) or {"inputs": []})["inputs"]
    ]
    return sorted(found, key=lambda entry: entry["name"])


def configuration(folder: OutputFolder) -> dict[str, Any]:
    """Options of the stages that ran, by stage, without the input files."""
    options = {}
    for stage in _STAGES:
        record = folder.record(stage)
        if record is not None:
            options[stage] = {
                name: value
                for name, value in record["options"].items()
                if name not in ("inputs", "version")
            }
    return options


def ledger(folder: OutputFolder) -> dict[str, Any]:
    """Rows in = train + test + rejected: `files`, by the user's file, and `totals`.

    Joins the ledgers of ingest, which rejects, and of split, which rejects and divides.
    """
    split = folder.record("split")
    assert split is not None
    taken = {entry["file"]: entry for entry in split["files"]}
    files = []
    for entry in (folder.record("ingest") or {"files": []})["files"]:
        after = taken.pop(entry["file"], {"train": 0, "test": 0, "rejected": {}})
        rejected = Counter(entry["rejected"]) + Counter(after["rejected"])
        files.append(_entry(entry["file"], entry["rows"], after, rejected))
    for name, entry in taken.items():
        files.append(_entry(name, entry["rows"], entry, Counter(entry["rejected"])))
    totals: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for entry in files:
        totals.update({name: entry[name] for name in ("rows", "train", "test")})
        reasons.update(entry["rejected"])
    return {"files": files, "totals": {**totals, "rejected": dict(sorted(reasons.items()))}}


def _entry(name: str, rows: int, taken: dict[str, Any], rejected: Counter[str]) -> dict[str, Any]:
    entry = {
        "file": name,
        "rows": rows,
        "train": taken["train"],
        "test": taken["test"],
        "rejected": dict(sorted(rejected.items())),
    }
    assert rows == entry["train"] + entry["test"] + rejected.total(), entry
    return entry
