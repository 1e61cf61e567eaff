"""Where the arrays of a store are, and their zarr v3 metadata.

    store.zarr/zarr.json                       the manifest, in the attributes; written last
    store.zarr/{train,validation,test}/{full,none,mixed}/     validation only where it was asked for
        tokens/c/<chunk>/0                     uint16 (windows per chunk, 1024), raw little-endian rows
        length/c/0                             uint16 (windows,)
        measurements/c/0                       uint16 (windows,)

A chunk file of `tokens` holds whole rows and nothing else, so `np.memmap` of it equals zarr's own read.
The last chunk is padded with zero rows to full size, as zarr v3 demands: rows come from the shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stores.files import write_synced
from stores.vocabulary import CONTEXT

SPLITS = ("train", "test")
"""Of every store."""
VALIDATION = "validation"
WITH_VALIDATION = ("train", VALIDATION, "test")
"""Of a store with a validation split, in the order of time where the split is by time."""
MODES = ("full", "none", "mixed")
MAX_WINDOWS_PER_CHUNK = 8_192  # 16 MiB


def windows_per_chunk(windows: int) -> int:
    """Rows of every chunk file of a `tokens` array: the fewest files of at most 16 MiB, of equal size,
    so that the padding of the last one stays below one row per file."""
    chunks = max(1, -(-windows // MAX_WINDOWS_PER_CHUNK))
    return max(1, -(-windows // chunks))


def chunk_file(store: Path, split: str, mode: str, name: str, chunk: int = 0) -> Path:
    """Path of one chunk file; `name` is "tokens", "length" or "measurements" (one chunk each)."""
    folder = store / split / mode / name / "c" / str(chunk)
    return folder / "0" if name == "tokens" else folder


def write_array_metadata(store: Path, windows: Mapping[tuple[str, str], int]) -> None:
    """Write every `zarr.json` below the root for arrays of that many windows by (split, mode).

    Chunk files that are there stay. The root has no `zarr.json` yet: until `manifest.write_manifest`,
    the folder is no zarr group and no store.
    """
    import zarr  # readers of the store need only NumPy and msgspec

    files: dict[str, Any] = {}
    root = zarr.create_group(zarr.storage.MemoryStore(files), zarr_format=3)
    for (split, mode), count in windows.items():
        rows = windows_per_chunk(count)
        arrays = root.require_group(f"{split}/{mode}")
        for name, shape, chunks in (
            ("tokens", (count, CONTEXT), (rows, CONTEXT)),
            ("length", (count,), (max(1, count),)),
            ("measurements", (count,), (max(1, count),)),
        ):
            arrays.create_array(
                name,
                shape=shape,
                chunks=chunks,
                dtype="<u2",
                compressors=None,
                filters=None,
                fill_value=0,
            )
    for key, content in files.items():
        if key != "zarr.json":
            write_synced(store / key, content.to_bytes())
