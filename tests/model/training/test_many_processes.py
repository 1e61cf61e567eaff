"""Several processes that train one model: the same losses as one, and no end without the others."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.run_folder import RunRecord
from model.training.checkpoint import Checkpoints
from model.training.loop import train
from stores.errors import ConfigError
from stores.files import read_json_lines
from stores.layout import chunk_file
from stores.provenance import survey
from stores.reader import TokenStore
from tests.model.conftest import command, losses, small_config
from tests.stores.remote_servers import Files

pytestmark = pytest.mark.timeout(600)  # up to four processes start and compile

CONFIG: dict[str, Any] = {
    "prefix_rows": 0,
    "recall": False,
    "width": 16,
    "mlp": 16,
    "context": 64,
    "save_every": 5,
    "eval_every": 20,
}
"""Little to compile, for each of many processes compiles it; what is drawn at random stays on."""
PATIENCE = 300
"""Seconds for processes to start and compile on a machine that does much else."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def started(
    store: Path | str, out: Path, processes: int, rates: tuple[float, ...] = (), **overrides: Any
) -> Iterator[list[subprocess.Popen[str]]]:
    """A run of that many processes, each with one device and, if given, its own learning rate."""
    coordinator = f"127.0.0.1:{free_port()}"
    together = [
        subprocess.Popen(
            command(
                store,
                out,
                *("--coordinator", coordinator),
                *("--processes", str(processes), "--process", str(process)),
                **CONFIG | overrides | ({"learning_rate": rates[process]} if rates else {}),
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(processes)
    ]
    try:
        yield together
    finally:
        for process in together:
            process.kill()
            process.communicate()


def finish(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """Exit status, standard output and standard error of each."""
    said = [process.communicate(timeout=PATIENCE) for process in processes]
    return [(process.returncode, *texts) for process, texts in zip(processes, said, strict=True)]


def wait_for_checkpoint(processes: list[subprocess.Popen[str]], out: Path, step: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while not (out / "checkpoints" / str(step)).exists():
        for process in processes:
            assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def alone(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process with one device."""
    out = tmp_path_factory.mktemp("alone") / "run"
    train(small_config(**CONFIG), store, out)
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


def test_a_signal_to_one_of_four_saves_on_all_and_one_goes_on(
    store: Path, alone: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with started(store, out, 4) as four:
        wait_for_checkpoint(four, out, 5)
        four[2].send_signal(signal.SIGUSR1)
        first, *others = finish(four)
    assert (first[0], first[2]) == (0, "")
    assert others == [(0, "", "")] * 3
    stopped = json.loads(first[1])
    assert stopped["stopped_by"] == "SIGUSR1"
    assert stopped["devices"] == 4
    assert 5 <= stopped["steps"] < 20
    with Checkpoints(out / "checkpoints", 10) as checkpoints:
        assert checkpoints.steps()[-1] == stopped["steps"]

    assert train(small_config(**CONFIG), store, out).finished
    assert_same_run(out, alone)
    assert [step for step, _ in losses(out)] == [5, 10, 15, 20]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_other_with_one_line_and_any_number_goes_on(
    store: Path, alone: Path, tmp_path: Path, victim: int
) -> None:
    out = tmp_path / "run"
    config = small_config(**CONFIG)
    with started(store, out, 2) as processes:
        wait_for_checkpoint(processes, out, 5)
        processes[0].send_signal(signal.SIGSTOP)  # or it would end meanwhile
        with pytest.raises(ConfigError, match="another process is training in this folder"):
            train(config, store, out)
        processes[0].send_signal(signal.SIGCONT)

        processes[victim].kill()
        killed = time.monotonic()
        status, output, errors = finish([processes[1 - victim]])[0]
        assert time.monotonic() - killed < 60
    assert (status, output) == (1, "")
    assert re.fullmatch(rf"error: process {victim} of 2 .* has died: run .*\n", errors), errors

    if victim == 0:
        assert train(config, store, out).finished
    else:
        assert_two_finish(store, out)
    assert_same_run(out, alone)
    assert [step for step, _ in losses(out)] == [5, 10, 15, 20]


def assert_two_finish(store: Path, out: Path) -> None:
    """Process 0 alone reports, with a first look at the model that it takes once the other has ended."""
    with started(store, out, 2) as two:
        first, other = finish(two)
    assert (first[0], first[2]) == (0, "")
    assert other == (0, "", "")
    result = json.loads(first[1])
    look = result.pop("first_look")  # by process 0, once the other has ended
    assert look == json.loads((out / "first_look.json").read_bytes())
    assert result == json.loads((out / "result.json").read_bytes())
    assert result["devices"] == 2
    found = survey(TokenStore.open(store))
    assert RunRecord.read(out / "run.json").provenance == found
    with Checkpoints(out / "checkpoints", 10) as checkpoints:
        assert checkpoints.read_record(20).provenance == found


def test_a_store_at_a_url_is_pulled_by_one_of_them(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    files = Files(store)
    files.on_request = lambda count: time.sleep(
        0.05
    )  # so that nobody is done before the other asks
    out = tmp_path / "run"
    with files.serve() as url, started(url, out, 2, rates=(1e-3, 2e-3)) as both:
        ended = finish(both)
    waited = [
        errors for _, _, errors in ended if re.match("waiting for process [0-9]+ on ", errors)
    ]
    assert len(waited) == 1
    for status, output, errors in ended:  # all had the store when they compared their options
        assert (status, output) == (1, "")
        assert errors.splitlines()[-1].startswith("error: ")
        assert "has learning_rate=0.002, process 0 has 0.001: " in errors
    asked = [path for path in files.asked if path != "/zarr.json"]
    assert len(asked) == len(set(asked))


def test_damage_that_one_finds_in_the_store_ends_both(store: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(store, tmp_path / "store.zarr"))
    file = chunk_file(damaged, "train", "none", "tokens")
    data = bytearray(file.read_bytes())
    data[-3] ^= 1  # a last tail, which nothing but a digest looks at
    file.write_bytes(data)
    with started(damaged, tmp_path / "run", 2, steps=100_000) as processes:
        (status, _, said), (other_status, _, other_said) = finish(processes)
    assert (status, other_status) == (1, 1)
    assert said.startswith(f"error: {file}: SHA-256 is ")
    assert other_said.startswith(f"error: process 0 of 2 has failed: {file}: SHA-256 is ")
    assert said.count("\n") == other_said.count("\n") == 1


def test_a_process_with_other_options_is_named_by_all(store: Path, tmp_path: Path) -> None:
    with started(store, tmp_path / "run", 2, rates=(1e-3, 2e-3)) as both:
        ended = finish(both)
    for status, output, errors in ended:
        assert (status, output) == (1, "")
        assert re.fullmatch(
            r"error: .*process 1 of 2 has learning_rate=0.002, process 0 has 0.001: .*\n", errors
        ), errors
