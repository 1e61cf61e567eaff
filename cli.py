"""The command line. It is thin: each room keeps its commands in its own `commands.py`."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import model.commands
import model.evaluate.commands
import model.inference.commands
import model.runs.commands
import model.service.commands
import pipeline.commands
import pipeline.fetch.commands
import stores.commands
from stores.errors import PinglmError
from stores.printable import printable

UsageError: Any = typer.BadParameter.__bases__[0]  # its home depends on Typer's version


class Commands(TyperGroup):
    """The commands, whose usage errors show what was typed (or what a glob stood for) as `printable` does."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        with _printable_usage_errors():
            return super().make_context(*arguments, **options)

    def invoke(self, *arguments: Any, **options: Any) -> Any:
        with _printable_usage_errors():
            return super().invoke(*arguments, **options)


@contextmanager
def _printable_usage_errors() -> Iterator[None]:
    try:
        yield
    except UsageError as error:
        error.message = printable(error.message)
        raise


app = typer.Typer(
    name="pinglm",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def show_version(wanted: bool) -> None:
    """Print the version and end, if it is asked for."""
    if wanted:
        print(f"pinglm {version('pinglm')}")
        raise typer.Exit


@app.callback()
def commands(
    version_only: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=show_version, is_eager=True),
    ] = False,
) -> None:
    """Train transformers on Internet latency: from RIPE Atlas pings to a token store to predictions."""


SIDES = (
    pipeline,
    pipeline.fetch,
    stores,
    model,
    model.runs,
    model.evaluate,
    model.inference,
    model.service,
)
for side in SIDES:
    app.add_typer(side.commands.app)


INTERRUPTED = 130

EXTRAS = {
    "prepare": ("polars", "pyarrow", "numba"),
    "train": (
        "jax",
        "flax",
        "optax",
        "orbax",
        "safetensors",
        "ml_dtypes",
        "tensorboardX",
        "matplotlib",
        "jinja2",
    ),
    "serve": ("fastapi", "uvicorn", "fastapi_offline", "prometheus_client"),
    "cluster": ("distributed",),
    "cloud": ("obstore",),
}
"""The packages that each extra of pyproject.toml installs, by the names they are imported under."""

EXTRA_OF = {package: extra for extra, packages in EXTRAS.items() for package in packages}


def main() -> None:
    """Run the app. Exits 0 (done), 1 (failed, one line on standard error), 2 (usage) or 130 (interrupted)."""
    try:
        app()
    except PinglmError as error:
        _fail(str(error), 1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}", 1)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRA_OF:
            raise
        _fail(
            f"{package} is not installed: this command needs the extra `{EXTRA_OF[package]}`: "
            f"run pip install '.[{EXTRA_OF[package]}]' in the clone",
            1,
        )
    except SystemExit as leaving:  # how Typer ends, also on Ctrl-C
        if leaving.code == INTERRUPTED:
            _fail("interrupted; run the same command again to continue", INTERRUPTED)
        raise
    finally:
        gc.freeze()  # or the exit takes 0.2 s more, to walk through all that the imported modules hold


def _fail(message: str, code: int) -> None:
    print("error: " + printable(" ".join(message.split())), file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
