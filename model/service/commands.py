"""The command `serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from stores.commands import JsonOption

app = typer.Typer()

PACKAGES = ("fastapi", "uvicorn", "starlette", "pydantic", "fastapi_offline", "prometheus_client")
"""What the extra `serve` brings."""


@app.command("serve")
def serve_command(
    model: Annotated[
        str, typer.Option("--model", help="Folder of a run or an export, or `pretrained`.")
    ] = "pretrained",
    host: Annotated[
        str,
        typer.Option(
            "--host",
            help="Address to listen on. Anything but a loopback address is reachable from other machines.",
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 picks a free one.")
    ] = 8000,
    queue: Annotated[
        int, typer.Option("--queue", min=1, help="Queries that may wait; beyond that, 503.")
    ] = 256,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.1, help="Seconds that a request may take.")
    ] = 30.0,
    allowed_hosts: Annotated[
        list[str] | None,
        typer.Option(
            "--allowed-host",
            metavar="NAME",
            help="Name that requests may be addressed to beside the address it listens on, as behind a proxy. "
            "May be given several times.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Serve a model over HTTP, with a web page at `/`, until Ctrl-C. --json prints one line once it is ready.

    Example: `pinglm serve --model runs/a --port 8080`
    """
    from stores.errors import ConfigError

    try:
        from model.service.server import serve
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in PACKAGES:
            raise
        raise ConfigError(
            f"serve: {package} is not installed: run pip install '.[serve]' in a clone of the "
            "repository, or install its wheel with the extra serve, as in 'FILE.whl[serve]'"
        ) from None
    serve(model, host, port, queue, timeout, allowed_hosts or (), as_json)
