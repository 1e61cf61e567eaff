"""The plan of a run: sizes, cost and memory, before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path

from model.config import make_config
from model.training.plan import make_plan
from stores.reader import TokenStore


def test_the_plan_states_sizes_cost_and_memory(store: Path) -> None:
    plan = make_plan(make_config("85m", {}), store)
    assert plan.parameters["matrices"] == 85_538_560
    assert plan.parameters["total"] == 85_538_560 + 41 * 640
    assert plan.tokens_per_step == 32 * 1024
    assert set(plan.flops_per_token) == {"full_attention", "causal_attention"}
    assert plan.memory["total"] == sum(v for k, v in plan.memory.items() if k != "total")
    assert plan.store is not None
    assert plan.store.digest == TokenStore.open(store).digest
    assert make_plan(make_config("small", {}), None).store is None
    json.dumps(plan.as_dict())
