"""One training step: fed from the store beside the same step on one resident batch.

Both run in turns in one process, so that a busy machine slows both; their ratio is the median over the
turns. Host work is what one core spends to make a batch and hand it to the device. Runs `tiny` on CPUs,
`small` and `85m` on a GPU; `--matrix` compares ways to compute the step, each in a process of its own.
`--peer` also runs the same shape in plain PyTorch (extra `bench`), in turns with ours: AdamW, no tables and no
dropout on either side.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from benchmarks.loaders import make_store
from model.config import Config, make_config, parse_assignments
from model.devices import memory_statistics, visible_devices
from model.network.flops import count_parameters, flops_per_token, peak_flops, utilization
from model.training.batches import Batches, DeviceBatches, DeviceRows, make_batches, put
from model.training.step import Steps, TrainState
from stores import MixtureSampler, TokenStore

TABLE_WIDTH = 130
WARM_UP = 5  # steps
TURN_SECONDS = 1.5
HOST_BATCHES = 200
WINDOWS = 4_000  # in each mode of the store that is made when none is named

PREALLOCATE = "XLA_PYTHON_CLIENT_PREALLOCATE"
NO_TRITON = "--xla_gpu_enable_triton_gemm=false"
MATRIX: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("as configured", {}, ""),
    ("scan over layers", {"scan": True}, ""),
    ("recompute layers", {"remat": True}, ""),
    ("plain attention", {"attention": "xla"}, ""),
    ("no dropout", {"dropout": 0.0}, ""),
    ("Muon", {"optimizer": "muon"}, ""),
    ("cuBLAS instead of Triton", {}, NO_TRITON),
    ("half as many heads", {"heads": 5}, ""),
    ("twice as many heads", {"heads": 20}, ""),
    ("batch 64", {"batch_size": 64}, ""),
    ("batch 128", {"batch_size": 128}, ""),
    ("batch 256", {"batch_size": 256}, ""),
    ("batch 256, recompute", {"batch_size": 256, "remat": True}, ""),
)
"""(name, fields, XLA flags) that `--matrix` compares; one that fails is a row that says why."""


def run(config: Config, store_path: Path, seconds: float) -> dict[str, Any]:
    """Measure one configuration for about `seconds`; JSON-able numbers, times in seconds."""
    jax.config.update("jax_enable_compilation_cache", False)
    devices = visible_devices()
    steps = Steps(config, devices)
    store = TokenStore.open(store_path)
    sampler = MixtureSampler(store, "train", config.train.batch_size, config.train.seed)
    batches = make_batches(config, sampler)

    host = _host_seconds(batches, lambda rows: put(rows, devices))
    resident = jax.block_until_ready(put(batches.batch(0), devices))
    state, warm = _turn(steps, steps.init(), lambda: resident, WARM_UP)
    state, warm = _turn(steps, state, lambda: resident, WARM_UP)
    count = max(3, min(200, round(TURN_SECONDS / warm)))
    turns = max(5, round(seconds / (2 * count * warm)))
    on_one, from_store = [], []
    with DeviceBatches(batches, devices, 0, (turns + 1) * count) as feed:
        state, _ = _turn(steps, state, lambda: next(feed), count)
        for _ in range(turns):
            state, took = _turn(steps, state, lambda: resident, count)
            on_one.append(took)
            state, took = _turn(steps, state, lambda: next(feed), count)
            from_store.append(took)

    step = statistics.median(from_store)
    rate = config.train.batch_size * config.model.context / step
    analysis = steps.train.memory_analysis()
    return {
        "preset": config.preset,
        "device": devices.kind,
        "devices": devices.count,
        "batch_size": config.train.batch_size,
        "context": config.model.context,
        "parameters": count_parameters(config.model)["total"],
        "attention": steps.attention,
        "precision": steps.dtype.name,
        "steps_measured": turns * count * 2,
        "compile_s": steps.compile_seconds,
        "step_resident_s": statistics.median(on_one),
        "step_from_store_s": step,
        "store_to_resident": statistics.median(
            fed / fixed for fed, fixed in zip(from_store, on_one, strict=True)
        ),
        "host_work_s": host,
        "host_work_share": host / step,
        "tokens_per_second": rate,
        "flops_per_second": flops_per_token(config.model)["full_attention"] * rate,
        "peak_flops": peak_flops(devices.kind),
        "mfu": utilization(config.model, rate, devices.kind, devices.count),
        "peak_device_bytes": (memory_statistics() or {}).get("peak_bytes"),
        "planned_bytes": analysis.temp_size_in_bytes + analysis.argument_size_in_bytes,
    }


PEER_FIELDS = {"prefix_rows": 0, "dropout": 0.0, "optimizer": "adamw"}
"""What the peer does not have; the same is left out of ours beside it."""


def run_beside_peer(config: Config, store_path: Path, seconds: float) -> dict[str, Any]:
    """Our step and that of plain PyTorch on the same resident batch, in turns; JSON-able numbers."""
    from benchmarks.torch_peer import PeerSteps

    jax.config.update("jax_enable_compilation_cache", False)
    devices = visible_devices()
    steps = Steps(config, devices)
    sampler = MixtureSampler(
        TokenStore.open(store_path), "train", config.train.batch_size, config.train.seed
    )
    rows = make_batches(config, sampler).batch(0)
    peer = PeerSteps(config, *rows)
    resident = jax.block_until_ready(put(rows, devices))
    state, _ = _turn(steps, steps.init(), lambda: resident, WARM_UP)
    slowest = peer.turn(WARM_UP)
    state, warm = _turn(steps, state, lambda: resident, WARM_UP)
    slowest = max(warm, peer.turn(WARM_UP))
    count = max(1, round(TURN_SECONDS / slowest))
    turns = max(5, round(seconds / (2 * count * slowest)))
    ours, theirs = [], []
    for _ in range(turns):
        state, took = _turn(steps, state, lambda: resident, count)
        ours.append(took)
        theirs.append(peer.turn(count))
    ratios = [peer / own for own, peer in zip(ours, theirs, strict=True)]
    return {
        "preset": config.preset,
        "device": devices.kind,
        "batch_size": config.train.batch_size,
        "context": config.model.context,
        "step_s": statistics.median(ours),
        "peer_step_s": statistics.median(theirs),
        "peer_to_ours": statistics.median(ratios),
        "turns": turns,
    }


def peer_view(rows: Sequence[dict[str, Any]]) -> Table:
    """Rows of `run_beside_peer`."""
    table = Table(title="Training step beside plain PyTorch", title_justify="left", box=None)
    for head in ("", "batch", "ours ms", "PyTorch ms", "PyTorch ÷ ours (median of turns)"):
        table.add_column(head, justify="right")
    for row in rows:
        table.add_row(
            f"{row['preset']} on {row['device']}",
            f"{row['batch_size']} × {row['context']}",
            f"{row['step_s'] * 1e3:.1f}",
            f"{row['peer_step_s'] * 1e3:.1f}",
            f"{row['peer_to_ours']:.2f}",
        )
    return table


def _turn(
    steps: Steps, state: TrainState, batch: Callable[[], DeviceRows], count: int
) -> tuple[TrainState, float]:
    """`count` steps; the state after them, and seconds per step."""
    began = time.perf_counter()
    for _ in range(count):
        state, loss = steps.train(state, *batch())
    jax.block_until_ready(loss)
    return state, (time.perf_counter() - began) / count


def _host_seconds(batches: Batches, hand_over: Callable[[Any], DeviceRows]) -> float:
    """CPU time of this process to make one batch and put it on the devices, the best of ten runs."""
    runs = []
    for turn in range(10):
        began = time.thread_time()
        for step in range(turn * HOST_BATCHES // 10, (turn + 1) * HOST_BATCHES // 10):
            placed = hand_over(batches.batch(step))
        runs.append((time.thread_time() - began) / (HOST_BATCHES // 10))
        jax.block_until_ready(placed)
    return min(runs)


def compare(preset: str, options: argparse.Namespace, store: Path) -> list[dict[str, Any]]:
    """Every row of `MATRIX` in a process of its own."""
    rows = []
    for name, fields, flags in MATRIX:
        settings = [*options.set, *(f"{field}={value}" for field, value in fields.items())]
        command = [sys.executable, "-m", "benchmarks", "train_step", "--json", "--preset", preset]
        command += ["--store", str(store), "--seconds", str(options.seconds)]
        command += [part for setting in settings for part in ("--set", setting)]
        env = {**os.environ, PREALLOCATE: "true"}
        env["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
        Console(stderr=True).print(f"{preset}: {name}", highlight=False)
        done = subprocess.run(command, capture_output=True, text=True, env=env)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            rows.append({"name": name, "preset": preset, "failed": last[:200]})
        else:
            rows.append({"name": name, "failed": None, **json.loads(done.stdout)[0]})
    return rows


def view(rows: Sequence[dict[str, Any]]) -> Table:
    """TokenRows of `run` or `compare` side by side."""
    table = Table(title="Training step", title_justify="left", box=None)
    heads = ("", "batch", "step ms", "store ÷ resident", "host work", "tokens/s", "MFU full")
    for head in (*heads, "MFU causal", "peak memory", "compile s"):
        table.add_column(head, justify="right")
    for row in rows:
        name = row.get("name", f"{row['preset']} on {row.get('device')}")
        if row.get("failed"):
            table.add_row(name, row["failed"])
            continue
        mfu, peak = row["mfu"], row["peak_device_bytes"]
        table.add_row(
            name,
            f"{row['batch_size']} × {row['context']}",
            f"{row['step_from_store_s'] * 1e3:.1f}",
            f"{row['store_to_resident']:.4f}",
            f"{row['host_work_share']:.2%}",
            f"{row['tokens_per_second']:,.0f}",
            f"{mfu['full_attention']:.1%}" if mfu else "-",
            f"{mfu['causal_attention']:.1%}" if mfu else "-",
            f"{peak / 2**30:.2f} GiB"
            if peak
            else f"({row['planned_bytes'] / 2**30:.2f} GiB planned)",
            f"{row['compile_s']:.1f}",
        )
    return table


def main(argv: Sequence[str]) -> None:
    """Command line of `python -m benchmarks train_step`."""
    parser = argparse.ArgumentParser(prog="benchmarks train_step", description=__doc__)
    parser.add_argument("--preset", help="default: tiny on CPUs, small and 85m on a GPU")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--store", type=Path, help="default: random windows in a temporary folder")
    parser.add_argument("--seconds", type=float, default=30.0, help="of measurement, each")
    parser.add_argument("--matrix", action="store_true", help="compare ways to compute the step")
    parser.add_argument("--peer", action="store_true", help="beside the same shape in PyTorch")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)

    if options.matrix:  # the memory is for the processes that measure
        os.environ[PREALLOCATE] = "false"
    on_cpu = jax.default_backend() == "cpu"
    by_device = ["tiny"] if on_cpu else ["85m"] if options.matrix else ["small", "85m"]
    presets = [options.preset] if options.preset else by_device
    with tempfile.TemporaryDirectory() as folder:
        store = options.store or make_store(Path(folder) / "store.zarr", WINDOWS)
        if not options.store:  # its windows are random tokens: there are no rows to choose
            options.set[:0] = ["composed=0", "scattered=0"]
        rows: list[dict[str, Any]] = []
        for preset in presets:
            if options.matrix:
                rows += compare(preset, options, store)
            elif options.peer:
                config = make_config(preset, {**PEER_FIELDS, **parse_assignments(options.set)})
                rows.append(run_beside_peer(config, store, options.seconds))
            else:
                config = make_config(preset, parse_assignments(options.set))
                rows.append(run(config, store, options.seconds))
    if options.json:
        print(json.dumps(rows, indent=1))
    else:
        table = peer_view(rows) if options.peer else view(rows)
        Console(width=max(Console().width, TABLE_WIDTH)).print(table)
