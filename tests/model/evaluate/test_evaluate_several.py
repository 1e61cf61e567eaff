"""Evaluating on several stores: the rows and histories of all, as from one store that holds the same windows."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from model.evaluate.card import make_card
from model.evaluate.evaluate import describe_model, make_report
from model.evaluate.records import report_json
from model.inference.weights import Weights
from stores import open_stores
from tests.model.conftest import small_config
from tests.model.evaluate.conftest import command
from tests.stores.several import build_several


def test_the_report_is_that_of_one_store(run: Path, tmp_path: Path) -> None:
    several = build_several(tmp_path, {"monday": (3000, 400), "tuesday": (2000, 300)})
    options = [text for part in several.parts for text in ("--store", str(part))]
    out = tmp_path / "report"
    done = command("evaluate", *options, "--out", str(out), "--limit", "300", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report == json.loads((out / "report.json").read_text())
    of_whole = make_report(several.whole, limit=300)
    whole = report_json(of_whole)
    digest = open_stores(several.parts).digest
    assert report.pop("store") == whole.pop("store") | {
        "path": ", ".join(map(str, several.parts)),
        "digest": digest,
    }
    assert report.pop("seconds").keys() == whole.pop("seconds").keys()
    assert report == whole
    groups = report["questions"]["groups"]
    assert min(groups["seen_pairs"], groups["context_has_pair"]) > 0  # histories matter

    twice = command("evaluate", *options, *options[:2], "--out", str(out))
    assert twice.returncode == 1
    assert twice.stderr.startswith(f"error: {several.parts[0]}: the same store as ")
    assert twice.stderr.count("\n") == 1

    union = open_stores(several.parts)
    weights = Weights(small_config().model, {}, {"store_digest": digest})
    described = describe_model(weights, union, "m")
    assert described.trained_on_this_store
    assert not describe_model(weights, open_stores(several.parts[:1]), "m").trained_on_this_store

    asked = msgspec.structs.replace(of_whole, models={"m": described})
    data = make_card(run, asked, union, None, 1.0)["data"]
    assert (data["store_digest"], data["rows"], data["seed"]) == (digest, 5700, [0, 0])
    assert data["provenance"]["rows"] == 5000
