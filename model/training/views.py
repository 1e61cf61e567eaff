"""The tables that the training commands print."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table

from model.run_folder import TENSORBOARD_FOLDER, KindLoss, RunResult
from model.training.plan import Plan
from model.training.sweep import SweepRow, value_text
from stores.program import script
from stores.views import one_line

GROUPS = ("role", "source", "destination", "rtt_1", "rtt_2", "time")


def plan_view(plan: Plan) -> RenderableType:
    """What `train --dry-run` prints."""
    table = Table(title=f"Plan: {plan.preset}", show_header=False)
    store = plan.store
    for name, value in (
        ("weights in matrices and embeddings", f"{plan.parameters['matrices']:,}"),
        ("weights in total", f"{plan.parameters['total']:,}"),
        ("tokens per step", f"{plan.tokens_per_step:,}"),
        ("steps", f"{plan.steps:,}"),
        ("tokens in total", f"{plan.tokens:,}"),
        ("FLOP per token, full attention", f"{plan.flops_per_token['full_attention']:,}"),
        ("FLOP per token, causal attention", f"{plan.flops_per_token['causal_attention']:,}"),
        ("memory per device (estimate)", _memory_text(plan)),
        (
            "devices",
            f"{plan.devices} × {plan.device}, {plan.precision}, fsdp {plan.config.train.fsdp}",
        ),
        ("store", f"{store.path}, {store.epochs:.2f} epochs" if store else "none"),
    ):
        table.add_row(name, value)
    return table


def _memory_text(plan: Plan) -> str:
    """The total, its parts, and whether they fit."""
    parts = ", ".join(
        f"{name} {size / 2**30:.2f}" for name, size in plan.memory.items() if name != "total"
    )
    text = f"{plan.memory['total'] / 2**30:.2f} GiB"
    if plan.device_memory is not None:
        verdict = "fits" if plan.fits else "DOES NOT FIT"
        text += f", {verdict} in {plan.device_memory / 2**30:.2f} GiB"
    return f"{text} ({parts})"


def result_view(result: RunResult) -> RenderableType:
    """What `train` prints at the end."""
    test, base = result.evaluation, result.baseline
    if test is None or base is None:  # not finished
        return (
            f"Stopped by {result.stopped_by} at step {result.steps:,} with a checkpoint in "
            f"{result.run}: run the same command again to continue"
        )
    table = Table(title=f"{result.run}: {result.preset}, {result.steps:,} steps")
    for column in ("test loss", "this model", "context-free model"):
        table.add_column(column, justify="left" if column == "test loss" else "right")
    for name, key, form in (
        ("nats per measurement", "nats_per_measurement", "{:.2f}"),
        ("bits per measurement", "bits_per_measurement", "{:.2f}"),
        ("nats per token", "loss", "{:.4f}"),
        ("accuracy", "accuracy", "{:.2%}"),
    ):
        table.add_row(
            name,
            form.format(getattr(test, key)),
            form.format(getattr(base, key)),
            end_section=key == "accuracy",
        )
    for mode in test.modes:
        ours, theirs = (r.modes[mode].nats_per_measurement for r in (test, base))
        table.add_row(f"nats per measurement, {mode}", f"{ours:.2f}", f"{theirs:.2f}")
    table.add_section()
    for group in GROUPS:
        our_loss, their_loss = (group_loss(r.kinds, group) for r in (test, base))
        if our_loss is not None and their_loss is not None:
            table.add_row(f"nats per token, {group}", f"{our_loss:.4f}", f"{their_loss:.4f}")
    better = base.nats_per_measurement - test.nats_per_measurement
    verdict = f"{abs(better):.2f} nats per measurement {'below' if better > 0 else 'ABOVE'}"
    speed = f"{result.tokens_per_second:,.0f} tokens/s on {result.devices} × {result.device}"
    return Group(
        table,
        f"{verdict} the best context-free model (byte frequencies by field and position); {speed}",
        chosen_line(result.chosen_on),
        *([f"WARNING: {result.new_sources}"] if result.new_sources else []),
        one_line(
            f"curves: {script('tensorboard')} --logdir {shlex.quote(result.run)}/{TENSORBOARD_FOLDER}"
        ),
    )


def chosen_line(split: str) -> str:
    """What the numbers on test are worth, by the split that things were chosen on."""
    if split == "test":
        return (
            "chosen on test: the best checkpoint and the context-free model's mix, so the numbers are a little too "
            "good; `prepare --validation 0.05` sets rows aside for choosing"
        )
    return f"chosen on {split}: the best checkpoint and the context-free model's mix; the numbers are of test"


def group_loss(kinds: dict[str, KindLoss], group: str) -> float | None:
    """Nats per token over the kinds whose name is the group or begins with it; `None` if there are none."""
    members = [k for name, k in kinds.items() if name == group or name.startswith(f"{group}_")]
    tokens = sum(kind.tokens for kind in members)
    return sum(kind.loss * kind.tokens for kind in members) / tokens if tokens else None


def sweep_view(rows: Sequence[SweepRow]) -> RenderableType:
    """What `sweep` prints, with the best settings marked."""
    split = "test" if all(row.validation_loss is None for row in rows) else "validation"
    table = Table(title=f"Settings; the best are chosen on {split}")
    names = list(rows[0].settings)
    losses = ["loss", *(["validation loss"] if split == "validation" else []), "test loss"]
    for column in (*names, *losses, "bits per measurement", ""):
        table.add_column(column, justify="right")
    reached = [row.chosen_by for row in rows if row.chosen_by is not None]
    for row in rows:
        numbers = [
            row.loss,
            *([row.validation_loss] if split == "validation" else []),
            row.test_loss,
        ]
        cells = ["-" if loss is None else f"{loss:.4f}" for loss in numbers]
        bits = row.bits_per_measurement
        cells.append("-" if bits is None else f"{bits:.2f}")
        remark = "best" if row.chosen_by is not None and row.chosen_by == min(reached) else ""
        settings = (value_text(row.settings[name]) for name in names)
        table.add_row(*settings, *cells, "not finite" if row.failed else remark)
    return table
