"""The compiled encoder on one core, beside the plain one, and the error of the RTT code.

Rows are of the simulated Internet, one shard. "encode" writes tokens of windows already laid out;
"all" is everything between a shard's columns and its windows: hashes, orders, shuffles, next-fit,
tokens. CPU time, best of several.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from pipeline.addresses import format_addresses, parse_addresses
from pipeline.simulate.stage import SimulateOptions, simulate_file
from pipeline.tokenize.encoder import encode_fields, encode_windows
from pipeline.tokenize.streams import find_streams, lay_out
from pipeline.units import open_executor
from stores.codec import Measurement, decode_rtts, encode_rtts, encode_window
from stores.layout import MODES
from stores.vocabulary import CONTEXT

ROWS = 500_000
PLAIN_WINDOWS = 100
TURNS = 7


def run(rows: int = ROWS) -> dict[str, Any]:
    """Measurements per second and core, by mode."""
    columns = _columns(rows)
    src, _, seconds, _, sources, _ = columns
    fields = encode_fields(*columns)
    streams = find_streams(src, seconds, sources)
    result: dict[str, Any] = {"rows": rows, "modes": {}}
    for mode in MODES:
        windows = lay_out(fields, streams, mode, 0, 0)
        out = np.empty((len(windows.lengths), CONTEXT), np.uint16)

        def encode(windows=windows, out=out) -> None:
            encode_windows(fields, windows.rows, windows.timed, windows.starts, out)

        def everything(mode=mode, out=out) -> None:
            fields = encode_fields(*columns)
            windows = lay_out(fields, find_streams(src, seconds, sources), mode, 0, 0)
            encode_windows(fields, windows.rows, windows.timed, windows.starts, out)

        plain_windows = _plain_windows(columns, windows)
        plain_rows = sum(len(window) for window in plain_windows)

        def plain(plain_windows=plain_windows) -> None:
            for window in plain_windows:
                encode_window(window)

        result["modes"][mode] = {
            "encode_per_s": round(rows / _best(encode)),
            "all_per_s": round(rows / _best(everything)),
            "plain_per_s": round(plain_rows / _best(plain, turns=2)),
            "fill": float(windows.lengths.sum() / out.size),
        }
    us = np.geomspace(1024, 2047 * 2.0**31, 2_000_000)
    result["rtt_relative_error_max"] = float(
        np.abs(decode_rtts(encode_rtts(us / 1000)) * 1000 / us - 1).max()
    )
    return result


def _columns(rows: int) -> tuple[Any, ...]:
    """A shard's columns as `encode_fields` takes them."""
    with tempfile.TemporaryDirectory() as folder, open_executor(1) as executor:
        path = Path(folder) / "rows.parquet"
        simulate_file(path, SimulateOptions(rows=rows), executor, lambda *_: None)
        table = pq.read_table(path).sort_by(
            [("src_addr", "ascending"), ("event_time", "ascending")]
        )
    keys, codes = [], []
    for name in ("src_addr", "dst_addr"):
        array = table.column(name).combine_chunks().dictionary_encode()
        keys.append(parse_addresses(array.dictionary.to_pylist()))
        codes.append(array.indices.to_numpy().astype(np.uint32))
    seconds = table.column("event_time").cast(pa.int64()).to_numpy() // 1_000_000
    return *codes, seconds, table.column("rtt").to_numpy(), *keys


def _plain_windows(columns: tuple[Any, ...], windows: Any) -> list[list[tuple[Measurement, bool]]]:
    """The first windows as the plain encoder takes them."""
    from ipaddress import ip_address

    src, dst, seconds, rtt, sources, destinations = columns
    names = [
        [ip_address(text) for text in format_addresses(keys)] for keys in (sources, destinations)
    ]
    return [
        [
            (
                Measurement(
                    names[0][src[row]],
                    names[1][dst[row]],
                    None if rtt[row] < 0 else float(rtt[row]),
                    int(seconds[row]),
                ),
                bool(timed),
            )
            for row, timed in zip(windows.rows[start:stop], windows.timed[start:stop], strict=True)
        ]
        for start, stop in pairwise(windows.starts[: PLAIN_WINDOWS + 1])
    ]


def _best(function: Callable[[], None], turns: int = TURNS) -> float:
    """Fewest CPU seconds of a call, the first one (which compiles) aside."""
    function()
    times = []
    for _ in range(turns):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return min(times)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks encode", description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--json", action="store_true", help="print only JSON")
    options = parser.parse_args(argv)
    result = run(options.rows)
    if options.json:
        json.dump(result, sys.stdout, indent=1)
        print()
        return
    table = Table(
        title=f"Encoding {options.rows:,} measurements, one core", title_justify="left", box=None
    )
    for name in ("mode", "encode, M/s", "all, M/s", "plain Python, M/s", "fill"):
        table.add_column(name, justify="left" if name == "mode" else "right")
    for mode, numbers in result["modes"].items():
        rates = (f"{numbers[k] / 1e6:.3f}" for k in ("encode_per_s", "all_per_s", "plain_per_s"))
        table.add_row(mode, *rates, f"{numbers['fill']:.2%}")
    Console().print(table)
    Console().print(f"RTT error from 1.024 ms up: at most {result['rtt_relative_error_max']:.4%}")
