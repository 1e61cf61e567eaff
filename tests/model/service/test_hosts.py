"""Requests that pages of other sites send, or that come by a name that only points here."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from model.service.hosts import Hosts
from stores.errors import ConfigError
from tests.model.service.conftest import free_port, listening

QUERY = {"src": "193.0.2.1", "dst": "198.51.101.7"}


@pytest.mark.parametrize(
    ("listens", "host", "allowed"),
    [
        (("127.0.0.1", "127.0.0.1"), "127.0.0.1:8000", True),
        (("127.0.0.1", "127.0.0.1"), "127.0.0.1", True),
        (("127.0.0.1", "127.0.0.1"), "LocalHost.:8000", True),
        (("127.0.0.1", "127.0.0.1"), "[::1]:8000", True),
        (("127.0.0.1", "127.0.0.1"), "[0:0:0:0:0:0:0:1]", True),
        (("127.0.0.1", "127.0.0.1"), "evil.example:8000", False),
        (("127.0.0.1", "127.0.0.1"), "localhost.evil.example", False),
        (("127.0.0.1", "127.0.0.1"), "192.0.2.5", False),
        (("127.0.0.1", "127.0.0.1"), "", False),
        (("127.0.0.1", "127.0.0.1"), "a@localhost", False),
        (("127.0.0.1", "127.0.0.1"), "localhost/x", False),
        (("127.0.0.1", "127.0.0.1"), "localhost:x", False),
        (("127.0.0.1", "127.0.0.1"), "localhost, evil.example", False),
        (("Box.example", "192.0.2.5"), "box.example:8000", True),
        (("Box.example", "192.0.2.5"), "192.0.2.5", True),
        (("Box.example", "192.0.2.5"), "192.0.2.6", False),
        (("Box.example", "192.0.2.5"), "localhost", False),
        (("2001:db8::5", "2001:db8::5"), "[2001:db8:0::5]:8000", True),
        (("2001:db8::5", "2001:db8::5"), "[2001:db8::6]:8000", False),
        (("0.0.0.0", "0.0.0.0"), "192.0.2.77:8000", True),
        (("0.0.0.0", "0.0.0.0"), "[2001:db8::6]", True),
        (("0.0.0.0", "0.0.0.0"), "localhost:1", True),
        (("0.0.0.0", "0.0.0.0"), socket.gethostname(), True),
        (("::", "::"), "evil.example", False),
        (("", "0.0.0.0"), "", False),
        (("fe80::1%eth0", "fe80::1%eth0"), "[fe80::1]:8000", True),
    ],
)
def test_hosts_are_those_it_listens_on(listens: tuple[str, str], host: str, allowed: bool) -> None:
    assert Hosts(*listens).allows(host) is allowed


def test_hosts_may_be_added() -> None:
    hosts = Hosts("127.0.0.1", "127.0.0.1", ["Pings.example.org", "2001:db8::5", "box:8000"])
    assert hosts.allows("pings.example.org:443")
    assert hosts.allows("[2001:db8::5]")
    assert hosts.allows("BOX")
    assert not hosts.allows("x.pings.example.org")
    assert str(hosts) == "127.0.0.1, 2001:db8::5, box, localhost, pings.example.org"


@pytest.mark.parametrize("name", ["", "*", "*.example.org", "http://pings.example.org", "a b"])
def test_a_malformed_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"--allowed-host .*: expected one name or address"):
        Hosts("127.0.0.1", "127.0.0.1", [name])


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        ("http://localhost:8000", "localhost:8000", True),
        ("http://LOCALHOST:8000", "localhost:8000", True),
        ("http://localhost:3000", "localhost:8000", False),
        ("http://127.0.0.1:8000", "localhost:8000", False),
        ("https://pings.example.org", "pings.example.org", True),
        ("https://pings.example.org", "127.0.0.1:8000", True),  # a proxy that changes Host
        ("https://evil.example", "127.0.0.1:8000", False),
        ("null", "127.0.0.1:8000", False),
        ("", "127.0.0.1:8000", False),
    ],
)
def test_an_origin_is_the_host_itself_or_an_added_one(
    origin: str, host: str, allowed: bool
) -> None:
    hosts = Hosts("127.0.0.1", "127.0.0.1", ["pings.example.org"])
    assert hosts.allows_origin(origin, host) is allowed


@pytest.fixture(scope="module")
def open_url(exported: Path, compile_cache: Path) -> Iterator[str]:
    """A server with an added name; it is enough that it listens."""
    options = ("--allowed-host", "pings.example.org")
    with listening(exported, compile_cache, free_port(), *options) as (_, url):
        yield url


@pytest.mark.parametrize("path", ["/", "/health", "/model", "/openapi.json", "/page/page.js"])
def test_a_foreign_host_gets_nothing(open_url: str, path: str) -> None:
    assert httpx.get(open_url + path).status_code in (200, 503)
    added = httpx.get(open_url + path, headers={"host": "pings.example.org"})
    assert added.status_code in (200, 503)
    foreign = httpx.get(open_url + path, headers={"host": "evil.example:8000"})
    assert foreign.status_code == 421
    (item,) = foreign.json()["detail"]
    assert item["loc"] == ["header", "host"]
    assert item["msg"] == (
        "'evil.example:8000': expected 127.0.0.1, localhost, pings.example.org: "
        "allow another name with --allowed-host"
    )


def test_a_page_of_another_site_cannot_ask(open_url: str) -> None:
    def post(origin: str) -> httpx.Response:
        headers = {"origin": origin, "content-type": "text/plain"}
        return httpx.post(f"{open_url}/predict_rtt", content=b"{}", headers=headers)

    for origin in ("http://evil.example", "null", "http://127.0.0.1:1"):
        response = post(origin)
        assert response.status_code == 403
        assert response.json()["detail"][0]["loc"] == ["header", "origin"]
    for origin in (open_url, "https://pings.example.org"):
        assert httpx.post(
            f"{open_url}/predict_rtt", json=QUERY, headers={"origin": origin}
        ).status_code in (200, 503)
