"""The folder of a run: whose it is, and whether it is finished.

RUN/run.json             store digest, configuration and code version; written first
RUN/checkpoints/         see `checkpoint`
RUN/metrics.jsonl        a line per log step           RUN/tensorboard/  the same as events
RUN/evaluations.jsonl    a line per evaluation
RUN/profile/             XLA trace of a few early steps, with --profile
RUN/result.json          what the finished run prints; written last
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from model.config import Config, ModelConfig, TrainConfig
from stores.errors import CheckpointError
from stores.files import write_json
from stores.folder_lock import claim_folder
from stores.reader import TokenStore

SHAPE = ("vocabulary", "layers", "width", "heads", "mlp", "context")


@dataclass(frozen=True)
class Run:
    """A locked run folder that belongs to this store and configuration."""

    path: Path
    record: dict[str, Any]
    """What every checkpoint of the run is marked with."""

    def result(self) -> dict[str, Any] | None:
        """What the finished run reached, or `None`."""
        path = self.path / "result.json"
        return json.loads(path.read_bytes()) if path.exists() else None

    def finish(self, result: dict[str, Any]) -> None:
        """Write the result: the run counts as finished."""
        write_json(self.path / "result.json", result)


@contextmanager
def open_run(path: Path, config: Config, store: TokenStore) -> Iterator[Run]:
    """Make or reopen a run folder and hold its lock.

    Raises `OutputError` when `path` holds something else, `ConfigError` when another process trains
    there, `CheckpointError` when it belongs to another store, shape or configuration.
    """
    record = {
        "store_digest": store.digest,
        "config": config.as_dict(),
        "code_version": code_version(),
    }
    note = path / "run.json"
    with claim_folder(
        path,
        marker=note.name,
        lock=".lock",
        foreign="holds something else than a run: choose an empty or new folder",
        busy="another process is training in this folder",
    ):
        if note.exists():
            check_record(path, json.loads(note.read_bytes()), record)
        write_json(note, record)
        yield Run(path, record)


def check_record(where: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise `CheckpointError` when a run or checkpoint was made from another store, with another
    shape, or with another configuration (but for fields that do not alter what is learned)."""
    if before["store_digest"] != now["store_digest"]:
        raise CheckpointError(
            f"{where}: trained on the store {before['store_digest']}, not on {now['store_digest']}: "
            "name that store, or another --out"
        )
    old, new = (
        {**defaults(), **r["config"]["model"], **r["config"]["train"]} for r in (before, now)
    )
    if any(old[name] != new[name] for name in SHAPE):
        was, wanted = (" ".join(f"{name}={c[name]}" for name in SHAPE) for c in (old, new))
        raise CheckpointError(
            f"{where}: has the shape {was}, not {wanted}: use the same one, or another --out"
        )
    for name in fixed_fields():
        if old[name] != new[name]:
            raise CheckpointError(
                f"{where}: was started with {name}={old[name]}, not {new[name]}: use the same options, "
                "or another --out"
            )


def defaults() -> dict[str, Any]:
    """What a field was before there was one: an older run does not name it."""
    both = (*fields(ModelConfig), *fields(TrainConfig))
    return {f.name: f.default for f in both if f.default is not MISSING}


def fixed_fields() -> list[str]:
    """Fields that have to stay the same over a run."""
    both = (*fields(ModelConfig), *fields(TrainConfig))
    return [f.name for f in both if not f.metadata.get("free")]


@functools.cache
def code_version() -> str:
    """Version of the package, and the Git commit where it runs from a checkout (`+` when changed)."""
    version = importlib.metadata.version("pinglm")
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--dirty=+",
        "--abbrev=12",
    ]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return version
    return f"{version} ({commit.stdout.strip()})"
