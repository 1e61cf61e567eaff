"""The names that the service answers to.

Without a password, what keeps the pages of other sites out is the browser: it lets no page read what another
origin answers. But a page whose own name is made to point at this machine (DNS rebinding) has the same
origin; only the name in its requests, `Host`, tells it apart. What a foreign page may still do is send a
request, whose answer it cannot read; `Origin` tells.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address

from stores.errors import ConfigError

NETLOC = re.compile(r"(\[[0-9a-f:.]+\]|[^][:/?#@\s]+)(:[0-9]+)?")
"""Host and port as in `Host`, lower case."""


class Hosts:
    """The address that the service listens on, and the names allowed beside it."""

    def __init__(self, host: str, address: str, allowed: Iterable[str] = ()):
        """`host` is what was asked for and `address` the numeric one it stands for.

        A loopback address is also allowed as any other of them, or as localhost. Where the service listens
        on all addresses, each is allowed, and so are localhost and the name of this machine: a page can
        come by none of these without coming from here. Raises `ConfigError` for a malformed name.
        """
        self._address = ip_address(address)
        self._added = {_allowed_name(name) for name in allowed}
        self._names = {host.lower()}
        if self._address.is_loopback or self._address.is_unspecified:
            self._names.add("localhost")
        if self._address.is_unspecified:
            self._names.add(socket.gethostname().lower())

    def allows(self, host: str) -> bool:
        """Whether requests with this `Host` are answered."""
        name = _name_of(host)
        if name and name in self._names | self._added:
            return True
        address = _address_of(name)
        if address is None:
            return False
        ours = self._address  # which may have a scope, as in fe80::1%eth0
        same = address.packed == ours.packed
        return same or ours.is_unspecified or (ours.is_loopback and address.is_loopback)

    def allows_origin(self, origin: str, host: str) -> bool:
        """Whether a page of this `Origin` may send requests to this `Host`: if it comes from there, or from
        an added name, as behind a proxy that changes `Host`."""
        netloc = origin.lower().partition("://")[2]
        return bool(netloc) and (netloc == host.lower() or _name_of(netloc) in self._added)

    def __str__(self) -> str:
        """For messages: the names, and the addresses if not all are allowed."""
        every = self._address.is_unspecified
        address = "any address of this machine" if every else str(self._address)
        return ", ".join([address, *sorted((self._names | self._added) - {str(self._address)})])


def _name_of(netloc: str) -> str:
    """The name or address in `host[:port]`, "" if malformed: lower case, without brackets and a final dot."""
    match = NETLOC.fullmatch(netloc.lower())
    return match[1].strip("[]").removesuffix(".") if match else ""


def _address_of(name: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(name)
    except ValueError:
        return None


def _allowed_name(text: str) -> str:
    """The name or address that `--allowed-host` gives. Raises `ConfigError`."""
    address = _address_of(text)
    name = str(address) if address else _name_of(text)
    if not name or "*" in name:
        raise ConfigError(
            f"--allowed-host {text!r}: expected one name or address, as in pings.example.org"
        )
    return name
