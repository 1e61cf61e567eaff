"""Training on several stores: as on one that holds the same windows, and no other list continues the run."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from model.evaluate.first_look import evaluation_command
from model.inference.weights import Weights, with_provenance
from model.run_folder import RunRecord
from model.training.batches import make_batches
from model.training.context_free import ContextFree
from model.training.held_out import fixed_batches
from model.training.loop import train
from model.training.plan import make_plan
from stores import MixtureSampler, TokenStore, open_stores
from stores.errors import CheckpointError
from stores.push import push
from tests.model.conftest import assert_same_state, command, losses, run_train, small_config
from tests.stores.several import Several, build_several


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Several:
    rows = {"monday": (2500, 400), "tuesday": (3500, 300)}
    return build_several(tmp_path_factory.mktemp("several"), rows)


def test_batches_of_all_kinds_are_those_of_one_store(several: Several) -> None:
    config = small_config(composed=0.4, scattered=0.3, batch_size=16)
    union, whole = open_stores(several.parts), TokenStore.open(several.whole)
    ours, theirs = (
        make_batches(config, MixtureSampler(store, "train", 16, config.train.seed))
        for store in (union, whole)
    )
    for step in range(6):
        for a, b in zip(ours.batch(step), theirs.batch(step), strict=True):
            np.testing.assert_array_equal(a, b)
    fixed = zip(fixed_batches(union, 10, 128), fixed_batches(whole, 10, 128), strict=True)
    for (mode, rows), (other_mode, others) in fixed:
        assert mode == other_mode
        for a, b in zip(rows, others, strict=True):
            np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(ContextFree(union).counts, ContextFree(whole).counts)


def test_a_run_learns_what_it_learns_from_one_store(several: Several, tmp_path: Path) -> None:
    config = small_config(steps=5)
    result = train(config, several.parts, tmp_path / "several")
    train(config, several.whole, tmp_path / "whole")
    assert_same_state(tmp_path / "several", tmp_path / "whole")
    assert losses(tmp_path / "several") == losses(tmp_path / "whole")
    assert result.store == ", ".join(map(str, several.parts))
    assert result.store_digest == open_stores(several.parts).digest


def test_two_days_from_the_command_line_and_no_other_list_continues_them(
    several: Several, tmp_path: Path
) -> None:
    monday, tuesday = several.parts
    out = tmp_path / "run"
    done = run_train(monday, out, "--store", str(tuesday), "--verify", steps=4)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    union = open_stores(several.parts)
    assert (result["finished"], result["store_digest"]) == (True, union.digest)
    assert result["first_look"]["steps"] == 4
    record = RunRecord.read(out / "run.json")
    assert record.store_digest == union.digest
    assert record.provenance is not None
    assert record.provenance.rows == 6000

    again = run_train(monday, out, "--store", str(tuesday), steps=4)
    assert json.loads(again.stdout) == result
    refused = run_train(tuesday, out, "--store", str(monday), steps=4)
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"error: {out}: trained on the store {union.digest}, not on ")
    assert "the same stores in the same order" in refused.stderr
    assert refused.stderr.count("\n") == 1
    for other in ([monday], [monday, tuesday, several.whole]):
        with pytest.raises(CheckpointError, match=f"not on {open_stores(other).digest}"):
            train(small_config(steps=4), other, out)


def test_what_is_printed_and_noted_later_covers_all_stores(
    several: Several, tmp_path: Path
) -> None:
    monday, tuesday = several.parts
    assert f"evaluate --store {monday} --store {tuesday} --model" in evaluation_command(
        several.parts, tmp_path
    )
    union = open_stores(several.parts)
    weights = Weights(small_config().model, {}, {"store_digest": union.digest})
    found = with_provenance(weights, union).provenance
    assert found is not None
    assert (found.store_digest, found.rows) == (union.digest, 6000)
    with pytest.raises(CheckpointError, match="all of several in the same order"):
        with_provenance(weights, open_stores([tuesday, monday]))


def test_each_store_may_be_named_by_its_url(several: Several, tmp_path: Path) -> None:
    urls = []
    for store in several.parts:
        urls.append((tmp_path / "bucket" / store.name).as_uri())
        push(store, urls[-1])
    line = command(several.parts[0], tmp_path / "run", "--dry-run", "--store", urls[1])
    line[line.index("--store") + 1] = urls[0]
    cache = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    planned = subprocess.run(line, capture_output=True, text=True, timeout=120, env=cache)
    assert planned.returncode == 0, planned.stderr
    store = json.loads(planned.stdout)["store"]
    plan = make_plan(small_config(), several.parts)
    assert plan.store is not None
    assert (store["digest"], store["windows"]) == (plan.store.digest, plan.store.windows)
    assert len(store["path"].split(", ")) == 2
