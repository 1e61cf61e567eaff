"""`python -m benchmarks` runs every benchmark; `python -m benchmarks NAME --help` shows one's options."""

from __future__ import annotations

import importlib
import sys

from rich.console import Console

NAMES = (
    "encode",
    "ingest",
    "prepare",
    "cluster",
    "streams",
    "loaders",
    "first_batch",
    "content_check",
    "train_step",
    "service",
)


def main() -> None:
    arguments = sys.argv[1:]
    chosen = [arguments.pop(0)] if arguments and not arguments[0].startswith("-") else NAMES
    if unknown := [name for name in chosen if name not in NAMES]:
        sys.exit(f"error: no benchmark {unknown[0]}: expected one of {', '.join(NAMES)}")
    for name in chosen:
        if len(chosen) > 1:
            Console(stderr=True).rule(name)
        importlib.import_module(f"benchmarks.{name}").main(arguments)


if __name__ == "__main__":
    main()
