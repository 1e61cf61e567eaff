"""The processes that train one model together: they meet, agree, and end together.

Process 0 listens at an address that all know, and every other process (a member) keeps one connection to
it. Over that go lines of JSON:

    {"process": 1, "processes": 2, "name": "node7"}    from a member, first
    {"started": 41234}      from process 0, once all are there: the port for JAX's own connections
    {"value": ...}          from process 0: what it alone knows
    {"left": true}          both ways: done
    {"failed": "..."}       both ways: why the run ends
    {}                      both ways, every few seconds: still there

A process whose connection closes before it has left, or from which nothing comes for `SILENCE`, has died.
JAX notices that later or, where it waits for an accelerator, never; so the others end here, each with one line.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from dataclasses import dataclass
from typing import Any

from model.training.link import Link, Lost

SILENCE = 45.0
"""Seconds without a sign of life after which a process counts as dead."""
BEAT = 5.0  # seconds between signs of life
AGAIN = "run the same command in every process again to continue from the last checkpoint"


@dataclass(frozen=True)
class Place:
    """Which of the processes this one is, and where they meet."""

    host: str
    port: int
    processes: int
    process: int
    local_device: int | None = None
    """The one device of the machine that this process uses; `None`: all of them."""

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"


class Peers:
    """The processes of a run, as one of them sees them. This one is alone."""

    process = 0
    processes = 1

    @property
    def over(self) -> bool:
        """Whether they have parted, in one way or the other."""
        return True

    def share(self, value: Any) -> Any:
        """`value` of process 0, in all processes; it has to be JSON-able. All call this in the same order."""
        return value

    def leave(self) -> None:
        """End well; returns once all processes have called it."""

    def fail(self, reason: str) -> None:
        """Make the others end with a line that says why this process does."""


class _Together(Peers):
    """What process 0 and the members have in common."""

    def __init__(self, place: Place, links: list[Link]):
        self.process = place.process
        self.processes = place.processes
        self._links = links
        self._over = threading.Event()
        self._ending = threading.Lock()

    @property
    def over(self) -> bool:
        return self._over.is_set()

    def _start(self) -> None:
        for link in self._links:
            link.patience(SILENCE)
        threading.Thread(target=self._beat, daemon=True).start()

    def _beat(self) -> None:
        while not self._over.wait(BEAT):
            self._tell()

    def _tell(self, **message: Any) -> None:
        for link in self._links:
            link.send(**message)

    def fail(self, reason: str) -> None:
        with self._ending:
            if not self._over.is_set():
                self._over.set()
                self._tell(failed=reason)

    def _end(self, reason: str) -> None:
        """End this process at once: its main thread may wait for devices that wait for the dead one."""
        with self._ending:
            if self._over.is_set():
                return
            if sys.stderr.isatty():
                sys.stderr.write("\x1b[?25h")  # the cursor, which a live view hides
            print(f"error: {reason}", file=sys.stderr, flush=True)
            os._exit(1)


class Hub(_Together):
    """Process 0: it watches the others and tells all of them what becomes of each."""

    def __init__(self, place: Place, members: dict[int, tuple[str, Link]]):
        super().__init__(place, [link for _, link in members.values()])
        self._staying = set(members)
        self._change = threading.Condition()
        self._start()
        for process, (name, link) in members.items():
            who = f"process {process} of {place.processes} on {name}"
            threading.Thread(target=self._watch, args=(process, who, link), daemon=True).start()

    def _watch(self, process: int, who: str, link: Link) -> None:
        try:
            while True:
                message = link.receive()
                if "failed" in message:
                    self._end_all(f"{who} has failed: {message['failed']}")
                if "left" in message:
                    with self._change:
                        self._staying.discard(process)
                        self._change.notify_all()
        except Lost as loss:
            if process in self._staying:
                self._end_all(f"{who} {loss}: {AGAIN}")
            link.close()

    def fail(self, reason: str) -> None:
        super().fail(f"process 0 of {self.processes} has failed: {reason}")

    def _end_all(self, reason: str) -> None:
        if not self._over.is_set():
            self._tell(failed=reason)
        self._end(reason)

    def share(self, value: Any) -> Any:
        self._tell(value=value)
        return value

    def leave(self) -> None:
        with self._change:
            self._change.wait_for(lambda: not self._staying)
        self._over.set()
        self._tell(left=True)


class Member(_Together):
    """Any process but the first."""

    def __init__(self, place: Place, link: Link):
        super().__init__(place, [link])
        self._link = link
        self._values: queue.Queue[Any] = queue.Queue()
        self._dismissed = threading.Event()
        self._start()
        who = f"process 0 of {place.processes} at {place.address}"
        threading.Thread(target=self._watch, args=(who,), daemon=True).start()

    def _watch(self, who: str) -> None:
        try:
            while True:
                message = self._link.receive()
                if "failed" in message:
                    self._end(message["failed"])
                if "value" in message:
                    self._values.put(message["value"])
                if "left" in message:
                    self._over.set()
                    self._link.close()
                    self._dismissed.set()
                    return
        except Lost as loss:
            self._end(f"{who} {loss}: {AGAIN}")

    def share(self, value: Any) -> Any:
        return self._values.get()

    def leave(self) -> None:
        self._tell(left=True)
        self._dismissed.wait()
