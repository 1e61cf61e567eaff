"""Reading the files of a model that may be damaged or not what they claim: exports and checkpoints.

    CHECKPOINT/sha256.json     {path within the checkpoint: hex SHA-256}, of the files in its items

Orbax and TensorStore check the structure of what they store, but not the numbers: without these digests a
flipped bit loads as another weight. Checkpoints from before they were written are read unchecked.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NoReturn

from model.saved import convert_saved
from stores.errors import CheckpointError
from stores.files import sha256_file, sync_file, write_json

DIGESTS_FILE = "sha256.json"
LARGEST_JSON = 1 << 20
"""Bytes. A description of a model has some hundreds, a vocabulary ten thousand."""


def regular_file(folder: Path, name: str) -> Path:
    """The path of the file `name` of a folder. Raises `CheckpointError` when there is none, or when it is
    a pipe, a device, or a link that leads out of the folder."""
    file = folder / name
    if not file.is_file():
        found = "it is not a regular file" if file.exists() or file.is_symlink() else "missing"
        raise CheckpointError(f"{file}: cannot be read ({found})")
    if not file.resolve().is_relative_to(folder.resolve()):
        raise CheckpointError(
            f"{file}: cannot be read (a link that leads out of the folder): put a copy of the file there"
        )
    return file


def read_object(folder: Path, name: str) -> dict[str, Any]:
    """The object in a JSON file of a folder. Raises `CheckpointError` when it cannot be read, is larger
    than `LARGEST_JSON`, or holds a number that is not finite or does not fit into 64 bits."""
    file = regular_file(folder, name)
    if file.stat().st_size > LARGEST_JSON:
        raise CheckpointError(
            f"{file}: has {file.stat().st_size} bytes, expected {LARGEST_JSON} at most"
        )
    try:
        values = json.loads(
            file.read_bytes(), parse_constant=_refuse, parse_float=_finite, parse_int=_integer
        )
        json.dumps(values, ensure_ascii=False).encode()  # text that cannot be printed fails here
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: cannot be read ({error})") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{file}: holds a {type(values).__name__}, expected an object")
    return values


def write_digests(checkpoint: Path) -> None:
    """Record the digests of all files in the checkpoint's items, and wait until all of it is on disk.

    Files beside the items are left out: Orbax still changes those when it commits the checkpoint.
    """
    files = [file for file in sorted(checkpoint.glob("*/**/*")) if file.is_file()]
    write_json(
        checkpoint / DIGESTS_FILE,
        {file.relative_to(checkpoint).as_posix(): sha256_file(file) for file in files},
    )
    for file in (*files, checkpoint / DIGESTS_FILE):
        sync_file(file)


def check_digests(checkpoint: Path, item: str) -> None:
    """Raise `CheckpointError` naming the first file of an item (a folder in the checkpoint) that is missing,
    damaged, or not in the checkpoint at all but behind a link."""
    try:
        files = [f for f in (checkpoint / item).rglob("*") if f.is_symlink() or not f.is_dir()]
        names = {file.relative_to(checkpoint).as_posix() for file in files}
        for name in sorted(names):
            regular_file(checkpoint, name)
        if not (checkpoint / DIGESTS_FILE).exists():
            return
        values = read_object(checkpoint, DIGESTS_FILE)
        digests = convert_saved(dict[str, str], values, checkpoint / DIGESTS_FILE)
        names |= {name for name in digests if name.startswith(f"{item}/")}
        for name in sorted(names):
            file = regular_file(checkpoint, name)
            if sha256_file(file) != digests.get(name):
                raise CheckpointError(
                    f"{file} is damaged: its digest is not that in {DIGESTS_FILE}"
                )
    except (CheckpointError, OSError) as error:
        raise unreadable(checkpoint, str(error)) from error


def unreadable(checkpoint: Path, reason: str) -> CheckpointError:
    """The error of a checkpoint that is of no use, with what to do about it."""
    return CheckpointError(
        f"{checkpoint}: cannot be read ({reason}): remove this folder to continue from the checkpoint before it"
    )


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text[:40]} is out of range")


def _integer(text: str) -> int:
    value = int(text)
    return value if abs(value) < 1 << 63 else _refuse(text)


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)
