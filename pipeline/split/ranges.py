"""Which rows belong to a shard: those of all runs from one place in the order of sources and times to another.

A shard has rows of most runs, so there are as many slices as runs times shards, the square of the rows. Nobody
holds them all: whoever plans says where each shard begins and ends, and whoever writes a shard looks its own
slices up.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.split.runs import Run, open_run
from stores.files import write_json

WHOLE_STREAM = -1
"""In place of a time: a source's first row."""


@dataclass(frozen=True)
class Edge:
    """The first row of a source at a time or later, in microseconds since 1970, or `WHOLE_STREAM`."""

    source: bytes  # a key of `pipeline.addresses`, without zeros at its end, as NumPy gives it
    time: int = WHOLE_STREAM

    def row_in(self, run: Run) -> int:
        """The number of that row in a run; where the run lacks the source, that of the next source."""
        code = int(np.searchsorted(run.sources, self.source))
        start, stop = np.searchsorted(run.src, np.array([code, code + 1], np.uint32)).tolist()
        lacks = code == len(run.sources) or run.sources[code] != self.source
        if lacks or self.time == WHOLE_STREAM:
            return int(start)
        return int(start + np.searchsorted(run.columns["time"][start:stop], self.time))


END = Edge(b"\xff")
"""Behind all rows."""


@dataclass(frozen=True)
class Range:
    """Rows of all splits from one edge up to another."""

    begin: Edge
    end: Edge

    def slices(self, runs: Path) -> Iterator[tuple[Run, int, int]]:
        """The runs of a folder that have rows in this range, in their order, with the numbers of the first of
        these rows and of the one behind the last.

        Opens these runs, 0.1 to 0.2 ms each; of the others it compares the first and last source.
        """
        for name, first, last in json.loads((runs / _INDEX).read_bytes()):
            if bytes.fromhex(last) < self.begin.source or bytes.fromhex(first) > self.end.source:
                continue
            run = open_run(runs / name)
            start, stop = self.begin.row_in(run), self.end.row_in(run)
            if start < stop:
                yield run, start, stop


_INDEX = "index.json"


def write_index(folder: Path, runs: Sequence[Path]) -> None:
    """Note the runs of a folder, and the first and last source of each, for `Range.slices`."""
    ends = []
    for path in runs:
        sources = open_run(path).sources
        ends.append((path.name, sources[0].hex(), sources[-1].hex()))
    write_json(folder / _INDEX, ends)
