"""Which addresses a machine on the Internet can have; the rest are of no use to a model of it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is globally routable: not private (RFC 1918), loopback, link-local, multicast or kept for
    documentation, and not an IPv4 address written as an IPv6 one."""
    # an IPv4-mapped address counts as global from Python 3.13 on
    mapped = isinstance(address, IPv6Address) and address.ipv4_mapped is not None
    return address.is_global and not address.is_multicast and not mapped
