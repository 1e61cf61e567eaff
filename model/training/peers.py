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

import contextlib
import ipaddress
import json
import os
import queue
import socket
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

from stores.errors import ConfigError, TrainingError

MEETING = 300.0
"""Seconds that the processes wait for each other at the start."""
SILENCE = 45.0
"""Seconds without a sign of life after which a process counts as dead."""
BEAT = 5.0  # seconds between signs of life
HELLO = 10.0  # seconds that a new connection has for saying who it is
LONGEST_HELLO = 1000  # bytes
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


class _Lost(Exception):
    """A connection over which nothing more will come, and why."""


class _Link:
    """A connection to another process."""

    def __init__(self, connection: socket.socket):
        self._connection = connection
        self._lines = connection.makefile("rb")
        self._sending = threading.Lock()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def patience(self, seconds: float) -> None:
        """How long `receive` waits."""
        self._connection.settimeout(seconds)

    def send(self, **message: Any) -> None:
        """Send it; whoever receives from this connection will notice when it is broken."""
        with self._sending, contextlib.suppress(OSError):
            self._connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, most: int = -1) -> dict[str, Any]:
        """The next message, of at most that many bytes. Raises `_Lost`."""
        try:
            line = self._lines.readline(most)
            message = json.loads(line) if line.endswith(b"\n") else None
        except TimeoutError:
            raise _Lost("does not answer") from None
        except (OSError, ValueError):
            message = None
        if not isinstance(message, dict):
            raise _Lost("has died")
        return message

    def close(self) -> None:
        """Close it."""
        self._lines.close()
        self._connection.close()


class _Together(Peers):
    """What process 0 and the members have in common."""

    def __init__(self, place: Place, links: list[_Link]):
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

    def __init__(self, place: Place, members: dict[int, tuple[str, _Link]]):
        super().__init__(place, [link for _, link in members.values()])
        self._staying = set(members)
        self._change = threading.Condition()
        self._start()
        for process, (name, link) in members.items():
            who = f"process {process} of {place.processes} on {name}"
            threading.Thread(target=self._watch, args=(process, who, link), daemon=True).start()

    def _watch(self, process: int, who: str, link: _Link) -> None:
        try:
            while True:
                message = link.receive()
                if "failed" in message:
                    self._end_all(f"{who} has failed: {message['failed']}")
                if "left" in message:
                    with self._change:
                        self._staying.discard(process)
                        self._change.notify_all()
        except _Lost as loss:
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

    def __init__(self, place: Place, link: _Link):
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
        except _Lost as loss:
            self._end(f"{who} {loss}: {AGAIN}")

    def share(self, value: Any) -> Any:
        return self._values.get()

    def leave(self) -> None:
        self._tell(left=True)
        self._dismissed.wait()


def gather(place: Place, seconds: float = MEETING) -> tuple[Hub, str]:
    """Wait for all members, as process 0; returns also the address for JAX's own connections, HOST:PORT.

    Raises `ConfigError` when the address is taken or not one of this machine, or a process was given
    another number of processes, `TrainingError` when some do not come in time.
    """
    deadline = time.monotonic() + seconds
    members: dict[int, tuple[str, _Link]] = {}
    with _listen(place) as listener:
        host = listener.getsockname()[0]
        while len(members) < place.processes - 1:
            listener.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                link = _Link(listener.accept()[0])
            except TimeoutError:
                missing = [str(p) for p in range(1, place.processes) if p not in members]
                reason = (
                    f"{place.address}: process {', '.join(missing)} of {place.processes} did not come "
                    f"within {seconds:.0f} s: start all of them"
                )
                _dismiss([link for _, link in members.values()], reason)
                raise TrainingError(reason) from None
            link.patience(HELLO)
            try:
                hello = link.receive(LONGEST_HELLO)
                process, name = int(hello["process"]), str(hello["name"])
                processes = int(hello["processes"])
            except (_Lost, KeyError, TypeError, ValueError):
                link.close()  # not one of ours
                continue
            if processes != place.processes or process in {0, *members}:
                reason = (
                    f"{place.address}: a process on {name} says it is process {process} of {processes}: "
                    f"expected each of 0 to {place.processes - 1} of {place.processes} once"
                )
                _dismiss([link, *(link for _, link in members.values())], reason)
                raise ConfigError(reason)
            members[process] = (name, link)
        with socket.create_server((host, 0), family=listener.family) as probe:
            port: int = probe.getsockname()[1]
    for _, link in members.values():
        link.send(started=port)
    return Hub(place, members), f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _listen(place: Place) -> socket.socket:
    """A socket that listens where the others look for process 0, and on no other interface."""
    try:
        found = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
        if not _means_loopback(place.host) and all(_means_loopback(at[0]) for *_, at in found):
            # Debian's /etc/hosts calls the machine itself 127.0.1.1; the others know its real address.
            return _listen_everywhere(place.port)
        for family, *_, address in found:
            try:
                return socket.create_server(address[:2], family=family)
            except OSError as error:
                failure = error
        raise failure
    except OSError as error:
        raise ConfigError(
            f"{place.address}: process 0 cannot listen there: {error.strerror}: name an address of its "
            "machine and a free port"
        ) from error


def _means_loopback(host: str | int) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listen_everywhere(port: int) -> socket.socket:
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    return socket.create_server(("", port), family=family, dualstack_ipv6=both)


def visit(place: Place, seconds: float = MEETING) -> tuple[Member, int]:
    """Go to process 0 and wait until all have come, as any other process; returns also the port of
    JAX there. Raises `TrainingError` when it is not there in time, or says why it will not start."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            link = _Link(socket.create_connection((place.host, place.port), timeout=HELLO))
            break
        except OSError as error:
            if time.monotonic() > deadline:
                raise TrainingError(
                    f"{place.address}: process {place.process} of {place.processes} does not find process "
                    f"0 there ({error.strerror or error}): start it, or correct the address"
                ) from error
            time.sleep(0.2)
    link.send(process=place.process, processes=place.processes, name=socket.gethostname())
    link.patience(seconds + SILENCE)  # process 0 may have begun to wait later
    try:
        answer = link.receive()
        if "started" in answer:
            return Member(place, link), int(answer["started"])
        link.close()
        raise TrainingError(str(answer.get("failed")))
    except _Lost as loss:
        link.close()
        raise TrainingError(
            f"{place.address}: process 0 of {place.processes} has ended before all had come: {AGAIN}"
        ) from loss


def _dismiss(links: list[_Link], reason: str) -> None:
    for link in links:
        link.send(failed=reason)
        link.close()
