"""The tables that `train` and `sweep` print, rendered on a console."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console, RenderableType

from model.config import make_config
from model.run_folder import Evaluation, KindLoss, LossByMode, LossSummary, RunResult
from model.training.plan import PlannedStore, make_plan
from model.training.sweep import SweepRow
from model.training.views import group_loss, plan_view, result_view, sweep_view


def rendered(view: RenderableType) -> str:
    """The text of a view on a wide terminal."""
    console = Console(width=160)
    with console.capture() as capture:
        console.print(view)
    return capture.get()


def by_mode(nats: float) -> LossByMode:
    kinds = {"role": KindLoss(nats / 100, 0.9, 400), "source_1": KindLoss(nats / 10, 0.2, 100)}
    summary = LossSummary(nats / 20, nats, nats * 1.44, 0.25, 1000, 50, kinds)
    return LossByMode(**vars(summary), modes={"full": summary, "none": summary})


RESULT = RunResult(
    run="runs/a", finished=True, stopped_by=None, preset="tiny", steps=1200, loss=2.5,
    losses=((600, 3.0), (1200, 2.5)), tokens_per_second=123_456.0, mfu=None,
    evaluation=Evaluation(**vars(by_mode(40.0)), step=1200), baseline=by_mode(50.0), parameters=10,
    device="cpu", devices=2, attention="xla", precision="float32", memory=None, store="s.zarr",
    store_digest="abc",
)  # fmt: skip


def row_of(text: str, label: str) -> list[str]:
    """The cells of the table row that begins with a label."""
    (line,) = (line for line in text.splitlines() if line.strip("│ ").startswith(f"{label} "))
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_the_plan_shows_its_sizes_with_and_without_a_store() -> None:
    plan = make_plan(make_config("tiny", {"steps": 1000}), None)
    text = rendered(plan_view(plan))
    assert "Plan: tiny" in text
    assert row_of(text, "steps") == ["steps", "1,000"]
    assert row_of(text, "tokens in total") == ["tokens in total", f"{plan.tokens:,}"]
    assert row_of(text, "store") == ["store", "none"]
    memory = "memory per device (estimate)"
    assert " GiB (weights 0.0" in row_of(text, memory)[1]
    for size, said in ((1 << 40, "fits in 1024.00 GiB"), (1 << 20, "DOES NOT FIT in 0.00 GiB")):
        plan = make_plan(make_config("tiny", {"steps": 1000}), None, device_memory=size)
        assert f" GiB, {said} (weights" in row_of(rendered(plan_view(plan)), memory)[1]
    planned = replace(plan, store=PlannedStore("data/store.zarr", "abc", 640, 25.0))
    assert row_of(rendered(plan_view(planned)), "store")[1] == "data/store.zarr, 25.00 epochs"


def test_a_finished_run_is_compared_with_the_context_free_model() -> None:
    text = rendered(result_view(RESULT))
    assert "runs/a: tiny, 1,200 steps" in text
    assert row_of(text, "nats per measurement")[1:] == ["40.00", "50.00"]
    assert row_of(text, "nats per measurement, full")[1:] == ["40.00", "50.00"]
    assert row_of(text, "nats per token, source")[1:] == ["4.0000", "5.0000"]
    assert "nats per token, destination" not in text  # no such token was predicted
    assert "10.00 nats per measurement below the best context-free model" in text
    assert "123,456 tokens/s on 2 × cpu" in text
    assert "tensorboard --logdir runs/a/tensorboard" in text
    worse = replace(RESULT, baseline=by_mode(30.0))
    assert "10.00 nats per measurement ABOVE the best context-free" in rendered(result_view(worse))


def test_a_stopped_run_says_how_to_continue() -> None:
    stopped = replace(RESULT, finished=False, stopped_by="SIGTERM", steps=700, baseline=None)
    text = rendered(result_view(stopped))
    assert "Stopped by SIGTERM at step 700" in text
    assert "run the same command again to continue" in text


def test_a_sweep_marks_the_best_rate_and_the_failed_one() -> None:
    rows = [
        SweepRow({"learning_rate": 1e-3}, "a", loss=3.0, test_loss=2.9, bits_per_measurement=80.0),
        SweepRow({"learning_rate": 3e-3}, "b", loss=2.0, test_loss=2.1, bits_per_measurement=60.0),
        SweepRow({"learning_rate": 1e30}, "c", failed="the loss became NaN"),
    ]
    text = rendered(sweep_view(rows))
    assert row_of(text, "0.001") == ["0.001", "3.0000", "2.9000", "80.00", ""]
    assert row_of(text, "0.003") == ["0.003", "2.0000", "2.1000", "60.00", "best"]
    assert row_of(text, "1e+30") == ["1e+30", "-", "-", "-", "not finite"]


def test_a_group_loss_weighs_kinds_by_their_tokens() -> None:
    kinds = {"source_1": KindLoss(1.0, 0.5, 30), "source_2": KindLoss(4.0, 0.5, 10)}
    assert group_loss(kinds, "source") == 1.75
    assert group_loss(kinds, "time") is None
