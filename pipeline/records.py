"""The JSON documents in an output folder, each defined once.

    DIR/.pinglm/<stage>/options.json   `StartedStage`
    DIR/.pinglm/<stage>.json           `IngestRecord`, `SimulateRecord`, `SplitRecord`, `TokenizeRecord`
    DIR/report.json                    `Report`

Field names and their meaning never change: folders made by earlier versions must still continue. What a
unit of work returns is defined next to that unit. Paths are relative to DIR, sizes are in bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import msgspec

from stores.errors import OutputError
from stores.files import parse_json
from stores.layout import WITH_VALIDATION
from stores.manifest import ArrayTotals, InputDigest, LedgerTotals
from stores.overlap import OverlapCounts

T = TypeVar("T")


class Record(msgspec.Struct, frozen=True):
    """Something that is written as a JSON object and read back with its types checked."""


def to_json(record: Record | LedgerTotals) -> dict[str, Any]:
    """A record as nested dicts, ready for `json.dumps`."""
    fields: dict[str, Any] = msgspec.to_builtins(record, str_keys=True)
    return fields


def read_results(results: Sequence[object], kind: type[T], markers: Path) -> list[T]:
    """What units of work returned, as records of one `kind`; the opposite of `to_json`.

    Raises `OutputError` naming `markers`, the folder of finished units, when one of an earlier run has
    another form.
    """
    try:
        return msgspec.convert(results, list[kind], str_keys=True)  # type: ignore[valid-type]
    except msgspec.ValidationError as error:
        raise OutputError(
            f"{markers}: a finished unit is damaged, or of an incompatible version ({error}): "
            "remove the output folder and run again"
        ) from error


def read_json(path: Path, kind: type[T]) -> T:
    """Read a JSON file as `kind`.

    Raises `OutputError` when the file is not JSON or lacks a field, naming the field.
    """
    try:
        return msgspec.convert(parse_json(path.read_bytes()), kind)
    except ValueError as error:
        raise OutputError(
            f"{path}: damaged, or written by an incompatible version ({error}): "
            "remove the output folder and run again"
        ) from error


def read_json_if_whole(path: Path, kind: type[T]) -> T | None:
    """As `read_json`, but `None` when there is no file, or one that is not JSON: empty, zeros or cut off,
    as a loss of power may leave it. What it recorded counts as not done.

    JSON of another form is refused as ever: another version may have written it.
    """
    try:
        parse_json(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return read_json(path, kind)


# --- Files and ledgers --------------------------------------------------------------------------


class OutputFile(Record, frozen=True):
    """A file that a stage wrote."""

    path: str
    size: int


class TableFile(OutputFile, frozen=True):
    """A Parquet file of measurements, or of their truth."""

    rows: int


class MeasurementFile(TableFile, frozen=True, omit_defaults=True):
    """A part of the measurement table."""

    sha256: str = ""
    """Empty where an earlier version wrote the part."""


class ShardFile(TableFile, frozen=True):
    """A shard, with the times of its first and last row in microseconds since 1970."""

    time: tuple[int, int] | None


class IngestedFile(Record, frozen=True):
    """What became of the results in one input file: rows = accepted + rejected."""

    file: str
    rows: int
    accepted: int
    rejected: dict[str, int]


class IngestedTotals(Record, frozen=True):
    """`IngestedFile`, summed over all files."""

    rows: int
    accepted: int
    rejected: dict[str, int]


class LedgerFile(Record, frozen=True, omit_defaults=True):
    """What became of the rows of one file: rows = train + validation + test + rejected."""

    file: str
    rows: int
    train: int
    test: int
    rejected: dict[str, int]
    validation: int = 0


class CutRecord(Record, frozen=True, omit_defaults=True):
    """Where one split ends and the next begins; see `pipeline.split.plan.Cut`."""

    by: str
    test_fraction: float
    second: int | None
    validation_fraction: float | None = None
    validation_second: int | None = None


class TimeRanges(Record, frozen=True, omit_defaults=True):
    """First and last time of each split in ISO 8601, or `None` if the split is empty."""

    train: tuple[str, str] | None
    test: tuple[str, str] | None
    validation: tuple[str, str] | None = None


class Overlap(Record, frozen=True):
    """How train and the other splits overlap."""

    sources: OverlapCounts
    destinations: OverlapCounts
    pairs: OverlapCounts
    time: TimeRanges

    @property
    def kinds(self) -> dict[str, OverlapCounts]:
        """The counts by kind of key, as a manifest has them."""
        return {"sources": self.sources, "destinations": self.destinations, "pairs": self.pairs}


# --- Stages -------------------------------------------------------------------------------------


class StartedStage(Record, frozen=True):
    """The options that an unfinished stage was started with, and the boot of the machine it ran in."""

    options: dict[str, Any]
    boot: str


class StageRecord(Record, frozen=True, tag_field="stage", kw_only=True):
    """What every finished stage records. Its name is the field `stage` of the JSON object."""

    STAGE: ClassVar[str]

    options: dict[str, Any]
    """What the stage was started with, compared field by field when it is run again."""
    outputs: tuple[OutputFile, ...]


class IngestRecord(StageRecord, frozen=True, tag="ingest", kw_only=True):
    """`pipeline.ingest`: RIPE Atlas files to the measurement table."""

    STAGE = "ingest"

    inputs: tuple[InputDigest, ...]
    files: tuple[IngestedFile, ...]
    totals: IngestedTotals
    outputs: tuple[MeasurementFile, ...]
    left_out: tuple[str, ...]


class SimulateRecord(StageRecord, frozen=True, tag="simulate", kw_only=True):
    """`pipeline.simulate`: a simulated Internet to the measurement table."""

    STAGE = "simulate"

    inputs: tuple[InputDigest, ...] = ()
    rows: int
    days: float
    outputs: tuple[MeasurementFile, ...]
    truth: tuple[TableFile, ...]
    sources: int
    destinations: int
    pairs: int
    new_pairs_in_last_tenth: float
    """Share of the pairs of the last tenth of the time that do not occur before it."""
    marginals: dict[str, float]
    world: str | msgspec.UnsetType = msgspec.UNSET
    """File name of the world, only when everything was written beside a single Parquet file."""


class SplitRecord(StageRecord, frozen=True, tag="split", kw_only=True):
    """`pipeline.split`: measurement tables to train and test shards, and perhaps some for validation."""

    STAGE = "split"

    inputs: tuple[InputDigest, ...]
    cut: CutRecord
    files: tuple[LedgerFile, ...]
    totals: LedgerTotals
    shards: dict[str, tuple[ShardFile, ...]]
    """By split."""
    overlap: Overlap

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that there are, in their order."""
        return tuple(split for split in WITH_VALIDATION if split in self.shards)


class TokenizeRecord(StageRecord, frozen=True, tag="tokenize", kw_only=True):
    """`pipeline.tokenize`: shards to the token store."""

    STAGE = "tokenize"

    digest: str
    arrays: dict[str, ArrayTotals]


STAGES: tuple[type[StageRecord], ...] = (
    IngestRecord,
    SimulateRecord,
    SplitRecord,
    TokenizeRecord,
)
"""In the order in which they run; each reads what those before it wrote."""


# --- The report of `prepare` --------------------------------------------------------------------


class StoreSummary(Record, frozen=True):
    """The finished token store."""

    path: str
    digest: str
    arrays: dict[str, ArrayTotals]


class Report(Record, frozen=True):
    """DIR/report.json: where every row went, from the input files to the store."""

    files: tuple[LedgerFile, ...]
    totals: LedgerTotals
    left_out: tuple[str, ...]
    inputs: tuple[InputDigest, ...]
    configuration: dict[str, dict[str, Any]]
    """Options by stage."""
    overlap: Overlap
    store: StoreSummary
    seconds: dict[str, float]
    """Wall time by stage."""
