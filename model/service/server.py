"""Runs the server, from loading the model to shutting down."""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence

import uvicorn

from model.service.app import make_app
from model.service.connections import BACKLOG, Connection
from model.service.hosts import Hosts
from model.service.ready import ReadyModel
from stores.errors import ConfigError
from stores.terminal import Terminal

STOP_SECONDS = 10  # for in-flight requests to finish


def serve(
    path: str,
    host: str,
    port: int,
    queue: int,
    timeout: float,
    allowed_hosts: Sequence[str] = (),
    as_json: bool = False,
) -> None:
    """Serve until SIGTERM or Ctrl-C; in-flight requests then get up to 10 s to finish.

    Listens at once and answers 503 until the model is ready; with `as_json`, prints one line then.
    Raises `CheckpointError` for the model and `ConfigError` for an address it cannot listen on, or a
    malformed name in `allowed_hosts`.
    """
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", level=logging.WARNING)
    listener = listen(host, port)
    hosts = Hosts(host, listener.getsockname()[0], allowed_hosts)
    model = ReadyModel(path, queue)
    url = address_of(listener)
    console = Terminal(stderr=True)
    if not ipaddress.ip_address(listener.getsockname()[0]).is_loopback:
        console.print("reachable from other machines, without a password", highlight=False)
    console.print(
        f"warming up at {url}; the first start compiles for about a minute", highlight=False
    )

    def progress(done: int, total: int) -> None:
        if console.is_terminal:
            console.begin_line()
            console.print(f"warming up {done}/{total}", end="", highlight=False)

    def done(failure: str | None) -> None:
        console.begin_line()
        if failure is None:
            console.print(f"ready: {url}  (Ctrl-C stops)", highlight=False, soft_wrap=True)
            if as_json:
                print(json.dumps({"url": url, "model": path}), flush=True)
        else:
            console.print(f"error: the model failed to start: {failure}", highlight=False)
            os.kill(os.getpid(), signal.SIGTERM)

    config = uvicorn.Config(
        make_app(model, hosts, timeout),
        http=Connection,
        ws="none",
        backlog=BACKLOG,
        log_level="error",  # its warnings are a line per malformed request: `connections` counts them
        access_log=False,
        timeout_graceful_shutdown=STOP_SECONDS,
        server_header=False,
    )
    # uvicorn stops on either signal and then raises it again; here, stopping is the normal way to end.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    model.start(progress, done)
    uvicorn.Server(config).run(sockets=[listener])
    if model.status == "failed to start":
        sys.exit(1)
    console.print("stopped", highlight=False)
    if not model.ready:
        # Its thread still compiles, and Python aborts where it cannot stop a thread.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises `ConfigError` if the address is in use or not one of this machine's."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigError(
            f"{host} port {port}: cannot listen there ({error.strerror or error}): "
            "choose another with --host or --port"
        ) from None


def address_of(listener: socket.socket) -> str:
    """The URL to open in a browser."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
