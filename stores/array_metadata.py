"""Checks of the `zarr.json` files below a store's root, which have no digest of their own: they must describe
the groups and arrays that the manifest describes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stores.layout import MODES
from stores.manifest import Manifest
from stores.vocabulary import CONTEXT


def metadata_files(splits: Sequence[str]) -> dict[str, tuple[str, str, str] | None]:
    """Every `zarr.json` below the root of a store with these splits, by its path relative to the store: the
    (split, mode, name) of its array, `None` for a group."""
    files: dict[str, tuple[str, str, str] | None] = {}
    for split in splits:
        files[f"{split}/zarr.json"] = None
        for mode in MODES:
            files[f"{split}/{mode}/zarr.json"] = None
            for name in ("tokens", "length", "measurements"):
                files[f"{split}/{mode}/{name}/zarr.json"] = (split, mode, name)
    return files


def metadata_problems(store: Path, manifest: Manifest, file: str) -> list[str]:
    """A line for each thing wrong with one of the `metadata_files`; empty if it is sound."""
    array = metadata_files(manifest.splits)[file]
    return (
        _group_problems(store / file) if array is None else _array_problems(store, manifest, array)
    )


def _group_problems(path: Path) -> list[str]:
    import zarr

    try:
        zarr.open_group(path.parent, mode="r", zarr_format=3)
    except Exception as error:  # of many classes, for metadata that is damaged
        return [f"{path}: zarr cannot open the group: {error!r}"]
    return []


def _array_problems(store: Path, manifest: Manifest, array_name: tuple[str, str, str]) -> list[str]:
    import zarr

    split, mode, name = array_name
    path = f"{split}/{mode}/{name}"
    described = manifest.arrays[f"{split}/{mode}"]
    windows, rows = described.windows, described.windows_per_chunk
    tail = (CONTEXT,) if name == "tokens" else ()
    try:
        array = zarr.open_array(store / path, mode="r")
    except Exception as error:  # as above
        return [f"{store / path / 'zarr.json'}: zarr cannot open the array: {error!r}"]
    found = {
        "shape": array.shape,
        "dtype": array.dtype.str,
        "chunks": array.chunks,
        "compressors": array.compressors,
    }
    expected = {
        "shape": (windows, *tail),
        "dtype": "<u2",
        "chunks": (rows, *tail) if name == "tokens" else (max(1, windows),),
        "compressors": (),
    }
    return [
        f"{store / path / 'zarr.json'}: {key} {found[key]}, expected {expected[key]}"
        for key in expected
        if found[key] != expected[key]
    ]
