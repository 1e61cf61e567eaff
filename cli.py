"""The command line. Thin: each side has its commands in its own `commands.py`."""

from __future__ import annotations

import sys

import typer

import model.commands
import model.service.commands
import pipeline.commands
import stores.commands
from stores.errors import PinglmError

app = typer.Typer(
    name="pinglm",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def commands() -> None:
    """Train transformers on Internet latency: RIPE Atlas pings to token store to predictions."""


for side in (pipeline, stores, model, model.service):
    app.add_typer(side.commands.app)


INTERRUPTED = 130


def main() -> None:
    """Run the app: 0 done, 1 failed with one line on standard error, 2 usage, 130 interrupted."""
    try:
        app()
    except PinglmError as error:
        _fail(str(error), 1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}", 1)
    except SystemExit as leaving:  # how Typer ends, also on Ctrl-C
        if leaving.code == INTERRUPTED:
            _fail("interrupted; run the same command again to continue", INTERRUPTED)
        raise


def _fail(message: str, code: int) -> None:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
