"""The command `serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from stores.commands import JsonOption

app = typer.Typer()


@app.command("serve")
def serve_command(
    model: Annotated[
        str, typer.Option("--model", help="A run, an export, or `pretrained`.")
    ] = "pretrained",
    host: Annotated[
        str,
        typer.Option(
            "--host",
            help="Address to listen at; others than this machine's own are open to others.",
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")
    ] = 8000,
    queue: Annotated[
        int, typer.Option("--queue", min=1, help="Questions that may wait; past it, 503.")
    ] = 256,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.1, help="Seconds a request may take.")
    ] = 30.0,
    as_json: JsonOption = False,
) -> None:
    """Serve a model over HTTP, with a web page at `/`. Stops on Ctrl-C. With --json, one line once it is ready.

    Example: `pinglm serve --model runs/a --port 8080`
    """
    from stores.errors import ConfigError

    try:
        from model.service.server import serve
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "uvicorn", "starlette", "pydantic"):
            raise
        raise ConfigError(
            f"serve: {error.name} is not installed: install it with pip install 'pinglm[serve]'"
        ) from None
    serve(model, host, port, queue, timeout, as_json)
