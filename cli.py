"""The command line. Thin: one command, one call, one rendering."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from stores.errors import PinglmError

app = typer.Typer(
    name="pinglm",
    help="Train transformers on Internet latency: RIPE Atlas pings to token store to predictions.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

JsonOption = Annotated[bool, typer.Option("--json", help="Print only JSON on standard output.")]


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    json.dump(value, sys.stdout, indent=1, ensure_ascii=False)
    print()


def main() -> None:
    """Run the app: 0 done, 1 failed with one line on standard error, 2 usage, 130 interrupted."""
    try:
        app()
    except PinglmError as error:
        _fail(str(error), 1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}", 1)
    except KeyboardInterrupt:
        _fail("interrupted; run the same command again to continue", 130)


def _fail(message: str, code: int) -> None:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
