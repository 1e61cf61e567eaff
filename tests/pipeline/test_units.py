"""Units of work on an executor that breaks."""

from __future__ import annotations

import concurrent.futures
import os
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.memory import available_memory
from pipeline.units import WORKER_BYTES, Unit, affordable_workers, open_executor, run_units
from stores.errors import OutputError


class ForgetfulPool(concurrent.futures.Executor):
    """Accepts work just as it breaks, and never says what became of it."""

    _broken = "a child process terminated abruptly"

    def submit(self, *_: Any, **__: Any) -> concurrent.futures.Future[Any]:
        return concurrent.futures.Future()


@pytest.mark.timeout(20)
def test_work_that_a_broken_pool_forgot_is_not_waited_for(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="a worker process died"):
        run_units("split", [Unit("a", dict, ())], tmp_path, ForgetfulPool(), lambda *_: None)


def test_worker_processes_warm_up_before_the_first_unit(tmp_path: Path) -> None:
    warm = tmp_path / "warm"
    with open_executor(2, warm_up=warm.touch) as executor:
        executor.submit(int).result()
    assert warm.exists()


def test_an_interrupt_while_units_are_submitted_runs_none_of_those_that_wait(
    tmp_path: Path,
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def first() -> None:
        begun.set()
        go_on.wait(10)

    waiting = tmp_path / "waiting"
    with pytest.raises(KeyboardInterrupt), open_executor(1) as executor:  # noqa: PT012
        executor.submit(first)
        executor.submit(waiting.touch)
        begun.wait(10)
        threading.Timer(0.1, go_on.set).start()
        raise KeyboardInterrupt
    assert not waiting.exists()


def test_there_are_never_many_more_workers_than_units(tmp_path: Path) -> None:
    others = len(psutil.Process().children())  # of tests before this one
    with open_executor(40, at_once=2) as executor:
        units = [Unit(str(i), process_number, (i,)) for i in range(3)]
        run_units("any", units, tmp_path, executor, lambda *_: None)
        assert 2 <= len(psutil.Process().children()) - others <= 6  # one of them tracks resources


def process_number(_: int) -> dict[str, Any]:
    """A unit: the number of the process that it runs in."""
    return {"process": os.getpid()}


def test_there_are_only_as_many_workers_as_the_memory_suffices_for() -> None:
    assert affordable_workers(1) == 1
    assert 1 <= affordable_workers(10**9) <= 2 * available_memory() // WORKER_BYTES


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:   8 kB\n"}, 8 << 10),
        ({"proc/meminfo": "MemAvailable: 8 kB\n", "groups/memory.max": "5000\n"}, 5000),
        ({"proc/meminfo": "MemAvailable: 8 kB\n", "groups/memory.max": "max\n"}, 8 << 10),
        ({"groups/memory/memory.limit_in_bytes": "7000\n"}, 7000),
        ({"proc/self/cgroup": "0::/a/b\n", "groups/a/b/memory.max": "6000\n"}, 6000),
        (
            {
                "proc/self/cgroup": "4:cpu,memory:/a\n0::/\n",
                "groups/memory/a/memory.limit_in_bytes": "4000\n",
                "groups/memory.max": "5000",
            },
            4000,
        ),
    ],
)
def test_memory_is_what_is_free_or_what_a_container_is_allowed(
    files: dict[str, str], expected: int, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_memory(tmp_path / "proc", tmp_path / "groups") == expected


def test_where_the_system_names_neither_memory_is_that_of_the_machine(tmp_path: Path) -> None:
    assert available_memory(tmp_path, tmp_path) >= available_memory()


@pytest.mark.parametrize("text", ["", "{", "\0" * 64])
def test_a_unit_whose_marker_is_lost_runs_again(text: str, tmp_path: Path) -> None:
    units = [Unit("a", dict, ((("rows", 3),),)), Unit("b", dict, ((("rows", 4),),))]
    with open_executor(1) as executor:
        first = run_units("split", units, tmp_path, executor, lambda *_: None)
        (tmp_path / "a.json").write_text(text)
        done: list[tuple[int, int]] = []
        again = run_units(
            "split", units, tmp_path, executor, lambda _, count, of: done.append((count, of))
        )
    assert first == again == [{"rows": 3}, {"rows": 4}]
    assert done == [(1, 2), (2, 2)]
