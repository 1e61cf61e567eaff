"""Real processes, killed, stopped, on a full disk, on one device and on several."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from model.training.checkpoint import Checkpoints
from tests.model.conftest import (
    QUICK_COMPILE,
    assert_same_state,
    command,
    final_state,
    losses,
    run_train,
)

LONG = {"steps": 300, "save_every": 50, "eval_every": 1000, "log_every": 10}


@pytest.fixture(scope="module")
def undisturbed(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 300 steps that nothing happened to."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    done = run_train(store, out, **LONG)
    assert done.returncode == 0, done.stderr
    return out


def start_and_wait_for(
    store: Path, out: Path, checkpoint: int, *options: str, as_json: bool = True
) -> subprocess.Popen[str]:
    """The long run as a process, once the checkpoint of that step is there. Without `as_json` it
    reports its progress on standard error."""
    line = command(store, out, *options, **LONG)
    if not as_json:
        line.remove("--json")
    process = subprocess.Popen(
        line,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 90
    while not (out / "checkpoints" / str(checkpoint)).exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.002)
    return process


def test_a_killed_run_ends_in_the_same_bits(store: Path, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start_and_wait_for(store, out, 50)
    process.kill()
    process.communicate()
    assert not (out / "result.json").exists()
    done = run_train(store, out, **LONG)
    assert done.returncode == 0, done.stderr
    assert_same_state(out, undisturbed)
    assert losses(out) == losses(undisturbed)


def test_a_preempted_run_saves_exits_cleanly_and_ends_in_the_same_bits(
    store: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    for number, after, status in ((signal.SIGTERM, 50, 0), (signal.SIGUSR1, 150, 75)):
        told = ("--stopped-status", str(status)) if status else ()
        process = start_and_wait_for(store, out, after, *told)
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
        assert process.returncode == status, errors
        stopped = json.loads(output)
        assert stopped["stopped_by"] == number.name
        assert not stopped["finished"]
        assert after <= stopped["steps"] < 300
        with Checkpoints(out / "checkpoints", 10) as checkpoints:
            assert checkpoints.steps()[-1] == stopped["steps"]
    done = run_train(store, out, **LONG)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["finished"]
    assert_same_state(out, undisturbed)
    assert losses(out) == losses(undisturbed)


def test_ctrl_c_saves_and_exits_130(store: Path, tmp_path: Path) -> None:
    process = start_and_wait_for(store, tmp_path / "run", 50, as_json=False)
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    told = re.search(r"interrupted: saved at step (\d+)", errors)
    assert told, errors
    assert 50 <= int(told[1]) < 300
    assert not (tmp_path / "run" / "result.json").exists()
    with Checkpoints(tmp_path / "run" / "checkpoints", 10) as checkpoints:
        assert checkpoints.steps()[-1] == int(told[1])


def test_the_same_command_prints_the_finished_run(store: Path, undisturbed: Path) -> None:
    done = run_train(store, undisturbed, **LONG)
    assert done.returncode == 0
    shown = json.loads(done.stdout)
    assert shown.pop("first_look") == json.loads((undisturbed / "first_look.json").read_bytes())
    assert shown == json.loads((undisturbed / "result.json").read_bytes())


def test_a_save_that_cannot_be_written_leaves_the_previous_checkpoint(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file may grow past 150 kB from step 50 on: the next checkpoint needs one of 190 kB."""
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)  # nor could a file of coverage
    out = tmp_path / "run"
    process = start_and_wait_for(store, out, 50)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (150_000, 150_000))
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert re.fullmatch(r"error: .*cannot save.*step \d+ is intact.*\n", errors), errors
    kept = final_state(out)
    assert all(np.isfinite(value).all() for value in kept.values())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_full_disk_leaves_the_previous_checkpoint(store: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)],
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f"this machine does not let us mount: {mounted.stderr.strip()}")
    try:
        done = run_train(store, disk / "run", **LONG)
        assert done.returncode == 1
        assert re.fullmatch(r"error: .*No space left on device.*\n", done.stderr), done.stderr
        kept = final_state(disk / "run")  # whichever write failed first, a log's or a checkpoint's
        assert all(np.isfinite(value).all() for value in kept.values())
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def run_train_on(devices: int, store: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """A run on that many forced host devices."""
    flags = f"{QUICK_COMPILE} --xla_force_host_platform_device_count={devices}"
    return run_train(store, out, env={"XLA_FLAGS": flags})


def test_devices_do_not_change_the_losses(store: Path, tmp_path: Path) -> None:
    curves = []
    for count in (1, 2, 4):  # one by one: beside other tests, three at once take too long each
        done = run_train_on(count, store, tmp_path / f"{count}")
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)
        assert result["devices"] == count
        curves.append([loss for _, loss in result["losses"]])
        curves[-1].append(result["evaluation"]["loss"])
    np.testing.assert_allclose(curves[0], curves[1], rtol=2e-5)
    np.testing.assert_allclose(curves[0], curves[2], rtol=2e-5)


def test_a_batch_that_devices_cannot_share_is_refused(store: Path, tmp_path: Path) -> None:
    done = run_train_on(3, store, tmp_path / "run")
    assert done.returncode == 1
    assert "batch size 8 over 3 devices: expected a multiple of 3" in done.stderr


def test_errors_are_one_line_and_exit_1(tmp_path: Path) -> None:
    done = run_train(tmp_path / "none.zarr", tmp_path / "run")
    assert done.returncode == 1
    assert re.fullmatch(r"error: .*none.zarr: no finished manifest.*\n", done.stderr)
    assert done.stdout == ""


def test_dry_run_prints_the_plan_as_json(store: Path, tmp_path: Path) -> None:
    done = run_train(store, tmp_path / "run", "--dry-run")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["tokens_per_step"] == 8 * 128
    assert plan["parameters"]["total"] > plan["parameters"]["matrices"] > 0
    assert not (tmp_path / "run").exists()
