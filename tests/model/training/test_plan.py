"""The plan of a run: sizes, cost and memory, before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from model.config import make_config
from model.training.plan import make_plan
from stores.errors import ConfigError
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


def test_the_plan_says_what_parts_of_the_weights_take_and_whether_they_fit() -> None:
    """For devices that are not here, too."""

    def plan(fsdp: int, gigabytes: float) -> tuple[dict[str, int], bool | None]:
        made = make_plan(
            make_config("85m", {"fsdp": fsdp}),
            None,
            devices=8,
            device_memory=round(gigabytes * 1e9),
        )
        assert made.devices == 8
        return made.memory, made.fits

    whole, _ = plan(1, 10)
    assert whole["weights"] == whole["gradients"] == 4 * (85_538_560 + 41 * 640)
    assert whole["optimizer"] == pytest.approx(2 * whole["weights"], abs=100)
    parts, _ = plan(4, 10)
    for name in ("weights", "gradients", "optimizer"):
        assert whole[name] / 4 < parts[name] < whole[name] / 4 * 1.01  # norms stay whole
    assert parts["activations"] == whole["activations"]
    assert parts["total"] == sum(v for k, v in parts.items() if k != "total")
    between = (parts["total"] + whole["total"]) / 2e9
    assert plan(1, between)[1] is False
    assert plan(4, between)[1] is True
    assert make_plan(make_config("85m", {}), None).fits is None  # a CPU does not tell
    with pytest.raises(ConfigError, match="fsdp 3 over 8 devices: expected a divisor of 8"):
        plan(3, 10)
    with pytest.raises(ConfigError, match="batch size 32 over 5 devices"):
        make_plan(make_config("85m", {}), None, devices=5)
    with pytest.raises(ConfigError, match="placement_windows 6 over 4 devices"):
        make_plan(make_config("85m", {"placement_windows": 6}), None, devices=4)
