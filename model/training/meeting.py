"""How the processes of a run find each other: process 0 listens, the others come (see `model.training.peers`)."""

from __future__ import annotations

import ipaddress
import socket
import time

from model.training.link import Link, Lost
from model.training.peers import AGAIN, SILENCE, Hub, Member, Place
from stores.errors import ConfigError, TrainingError

MEETING = 300.0
"""Seconds that the processes wait for each other at the start."""
HELLO = 10.0  # seconds that a new connection has for saying who it is
LONGEST_HELLO = 1000  # bytes


def gather(place: Place, seconds: float = MEETING) -> tuple[Hub, str]:
    """Wait for all members, as process 0; returns also the address for JAX's own connections, HOST:PORT.

    Raises `ConfigError` when the address is taken or not one of this machine, or a process was given
    another number of processes, `TrainingError` when some do not come in time.
    """
    deadline = time.monotonic() + seconds
    members: dict[int, tuple[str, Link]] = {}
    with _listen(place) as listener:
        host = listener.getsockname()[0]
        while len(members) < place.processes - 1:
            listener.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                link = Link(listener.accept()[0])
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
            except (Lost, KeyError, TypeError, ValueError):
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
            link = Link(socket.create_connection((place.host, place.port), timeout=HELLO))
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
    except Lost as loss:
        link.close()
        raise TrainingError(
            f"{place.address}: process 0 of {place.processes} has ended before all had come: {AGAIN}"
        ) from loss


def _dismiss(links: list[Link], reason: str) -> None:
    for link in links:
        link.send(failed=reason)
        link.close()
