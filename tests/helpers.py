"""Valid stores built from plain code only, for tests that should not depend on the pipeline."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from stores.codec import Measurement, encode_windows
from stores.files import sha256_file
from stores.layout import (
    MODES,
    SPLITS,
    VALIDATION,
    chunk_file,
    windows_per_chunk,
    write_array_metadata,
)
from stores.manifest import (
    FORMAT_VERSION,
    VALIDATION_FORMAT_VERSION,
    ArrayTotals,
    ChunkFile,
    InputDigest,
    LedgerTotals,
    Manifest,
    write_manifest,
)
from stores.vocabulary import CONTEXT, MEASUREMENT_START, VOCABULARY_VERSION


def random_measurements(count: int, seed: int = 0) -> list[Measurement]:
    """Measurements of a few sources in time order, source after source; both families, some failed."""
    rng = random.Random(seed)
    measurements: list[Measurement] = []
    while len(measurements) < count:
        v4 = rng.random() < 0.6
        source = IPv4Address(rng.getrandbits(32)) if v4 else IPv6Address(rng.getrandbits(128))
        time = rng.randrange(1_600_000_000, 1_700_000_000)
        for _ in range(min(rng.randrange(1, 120), count - len(measurements))):
            target = IPv4Address(rng.getrandbits(32)) if v4 else IPv6Address(rng.getrandbits(128))
            rtt = None if rng.random() < 0.05 else rng.lognormvariate(3.9, 1.0)
            time += rng.choice((0, 60, 240, 300, 7000))
            measurements.append(Measurement(source, target, rtt, time))
    return measurements


def windows_of_mode(
    measurements: Sequence[Measurement], mode: str, seed: int = 0
) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Tokens (windows, 1024) and lengths (windows,) of measurements written in a mode."""
    rng = random.Random(seed)
    measurements = list(measurements)
    if mode == "none":
        rng.shuffle(measurements)
    timed = [mode == "full" or (mode == "mixed" and rng.random() < 0.5) for _ in measurements]
    windows = encode_windows(zip(measurements, timed, strict=True))
    tokens = np.zeros((len(windows), CONTEXT), np.uint16)
    for row, window in enumerate(windows):
        tokens[row, : len(window)] = window
    return tokens, np.array([len(window) for window in windows], np.uint16)


def build_store(
    path: Path,
    *,
    train: int = 3000,
    test: int = 400,
    validation: int | None = None,
    seed: int = 0,
    per_chunk: int | None = None,
) -> Path:
    """A finished store of that many random measurements; `per_chunk` forces small chunk files."""
    counts = dict(zip(SPLITS, (train, test), strict=True))
    if validation is not None:
        counts[VALIDATION] = validation
    arrays = {}
    for at, split in enumerate(counts):
        measurements = random_measurements(counts[split], seed * 2 + at)
        for mode in MODES:
            arrays[split, mode] = windows_of_mode(measurements, mode, seed)
    return write_store(path, arrays, counts, per_chunk)


def write_store(
    path: Path,
    arrays: dict[tuple[str, str], tuple[NDArray[np.uint16], NDArray[np.uint16]]],
    counts: dict[str, int],
    per_chunk: int | None = None,
) -> Path:
    """A finished store of these tokens and lengths; `counts` are the measurements of each split."""
    windows = {key: len(lengths) for key, (_, lengths) in arrays.items()}
    described, written = {}, []
    for (split, mode), (tokens, lengths) in arrays.items():
        rows = per_chunk or windows_per_chunk(len(tokens))
        inside = np.arange(CONTEXT) < lengths[:, None]
        measurements = ((tokens == MEASUREMENT_START) & inside).sum(1).astype("<u2")
        described[f"{split}/{mode}"] = ArrayTotals(
            windows=len(tokens),
            windows_per_chunk=rows,
            measurements=int(measurements.sum()),
            tokens=int(lengths.sum(dtype=np.int64)),
        )
        files = [
            (chunk_file(path, split, mode, "length"), lengths),
            (chunk_file(path, split, mode, "measurements"), measurements),
        ]
        for first in range(0, len(tokens), rows):
            chunk = np.zeros((rows, CONTEXT), np.uint16)
            part = tokens[first : first + rows]
            chunk[: len(part)] = part
            files.append((chunk_file(path, split, mode, "tokens", first // rows), chunk))
        for file, values in files:
            if len(tokens):
                file.parent.mkdir(parents=True, exist_ok=True)
                values.astype("<u2").tofile(file)
                written.append(file)
    write_metadata(path, windows, per_chunk)
    manifest = Manifest(
        format_version=VALIDATION_FORMAT_VERSION if VALIDATION in counts else FORMAT_VERSION,
        vocabulary_version=VOCABULARY_VERSION,
        configuration={"tokenize": {"passes": 1, "seed": 0}},
        inputs=[InputDigest("random.parquet", 1, "0" * 64)],
        ledger=LedgerTotals(sum(counts.values()) + 3, rejected={"bad_rtt": 3}, **counts),
        arrays=described,
        files={
            str(file.relative_to(path)): ChunkFile(file.stat().st_size, sha256_file(file))
            for file in sorted(written)
        },
    )
    write_manifest(path, manifest)
    return path


def write_metadata(path: Path, windows: dict[tuple[str, str], int], per_chunk: int | None) -> None:
    """zarr metadata, with the chunk length forced where `per_chunk` is given."""
    write_array_metadata(path, windows)
    for split, mode in windows if per_chunk else ():
        file = path / split / mode / "tokens" / "zarr.json"
        metadata = json.loads(file.read_bytes())
        metadata["chunk_grid"]["configuration"]["chunk_shape"][0] = per_chunk
        file.write_text(json.dumps(metadata))


def flip_bit(folder: Path, rng: random.Random) -> Path:
    """Flip a random bit of a random file below `folder`; returns the file."""
    file = rng.choice(sorted(file for file in folder.rglob("*") if file.is_file()))
    content = bytearray(file.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)
    return file


def limited_to(kib: int) -> list[str]:
    """The words to put before a command so that it can write no larger file, as on a full disk. What it
    executes is not counted as covered: that would be written to such a file, too."""
    limit = f"unset COVERAGE_PROCESS_CONFIG; ulimit -f {kib}"
    return ["bash", "-c", f'{limit}; exec "$0" "$@"']


class Writes:
    """Which files were synced, and when, relative to their renaming; the system's own calls still run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._synced: list[tuple[int, int]] = []  # (device, inode), in order
        self._renamed: dict[Path, tuple[bool, int, tuple[int, int]]] = {}
        sync, rename = os.fsync, os.replace

        def noted_sync(descriptor: int) -> None:
            sync(descriptor)
            self._synced.append(_identity(os.fstat(descriptor)))

        def noted_rename(source: Path, target: Path) -> None:
            before = _identity(os.stat(source)) in self._synced
            rename(source, target)
            folder = _identity(os.stat(Path(target).parent))
            self._renamed[Path(target).resolve()] = (before, len(self._synced), folder)

        monkeypatch.setattr(os, "fsync", noted_sync)
        monkeypatch.setattr(os, "replace", noted_rename)

    def durable(self, path: Path) -> bool:
        """Whether `path` was synced, then renamed into place, and then its folder synced."""
        synced, after, folder = self._renamed[path.resolve()]
        return synced and folder in self._synced[after:]

    def synced(self, path: Path) -> bool:
        """Whether the file at `path` was synced at any time."""
        return self.count(path) > 0

    def count(self, path: Path) -> int:
        """How often the file at `path` was synced."""
        return self._synced.count(_identity(path.stat()))

    def names(self) -> list[Path]:
        """Everything that was renamed into place."""
        return list(self._renamed)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def break_window(store: Path, window: int) -> None:
    """Give a window of train/full of a small store a first token that none may have."""
    file = store / "train" / "full" / "tokens" / "c" / "0" / "0"
    values = np.fromfile(file, "<u2")
    values[window * CONTEXT] = 20
    values.tofile(file)
