"""Several processes that train one model: the same losses as one, and no end without the others."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from model.training.checkpoint import Checkpoints
from stores.files import read_json_lines
from tests.model.conftest import QUICK_COMPILE, SMALL, command, losses

pytestmark = pytest.mark.timeout(600)  # up to four processes compile, each for four devices

DEVICES = 4
SHORT = {"save_every": 5, "eval_every": 20}
PATIENCE = 300
"""Seconds for processes to start and compile on a machine that does much else."""


def environment(devices: int) -> dict[str, str]:
    """Of a process with that many forced host devices."""
    flags = f"{QUICK_COMPILE} --xla_force_host_platform_device_count={devices}"
    return {**os.environ, "XLA_FLAGS": flags}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def start(store: Path, out: Path, processes: int) -> list[subprocess.Popen[str]]:
    """A run of that many processes, which share the devices."""
    coordinator = f"127.0.0.1:{free_port()}"
    return [
        subprocess.Popen(
            command(
                store,
                out,
                *("--coordinator", coordinator),
                *("--processes", str(processes), "--process", str(process)),
                **SHORT,
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(DEVICES // processes),
        )
        for process in range(processes)
    ]


def finish(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """Exit status, standard output and standard error of each."""
    try:
        said = [process.communicate(timeout=PATIENCE) for process in processes]
        return [
            (process.returncode, *texts) for process, texts in zip(processes, said, strict=True)
        ]
    finally:
        for process in processes:
            process.kill()


def wait_for_checkpoint(processes: list[subprocess.Popen[str]], out: Path, step: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while not (out / "checkpoints" / str(step)).exists():
        for process in processes:
            assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def alone(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process with all devices."""
    out = tmp_path_factory.mktemp("alone") / "run"
    status, _, errors = finish(start(store, out, 1))[0]
    assert status == 0, errors
    return out


def assert_same_run(out: Path, other: Path) -> None:
    """The same tokens in every interval exactly, and the same losses up to the order of sums."""
    for file in ("metrics.jsonl", "evaluations.jsonl"):
        lines, others = (read_json_lines(run / file) for run in (out, other))
        counts, other_counts = (
            [(line["step"], {k: v["tokens"] for k, v in line["kinds"].items()}) for line in of]
            for of in (lines, others)
        )
        assert counts == other_counts
        np.testing.assert_allclose(
            [line["loss"] for line in lines], [line["loss"] for line in others], rtol=2e-5
        )


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_do_not_change_batches_and_losses(
    store: Path, alone: Path, tmp_path: Path, processes: int
) -> None:
    out = tmp_path / "run"
    first, *others = finish(start(store, out, processes))
    assert first[0] == 0, first[2]
    assert first[2] == ""
    result = json.loads(first[1])
    assert result["devices"] == DEVICES
    assert result == json.loads((out / "result.json").read_bytes())
    assert others == [(0, "", "")] * (processes - 1)
    assert_same_run(out, alone)


def test_a_signal_to_any_process_saves_on_all_and_one_process_goes_on(
    store: Path, alone: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    processes = start(store, out, 2)
    wait_for_checkpoint(processes, out, 5)
    processes[1].send_signal(signal.SIGUSR1)
    ended = finish(processes)
    assert [status for status, _, _ in ended] == [0, 0], ended
    stopped = json.loads(ended[0][1])
    assert stopped["stopped_by"] == "SIGUSR1"
    assert 5 <= stopped["steps"] < SMALL["steps"]
    with Checkpoints(out / "checkpoints", 10) as checkpoints:
        assert checkpoints.steps()[-1] == stopped["steps"]
    status, _, errors = finish(start(store, out, 1))[0]
    assert status == 0, errors
    assert_same_run(out, alone)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_other_with_one_line_and_one_process_goes_on(
    store: Path, alone: Path, tmp_path: Path, victim: int
) -> None:
    out = tmp_path / "run"
    processes = start(store, out, 2)
    wait_for_checkpoint(processes, out, 5)
    processes[victim].kill()
    killed = time.monotonic()
    status, output, errors = finish([processes[1 - victim]])[0]
    assert time.monotonic() - killed < 60
    processes[victim].communicate()
    assert status == 1
    assert output == ""
    assert re.fullmatch(rf"error: process {victim} of 2 .* has died: run .*\n", errors), errors
    status, _, errors = finish(start(store, out, 1))[0]
    assert status == 0, errors
    assert_same_run(out, alone)
    assert [step for step, _ in losses(out)] == [5, 10, 15, 20]


def test_a_process_with_other_options_is_named_by_all(store: Path, tmp_path: Path) -> None:
    coordinator = f"127.0.0.1:{free_port()}"
    both = [
        subprocess.Popen(
            command(
                store,
                tmp_path / "run",
                *("--coordinator", coordinator, "--processes", "2", "--process", str(process)),
                learning_rate=1e-3 * (1 + process),
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(1),
        )
        for process in range(2)
    ]
    for status, output, errors in finish(both):
        assert (status, output) == (1, "")
        assert re.fullmatch(
            r"error: .*process 1 of 2 has learning_rate=0.002, process 0 has 0.001: .*\n", errors
        ), errors
