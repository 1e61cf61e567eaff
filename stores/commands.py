"""The commands that look into a store, and what all commands have in common."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from stores.printable import printable, printable_json

if TYPE_CHECKING:
    from stores.copies import Copied

app = typer.Typer()

JsonOption = Annotated[bool, typer.Option("--json", help="Print only JSON on standard output.")]

StoreArgument = Annotated[
    str,
    typer.Argument(metavar="STORE", help="The store, the output folder it lies in, or its URL."),
]
FolderArgument = Annotated[Path, typer.Argument(metavar="STORE", help="The store's folder.")]
UrlArgument = Annotated[
    str, typer.Argument(metavar="URL", help="s3://…, gs://… or file://…; https://… to pull.")
]
ParallelOption = Annotated[
    int, typer.Option("--parallel", min=1, max=256, help="Files on their way at once.")
]
SplitName = Literal["train", "validation", "test"]
ModeName = Literal["full", "none", "mixed"]
DEFAULT_STORE = Path("data/store.zarr")


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    print(printable_json(value))


def local_store(store: str | Path, silent: bool) -> Path:
    """Where the store is on this machine: a URL's store is pulled into the cache first, with a progress bar and
    a line that says how long it took, unless `silent`. That another process pulls it, and this one waits, is said
    in any case."""
    from stores.urls import is_url

    if not is_url(str(store)):
        return Path(store)
    from stores.pull import cached
    from stores.views import progress_bar

    def wait(holder: str) -> None:
        print(printable(f"waiting for {holder}, which pulls {store}"), file=sys.stderr, flush=True)

    with progress_bar("pull", silent=silent) as progress:
        path, copied = cached(str(store), progress=progress, waiting=wait)
    if copied and not silent:
        print(copied_line("pulled", copied), file=sys.stderr)
    return path


def local_stores(stores: Sequence[str | Path], silent: bool) -> list[Path]:
    """Where each of the stores is on this machine, as `local_store` finds it."""
    return [local_store(store, silent) for store in stores]


def copied_line(verb: str, copied: Copied) -> str:
    """What was copied, from where to where, and how long it took, as one printable line."""
    from stores.views import size_text

    ends = [str(copied.store), copied.url]
    source, target = ends if verb == "pushed" else reversed(ends)
    rate = size_text(copied.sent_bytes / max(copied.seconds, 1e-9))
    new = (
        f"{copied.sent_files} of them new ({rate}/s)"
        if copied.sent_files
        else "all of them there already"
    )
    return printable(
        f"{verb} {source} to {target} in {copied.seconds:.1f} s: {copied.files} files, "
        f"{size_text(copied.bytes)}, {new}; digest {copied.digest}"
    )


@app.command("inspect-store")
def inspect_store_command(
    store: StoreArgument,
    split: Annotated[SplitName | None, typer.Option("--split", help="Only this split.")] = None,
    mode: Annotated[ModeName | None, typer.Option("--mode", help="Only this mode.")] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Also draw a figure into this .png or .html file.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Token statistics of a store: fill, field mix, delta widths, field orders, RTTs.

    Example: `pinglm inspect-store data/store.zarr --plot store.html`
    """
    from stores.inspect import inspect_store
    from stores.layout import MODES
    from stores.plot import check_plot_path, plot_report
    from stores.views import inspect_view, print_view, progress_bar

    if plot:
        check_plot_path(plot)
    path = local_store(store, silent=as_json)
    with progress_bar("inspect", silent=as_json) as progress:
        report = inspect_store(
            path, [split] if split else None, [mode] if mode else MODES, progress
        )
    if plot:
        plot_report(report, plot)
    if as_json:
        print_json(report.as_json())
    else:
        print_view(inspect_view(report))


@app.command("decode")
def decode_command(
    store: StoreArgument,
    split: Annotated[SplitName, typer.Option("--split", help="Which split.")] = "train",
    mode: Annotated[ModeName, typer.Option("--mode", help="Which timestamp mode.")] = "full",
    index: Annotated[int, typer.Option("--index", help="First window to show.")] = 0,
    count: Annotated[int, typer.Option("--count", help="How many windows.", min=1)] = 1,
    as_json: JsonOption = False,
) -> None:
    """Show windows of a store as tokens and as measurements.

    Example: `pinglm decode data/store.zarr --split train --mode mixed --index 7`
    """
    from stores import TokenStore
    from stores.decode import decode_windows
    from stores.views import decode_view, print_view

    opened = TokenStore.open(local_store(store, silent=as_json))
    windows = decode_windows(opened, split, mode, index, count)
    if as_json:
        print_json(
            {
                "path": str(opened.path),
                "digest": opened.digest,
                "windows": [window.as_json() for window in windows],
            }
        )
    else:
        print_view(decode_view(windows))


@app.command("verify-store")
def verify_store_command(store: StoreArgument, as_json: JsonOption = False) -> None:
    """Check every byte of a store: digests, grammar, ledger. On damage, name it and exit with 1.

    Example: `pinglm verify-store data/store.zarr`
    """
    from dataclasses import asdict

    from stores.verify import verify_store
    from stores.views import print_view, progress_bar, verify_view

    path = local_store(store, silent=as_json)
    with progress_bar("verify", silent=as_json) as progress:
        report = verify_store(path, progress)
    if as_json:
        print_json({"sound": report.sound, **asdict(report)})
    else:
        print_view(verify_view(report))
    if not report.sound:
        raise typer.Exit(1)


@app.command("push")
def push_command(
    store: FolderArgument,
    url: UrlArgument,
    parallel: ParallelOption = 16,
    as_json: JsonOption = False,
) -> None:
    """Copy a store to a bucket, every file checked. Run the same command again to continue.

    Example: `pinglm push data/store.zarr s3://bucket/pings`
    """
    from stores.push import push
    from stores.views import progress_bar

    with progress_bar("push", silent=as_json) as progress:
        copied = push(store, url, parallel=parallel, progress=progress)
    print_json(copied.as_json()) if as_json else print(copied_line("pushed", copied))


@app.command("pull")
def pull_command(
    url: UrlArgument,
    store: FolderArgument,
    parallel: ParallelOption = 16,
    as_json: JsonOption = False,
) -> None:
    """Copy a store from a bucket or web server, every file checked. Run the same command again to continue.

    Example: `pinglm pull s3://bucket/pings data/store.zarr`
    """
    from stores.pull import pull
    from stores.views import progress_bar

    with progress_bar("pull", silent=as_json) as progress:
        copied = pull(url, store, parallel=parallel, progress=progress)
    print_json(copied.as_json()) if as_json else print(copied_line("pulled", copied))
