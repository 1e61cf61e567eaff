"""The job scripts of `cluster/` on a real SLURM: they make what one process makes, whatever interrupts them.

To be run by `make cluster-test`; its name keeps it out of `make test`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from stores.reader import TokenStore
from tests.model.conftest import SMALL, command
from tests.model.training.test_many_processes import CONFIG, assert_same_run

ROOT = Path(__file__).parents[2]
PATIENCE = 240
"""Seconds for a step of a job on a machine that does much else."""
NODES = ("--nodes=2", "--cpus-per-task=1", "--mem-per-cpu=1G", "--time=8", "--signal=USR1@30")
INPUT = ("--rows", "20000", "--rows-per-shard", "2000", "--seed", "3")
STEPS = 60
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")

pytestmark = pytest.mark.timeout(4 * PATIENCE)


class Job:
    """A script of `cluster/`, submitted."""

    def __init__(self, folder: Path, script: str, *arguments: object):
        self.log = folder / f"{script}.log"
        self._submit(f"--output={self.log}", *NODES, ROOT / "cluster" / script, *arguments)

    def _submit(self, *arguments: object) -> None:
        found = subprocess.run(
            ["sbatch", "--parsable", *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert found.returncode == 0, found.stderr
        self.number = found.stdout.strip()

    def field(self, name: str) -> str:
        """What SLURM says of the job, such as JobState."""
        said = slurm("scontrol", "--oneliner", "show", "job", self.number)
        found = re.search(rf"\b{name}=(\S+)", said)
        assert found, said
        return found[1]

    def wait_for(self, event: Callable[[], bool]) -> None:
        """Wait; fail if the job ends before the event."""
        deadline = time.monotonic() + PATIENCE
        while not event():
            state = self.field("JobState")
            assert state not in ENDED or event(), f"{state}: {self.log.read_text()}"
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def end(self) -> str:
        """Wait for its end; returns its last state."""
        deadline = time.monotonic() + PATIENCE
        while (state := self.field("JobState")) not in ENDED:
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.2)
        return state

    def wait_for_restart(self, number: int) -> None:
        self.wait_for(lambda: self.field("Restarts") == str(number))

    def tasks(self) -> list[psutil.Process]:
        """The processes of its step, on both nodes."""
        found = []
        for process in psutil.process_iter(["environ"]):
            given = process.info["environ"] or {}
            if given.get("SLURM_JOB_ID") == self.number and "SLURM_STEP_NODELIST" in given:
                found.append(process)
        return found

    def freeze(self) -> None:
        """Halt the tasks, so that they do not end before something happens to them."""
        for task in self.tasks():
            task.suspend()

    def resume(self) -> None:
        for task in self.tasks():
            task.resume()


def slurm(*arguments: str) -> str:
    return subprocess.run(arguments, check=True, capture_output=True, text=True).stdout


def preempt() -> None:
    """Something urgent needs both nodes for a second."""
    options = ("--partition=urgent", "--nodes=2", "--time=1", "--output=/dev/null")
    slurm("sbatch", *options, "--wrap", "sleep 1")


@pytest.fixture(scope="module")
def plain_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store that one process makes, outside SLURM."""
    out = tmp_path_factory.mktemp("plain")
    subprocess.run(
        [sys.executable, "cli.py", "prepare", *INPUT, "--workers", "1", "--out", out],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return out / "store.zarr"


def test_prepare_is_preempted_and_makes_the_store_of_one_process(
    plain_store: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    job = Job(tmp_path, "prepare.sbatch", *INPUT, "--out", out)
    job.wait_for(lambda: any(out.rglob("*.parquet")))
    job.freeze()
    assert not (out / "store.zarr" / "manifest.json").exists()
    preempt()  # SLURM makes halted processes go on, and asks them to stop
    job.wait_for_restart(1)
    assert job.end() == "COMPLETED", job.log.read_text()
    assert TokenStore.open(out / "store.zarr").digest == TokenStore.open(plain_store).digest


def train_options(store: Path, out: Path) -> list[str]:
    """The options of a run that takes a few seconds."""
    options = command(store, out, **SMALL | CONFIG | {"steps": STEPS})
    return options[options.index("--store") :]


def has_saved(out: Path, step: int) -> bool:
    """Whether a run has a checkpoint of at least that step."""
    return any(int(p.name) >= step for p in out.glob("checkpoints/*") if p.name.isdecimal())


def test_training_is_signalled_and_preempted_and_cancelled_and_ends_like_one_process(
    plain_store: Path, tmp_path: Path
) -> None:
    alone, out = tmp_path / "alone", tmp_path / "run"
    subprocess.run(
        [sys.executable, "cli.py", "train", *train_options(plain_store, alone)],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
    )

    job = Job(tmp_path, "train.sbatch", *train_options(plain_store, out))
    job.wait_for(lambda: len(job.tasks()) >= 2)
    slurm("scancel", "--signal=USR1", job.number)  # too early for it to save
    job.wait_for_restart(1)

    job.wait_for(lambda: has_saved(out, 5))
    job.freeze()
    preempt()
    job.wait_for_restart(2)

    job.wait_for(lambda: has_saved(out, 15))
    job.freeze()
    slurm("scancel", "--signal=USR1", job.number)  # as before the end of the time
    job.resume()
    job.wait_for_restart(3)

    job.wait_for(lambda: has_saved(out, 25))
    job.freeze()
    slurm("scancel", job.number)
    assert job.end() == "CANCELLED"
    assert not (out / "result.json").exists()
    assert job.field("Restarts") == "3"

    again = Job(tmp_path, "train.sbatch", *train_options(plain_store, out))
    assert again.end() == "COMPLETED", again.log.read_text()
    assert_same_run(out, alone)
    said = again.log.read_text()
    assert said.count('"stopped_by": "SIGTERM"') >= 1
    assert said.count('"stopped_by": "SIGUSR1"') == 1


@pytest.mark.parametrize(
    ("script", "option", "error"),
    [
        ("prepare.sbatch", "--input", "no such file or folder"),
        ("train.sbatch", "--store", "no finished manifest"),
    ],
)
def test_an_error_ends_a_job_with_its_line_and_is_not_tried_again(
    tmp_path: Path, script: str, option: str, error: str
) -> None:
    job = Job(tmp_path, script, option, tmp_path / "nothing", "--out", tmp_path / "out")
    assert job.end() == "FAILED"
    assert (job.field("Restarts"), job.field("ExitCode")) == ("0", "1:0")
    said = job.log.read_text()
    assert re.search(f"^error: .*{error}", said, re.MULTILINE)
    assert "Traceback" not in said
