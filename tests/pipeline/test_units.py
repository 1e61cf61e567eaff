"""Units of work on an executor that breaks."""

from __future__ import annotations

import concurrent.futures
import threading
from pathlib import Path
from typing import Any

import pytest

from pipeline.units import Unit, open_executor, run_units
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
