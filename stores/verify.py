"""Checks that a store matches its manifest and that its tokens are valid, in one pass over every byte."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stores.array_metadata import metadata_files, metadata_problems
from stores.codec import decode_window
from stores.errors import DamagedStoreError, TokenError
from stores.files import sha256_file
from stores.grammar import NO_TIME, parse_windows
from stores.layout import MODES, chunk_file
from stores.manifest import Manifest, read_manifest
from stores.maps import ROW_BYTES
from stores.progress import Progress
from stores.reader import check_size, find_store
from stores.union import Store
from stores.vocabulary import CONTEXT, VOCABULARY_VERSION

_ROWS = 2048  # windows checked at once: 4 MiB
_NAMED = 3  # bad windows of an array that get a line of their own; the rest are only counted


@dataclass
class VerifyReport:
    """What `verify_store` found."""

    path: str
    digest: str | None = None
    """The store's identity, or `None` when not even the manifest is sound."""
    files: int = 0
    bytes: int = 0
    windows: int = 0
    measurements: int = 0
    problems: list[str] = field(default_factory=list)
    """One line for each thing that is damaged, naming it."""

    @property
    def sound(self) -> bool:
        return not self.problems


def verify_store(
    path: str | os.PathLike[str], progress: Progress = lambda done, total: None
) -> VerifyReport:
    """Check manifest, digests, zarr metadata, grammar and ledger; carry on after damage and report all of it.

    Raises `NotAStoreError` when there is no finished manifest. Memory is a few blocks of 4 MiB,
    whatever the store; about 150 MB/s, or 3 M measurements/s, on one core.
    """
    store = find_store(path)
    report = VerifyReport(str(store))
    try:
        manifest = read_manifest(store)
    except DamagedStoreError as error:
        report.problems.append(str(error))
        return report
    report.digest = manifest.digest
    _check_ledger(manifest, report.problems)
    _check_file_list(store, manifest, report.problems)
    _Bytes(store, manifest, report, progress).check()
    return report


def check_content(store: Store, progress: Progress = lambda done, total: None) -> None:
    """Raise `DamagedStoreError` naming the first file whose content is not what the manifest says, or that cannot
    be read, or what `progress(done, total)` raises, called after each file.

    A part of `verify_store`, for before or during a long training: about 1.5 GB/s.
    """
    files = [
        (part.path / name, file)
        for part in store.parts
        for name, file in part.manifest.files.items()
    ]
    done, total = 0, sum(file.size for _, file in files)
    for path, file in files:
        try:
            found = sha256_file(path)
        except OSError as error:
            raise DamagedStoreError(
                f"{path}: cannot be read ({error.strerror}): prepare the store again"
            ) from error
        if found != file.sha256:
            raise DamagedStoreError(
                f"{path}: SHA-256 is {found}, expected {file.sha256}: prepare the store again"
            )
        done += file.size
        progress(done, total)


def _check_ledger(manifest: Manifest, problems: list[str]) -> None:
    """Rows in = rows out + rows rejected, and every mode holds what the ledger says."""
    if manifest.vocabulary_version != VOCABULARY_VERSION:
        problems.append(
            f"manifest: vocabulary version {manifest.vocabulary_version}, "
            f"expected {VOCABULARY_VERSION}"
        )
    ledger = manifest.ledger
    rejected = sum(ledger.rejected.values())
    taken = ledger.taken(manifest.splits)
    if ledger.rows != sum(taken.values()) + rejected:
        parts = " + ".join(f"{rows} {split}" for split, rows in taken.items())
        problems.append(f"ledger: {ledger.rows} rows in, but {parts} + {rejected} rejected")
    passes = manifest.passes
    for split, rows in taken.items():
        for mode in MODES:
            found = manifest.arrays[f"{split}/{mode}"].measurements
            if found != rows * passes:
                problems.append(
                    f"ledger: {split}/{mode} holds {found} measurements, "
                    f"expected {rows} rows × {passes} passes"
                )


def _check_file_list(store: Path, manifest: Manifest, problems: list[str]) -> None:
    """The folder holds exactly the files of the layout, and zarr sees the arrays as the manifest describes them."""
    metadata = metadata_files(manifest.splits)
    for file in metadata:
        problems.extend(metadata_problems(store, manifest, file))
    expected = {"zarr.json", *metadata, *manifest.files}
    present = {file.relative_to(store).as_posix() for file in store.rglob("*") if not file.is_dir()}
    problems.extend(
        f"{store / name}: not part of the store: remove it" for name in sorted(present - expected)
    )


class _Bytes:
    """The pass over the chunk files: each is read once, hashed and parsed on the way."""

    def __init__(
        self, store: Path, manifest: Manifest, report: VerifyReport, progress: Progress
    ) -> None:
        self.store = store
        self.manifest = manifest
        self.report = report
        self.progress = progress
        self.seen: set[str] = set()  # files of the manifest that were looked at
        self.total = sum(file.size for file in manifest.files.values())

    def check(self) -> None:
        for split in self.manifest.splits:
            for mode in MODES:
                if self.manifest.arrays[f"{split}/{mode}"].windows:
                    self._check_array(split, mode)
        for name, file in self.manifest.files.items():
            path = self.store / name
            if name not in self.seen and self._present(path, file.size):  # not part of an array
                self._compare(path, sha256_file(path))
                self._advance(file.size)

    def _check_array(self, split: str, mode: str) -> None:
        array = self.manifest.arrays[f"{split}/{mode}"]
        windows, rows = array.windows, array.windows_per_chunk
        lengths = self._per_window(split, mode, "length", windows, array.tokens)
        counts = self._per_window(split, mode, "measurements", windows, array.measurements)
        tokens = None
        if lengths is not None and counts is not None:
            tokens = _TokensCheck(f"{self.store / split / mode}", mode, lengths, counts)
        for first in range(0, windows, rows):
            path = chunk_file(self.store, split, mode, "tokens", first // rows)
            self._check_chunk(path, first, rows, tokens)
        self.report.windows += windows
        self.report.measurements += array.measurements
        self.report.problems += tokens.problems() if tokens else []

    def _per_window(
        self, split: str, mode: str, name: str, windows: int, total: int
    ) -> NDArray[np.uint16] | None:
        """An array with one number per window, which should add up to `total`; `None` if its file is unusable."""
        path = chunk_file(self.store, split, mode, name)
        if not self._present(path, 2 * windows):
            return None
        self._compare(path, sha256_file(path))
        self._advance(2 * windows)
        values = np.fromfile(path, "<u2")
        found = int(values.sum(dtype=np.int64))
        if found != total:
            self.report.problems.append(
                f"{path}: adds up to {found}, but the manifest says {total}"
            )
        return values

    def _check_chunk(self, path: Path, first: int, rows: int, tokens: _TokensCheck | None) -> None:
        """Check a chunk file of `rows` rows, the array's `first` … ."""
        if not self._present(path, rows * ROW_BYTES):
            return
        digest = hashlib.sha256()
        with open(path, "rb", buffering=0) as file:
            for start in range(0, rows, _ROWS):
                block = file.read(min(_ROWS, rows - start) * ROW_BYTES)
                digest.update(block)
                if tokens:
                    tokens.check(np.frombuffer(block, "<u2").reshape(-1, CONTEXT), first + start)
                self._advance(len(block))
        self._compare(path, digest.hexdigest())

    def _present(self, path: Path, size: int) -> bool:
        """Whether a file of the manifest is there with its size."""
        self.report.files += 1
        self.seen.add(path.relative_to(self.store).as_posix())
        try:
            check_size(path, size)
        except DamagedStoreError as error:
            self.report.problems.append(str(error))
            self._advance(size)
            return False
        return True

    def _compare(self, path: Path, digest: str) -> None:
        expected = self.manifest.files[path.relative_to(self.store).as_posix()].sha256
        if digest != expected:
            self.report.problems.append(f"{path}: SHA-256 is {digest}, expected {expected}")

    def _advance(self, size: int) -> None:
        self.report.bytes += size
        self.progress(self.report.bytes, self.total)


class _TokensCheck:
    """Problems in one `tokens` array: the first few are described, the rest only counted."""

    def __init__(
        self, name: str, mode: str, lengths: NDArray[np.uint16], counts: NDArray[np.uint16]
    ) -> None:
        self._name = name
        self._mode = mode
        self._lengths = lengths
        self._counts = counts
        self._named: list[str] = []
        self._more = 0

    def check(self, tokens: NDArray[np.uint16], first: int) -> None:
        """Check windows `first` … of the array; rows past its last window are padding."""
        lengths = self._lengths[first : first + len(tokens)]
        counts = self._counts[first : first + len(tokens)]
        real, padding = tokens[: len(lengths)], tokens[len(lengths) :]
        if padding.any():
            self._report("padding rows after the last window: not zero")
        tail = np.arange(CONTEXT, dtype=np.uint16) >= lengths[:, None]
        for row in np.flatnonzero((real.astype(bool) & tail).any(axis=1)):
            self._report(
                f"window {first + row}: tokens past its length {lengths[row]} are not zero"
            )
        parsed = parse_windows(real, lengths)
        for row in parsed.bad:
            self._report(f"window {first + row}: {_explain(real[row], int(lengths[row]))}")
        good = np.delete(np.arange(len(real)), parsed.bad)
        found = np.bincount(parsed.window, minlength=len(real))
        for row in good[found[good] != counts[good]]:
            self._report(
                f"window {first + row}: {found[row]} measurements, "
                f"but the measurements array says {counts[row]}"
            )
        timed = parsed.time_role != NO_TIME
        if self._mode != "mixed":
            wrong = timed != (self._mode == "full")
            for row in np.unique(parsed.window[wrong]):
                self._report(
                    f"window {first + row}: a measurement {'with' if timed.any() else 'without'} time, "
                    f"but this is {self._mode}"
                )

    def _report(self, problem: str) -> None:
        if len(self._named) < _NAMED:
            self._named.append(f"{self._name}: {problem}")
        else:
            self._more += 1

    def problems(self) -> list[str]:
        """A line for each described problem, and one that counts the rest."""
        more = [f"{self._name}: and {self._more} more such problems"] if self._more else []
        return self._named + more


def _explain(window: NDArray[np.uint16], length: int) -> str:
    """What `decode_window` says is wrong with a bad window."""
    try:
        decode_window(window, length)
    except TokenError as error:
        return str(error)
    raise AssertionError("parse_windows found a window bad that decode_window accepts")
