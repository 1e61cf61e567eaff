"""Random batches of 32 windows: the store beside `np.memmap`, zarr, and the loaders of others.

All hold the same windows, in the page cache, and run on one core, in turns, in one process. Time is the
process's CPU time (nothing waits for a disk here), and the best turn of each counts, so that a busy
machine changes little.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from stores import MixtureSampler, TokenStore
from stores.layout import MODES, SPLITS, chunk_file, windows_per_chunk, write_array_metadata
from stores.manifest import (
    FORMAT_VERSION,
    ArrayTotals,
    ChunkFile,
    LedgerTotals,
    Manifest,
    write_manifest,
)
from stores.vocabulary import CONTEXT, VOCABULARY_SIZE, VOCABULARY_VERSION

BATCH = 32
WINDOWS = 40_000  # 80 MB a mode
TURNS = 7
TURN_SECONDS = 0.25

Tokens = NDArray[np.uint16]
Gather = Callable[[int, NDArray[np.int64]], Tokens]
"""Called as gather(step, rows (32,)); loaders with an order of their own look at the step only."""


def make_store(path: Path, windows: int) -> Path:
    """A store of random tokens, `windows` in each array of train and a chunk's worth of none in test."""
    rng = np.random.default_rng(0)
    counts = {
        (split, mode): windows if split == "train" else 0 for split in SPLITS for mode in MODES
    }
    arrays, files = {}, {}
    for (split, mode), count in counts.items():
        rows = windows_per_chunk(count)
        arrays[f"{split}/{mode}"] = ArrayTotals(count, rows, count, count * CONTEXT)
        contents = [
            (chunk_file(path, split, mode, "length"), np.full(count, CONTEXT, "<u2")),
            (chunk_file(path, split, mode, "measurements"), np.ones(count, "<u2")),
        ]
        for chunk in range(-(-count // rows)):
            tokens = rng.integers(0, VOCABULARY_SIZE, (rows, CONTEXT), dtype="<u2")
            contents.append((chunk_file(path, split, mode, "tokens", chunk), tokens))
        for file, content in contents if count else ():
            file.parent.mkdir(parents=True, exist_ok=True)
            content.tofile(file)
            files[file.relative_to(path).as_posix()] = ChunkFile(content.nbytes, "")
    write_array_metadata(path, counts)
    ledger = LedgerTotals(0, 0, 0, {})  # random tokens, made from no rows
    write_manifest(
        path, Manifest(FORMAT_VERSION, VOCABULARY_VERSION, {}, [], ledger, arrays, files)
    )
    return path


# --- Each opens the windows for itself, under `folder`, and gives a function that reads a batch -----


def open_memmap(store: TokenStore, folder: Path) -> Gather:
    path = folder / "one.bin"
    with open(path, "wb") as file:
        for _, tokens, _ in store.blocks("train", "full"):
            tokens.tofile(file)
    mapped = np.memmap(path, "<u2", "r", shape=(store.windows("train", "full"), CONTEXT))
    return lambda step, rows: mapped[rows]


def open_gather(store: TokenStore, folder: Path) -> Gather:
    return lambda step, rows: store.gather("train", "full", rows)


def open_sampler(store: TokenStore, folder: Path) -> Gather:
    sampler = MixtureSampler(store, "train", BATCH, 0)
    return lambda step, rows: sampler.batch(step)[0]


def open_zarr(store: TokenStore, folder: Path) -> Gather:
    """zarr-python reads whole chunks, so it gets a copy with one window a chunk, its best case."""
    import zarr

    shape = (store.windows("train", "full"), CONTEXT)
    array = zarr.create_array(
        folder / "tokens.zarr",
        shape=shape,
        chunks=(1, CONTEXT),
        shards=(min(shape[0], 1024), CONTEXT),
        dtype="<u2",
        compressors=None,
    )
    for first, tokens, _ in store.blocks("train", "full"):
        array[first : first + len(tokens)] = tokens
    return lambda step, rows: np.asarray(array.oindex[rows])


def open_datasets(store: TokenStore, folder: Path) -> Gather:
    import datasets

    datasets.disable_progress_bars()
    features = datasets.Features(
        {"tokens": datasets.Sequence(datasets.Value("uint16"), length=CONTEXT)}
    )
    rows = ({"tokens": row} for _, tokens, _ in store.blocks("train", "full") for row in tokens)
    made = datasets.Dataset.from_list(list(rows), features=features)
    made.save_to_disk(folder / "datasets")
    loaded = datasets.load_from_disk(folder / "datasets").with_format("numpy", dtype=np.uint16)
    return lambda step, rows: loaded[rows]["tokens"]


def open_mds(store: TokenStore, folder: Path) -> Gather:
    from streaming import LocalDataset, MDSWriter

    column = f"ndarray:uint16:{CONTEXT}"
    with MDSWriter(out=str(folder / "mds"), columns={"tokens": column}) as writer:
        for _, tokens, _ in store.blocks("train", "full"):
            for row in tokens:
                writer.write({"tokens": row})
    dataset = LocalDataset(str(folder / "mds"))
    return lambda step, rows: np.stack([dataset[row]["tokens"] for row in rows.tolist()])


def _write_array_record(store: TokenStore, folder: Path) -> str:
    from array_record.python.array_record_module import ArrayRecordWriter

    path = str(folder / "tokens.array_record")
    writer = ArrayRecordWriter(path, "group_size:1,uncompressed")
    for _, tokens, _ in store.blocks("train", "full"):
        for row in tokens:
            writer.write(row.tobytes())
    writer.close()
    return path


def open_array_record(store: TokenStore, folder: Path) -> Gather:
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    source = ArrayRecordDataSource(_write_array_record(store, folder))
    return lambda step, rows: np.frombuffer(
        b"".join(source.__getitems__(rows.tolist())), "<u2"
    ).reshape(-1, CONTEXT)


def open_grain(store: TokenStore, folder: Path) -> Gather:
    import grain
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    source = ArrayRecordDataSource(_write_array_record(store, folder))
    dataset = grain.MapDataset.source(source).shuffle(seed=0)
    batches = dataset.map(lambda row: np.frombuffer(row, "<u2")).batch(BATCH)
    return lambda step, rows: batches[step % len(batches)]


LOADERS: dict[str, tuple[Callable[[TokenStore, Path], Gather], bool]] = {
    "np.memmap, one file": (open_memmap, True),
    "TokenStore.gather": (open_gather, True),
    "MixtureSampler.batch": (open_sampler, False),
    "HF datasets": (open_datasets, True),
    "MDS": (open_mds, True),
    "ArrayRecord": (open_array_record, True),
    "ArrayRecord + Grain": (open_grain, False),
    "zarr-python": (open_zarr, True),
}
"""By name: how to open, and whether it reads the rows it is asked for or an order of its own."""


# --- Timing -----------------------------------------------------------------------------------------


@contextmanager
def one_core() -> Iterator[None]:
    """Keep the process on one core where the system can do that."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def run(store_path: Path | None = None, windows: int = WINDOWS) -> dict[str, Any]:
    """Windows/s of each loader and its ratio to `np.memmap`; `None` for those not installed.

    Reads `store_path`'s train windows, or a store of `windows` random ones a mode, made for it.
    """
    with tempfile.TemporaryDirectory() as name, one_core():
        folder = Path(name)
        store = TokenStore.open(store_path or make_store(folder / "store.zarr", windows))
        count = store.windows("train", "full")
        all_rows = np.random.default_rng(1).integers(0, count, (20_000, BATCH))
        gathers = {}
        for number, (loader, (open_loader, obeys)) in enumerate(LOADERS.items()):
            own = folder / str(number)
            own.mkdir()
            try:
                gathers[loader] = open_loader(store, own)
            except ImportError:
                continue
            _check(loader, gathers[loader], store, all_rows[0] if obeys else None)
        best = dict.fromkeys(gathers, 0.0)
        for _ in range(TURNS):
            for loader, gather in gathers.items():
                best[loader] = max(best[loader], _windows_per_second(gather, all_rows))
    memmap = best["np.memmap, one file"]
    return {
        "windows": count,
        "batch": BATCH,
        "loaders": {
            loader: {"windows_per_s": round(best[loader]), "ratio": round(best[loader] / memmap, 4)}
            if loader in best
            else None
            for loader in LOADERS
        },
    }


def _check(loader: str, gather: Gather, store: TokenStore, rows: NDArray[np.int64] | None) -> None:
    """A loader that reads something else is not compared."""
    tokens = gather(0, np.zeros(BATCH, np.int64) if rows is None else rows)
    same = rows is None or np.array_equal(tokens, store.gather("train", "full", rows))
    if tokens.shape != (BATCH, CONTEXT) or tokens.dtype != np.uint16 or not same:
        raise AssertionError(f"{loader}: not the windows of the store")


def _windows_per_second(gather: Gather, all_rows: NDArray[np.int64]) -> float:
    step, started = 0, time.process_time()
    while (elapsed := time.process_time() - started) < TURN_SECONDS:
        gather(step, all_rows[step % len(all_rows)])
        step += 1
    return step * BATCH / elapsed


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks loaders", description=__doc__)
    parser.add_argument("--store", type=Path, help="a finished store, instead of random windows")
    parser.add_argument("--windows", type=int, default=WINDOWS, help="random windows in each mode")
    parser.add_argument("--json", action="store_true", help="print only JSON")
    options = parser.parse_args(argv)
    result = run(options.store, options.windows)
    if options.json:
        json.dump(result, sys.stdout, indent=1)
        print()
        return
    table = Table(
        title=f"Batches of {BATCH} random windows of {result['windows']:,}, one core",
        title_justify="left",
        box=None,
    )
    table.add_column("loader")
    table.add_column("windows/s", justify="right")
    table.add_column("of np.memmap", justify="right")
    for loader, numbers in result["loaders"].items():
        if numbers is None:
            table.add_row(loader, "not installed", "")
        else:
            table.add_row(loader, f"{numbers['windows_per_s']:,}", f"{numbers['ratio']:.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
