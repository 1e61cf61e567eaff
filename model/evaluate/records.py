"""What `evaluate` reports, as records: the one place that defines report.json.

Each record is a JSON object with the same field names. Tables are mappings whose keys are data: names of
predictors, groups of questions, address families. `None` is written as null: a number that is not defined,
such as the median of no rows. docs/evaluation.md says what the numbers mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from stores.errors import InputError
from stores.files import parse_json, write_json


class StoreRecord(msgspec.Struct, frozen=True):
    """The store that was evaluated on, or the stores."""

    path: str
    """Of several, all of them, separated by commas."""
    digest: str
    train_rows: int
    test_rows: int


class ModelRecord(msgspec.Struct, frozen=True):
    """Where a model comes from."""

    path: str
    parameters: int
    context: int
    """Tokens of its window."""
    trained_on_this_store: bool
    store_digest: str | None
    """Of the store that it was trained on."""
    code_version: str | None
    step: int | None
    test_loss: float | None
    """Nats per measurement, as training measured it on `chosen_on`."""
    chosen_on: str = "test"
    """The split of its store on which the checkpoint had the lowest loss of its run."""
    data: str = "unknown"
    """What it was trained on, as its answers say it: simulated, real, mixed or unknown. Older reports lack it."""

    @property
    def simulated(self) -> str | None:
        """Words for how much of its data are a simulated Internet, if any."""
        return {
            "simulated": "trained on a simulated Internet",
            "mixed": "trained in part on a simulated Internet",
        }.get(self.data)

    @property
    def flattered(self) -> bool:
        """Whether the checkpoint was chosen on the test rows that the report asks."""
        chosen = self.step is not None and self.test_loss is not None
        return chosen and self.trained_on_this_store and self.chosen_on == "test"


class QuestionCounts(msgspec.Struct, frozen=True):
    """How many test rows were asked."""

    asked: int
    of: int
    """Test rows that they were drawn from."""
    failed: int
    context_rows: int
    """At most, for each question."""
    groups: Mapping[str, int]


# --- RTTs and failures --------------------------------------------------------------------------------


Intervals = Mapping[str, Sequence[float]]
"""Lower and upper end of the 95 % interval of a record's numbers, by field; of those that have one."""


class RttErrors(msgspec.Struct, frozen=True):
    """Errors of point predictions of answered RTTs; the relative error is |predicted - RTT| / RTT."""

    count: int
    median_abs_error_ms: float | None
    mae_ms: float | None
    relative_error_p50: float | None
    relative_error_p75: float | None
    relative_error_p90: float | None
    relative_error_p95: float | None
    fell_back: float = 0.0
    """Share of the rows that the predictor's fall-back answered."""
    intervals: Intervals = {}


class Calibration(msgspec.Struct, frozen=True):
    """Calibration of predicted distributions of answered RTTs."""

    count: int
    crps_ms: float | None
    """Continuous ranked probability score."""
    coverage_50: float | None
    """Share of the outcomes inside the central 50 % interval."""
    coverage_80: float | None
    coverage_95: float | None
    pit_histogram: Sequence[float]
    """Shares of outcomes by the predicted probability of a lower RTT; empty without outcomes."""
    intervals: Intervals = {}


class FailureScores(msgspec.Struct, frozen=True):
    """How well failures are told from answers."""

    count: int
    failed: int
    auc: float | None
    brier: float | None
    intervals: Intervals = {}


class TimeScores(msgspec.Struct, frozen=True):
    """A model's answers to one sample of questions."""

    count: int
    nats: float
    median_abs_error_ms: float | None
    intervals: Intervals = {}


class TimeComparison(msgspec.Struct, frozen=True):
    """The same questions with and without timestamps."""

    with_time: TimeScores
    without_time: TimeScores


# --- Likelihood ---------------------------------------------------------------------------------------


class OrderNats(msgspec.Struct, frozen=True):
    """Measurements of one field order, and their mean nats."""

    measurements: int
    nats: float


class FieldNats(msgspec.Struct, frozen=True):
    """Fields in one situation, and their mean nats."""

    count: int
    nats: float


class ModeLikelihood(msgspec.Struct, frozen=True):
    """How likely a model finds windows of one timestamp mode."""

    measurements: int
    nats: Mapping[str, float]
    """Mean of a measurement, by field."""
    total: float | None
    orders: Mapping[str, OrderNats]
    conditionals: Mapping[str, Mapping[str, FieldNats]]
    """By field, then by the fields that its measurement had before it."""


class ByteScores(msgspec.Struct, frozen=True):
    """How well the bytes of addresses are predicted."""

    count: int
    perplexity: float
    """Per byte."""
    accuracy: Sequence[float]
    """Of the likeliest byte, by position."""


ByteTable = Mapping[str, Mapping[str, Mapping[str, ByteScores]]]
"""By family (`ipv4`, `ipv6`), field (`src`, `dst`), and whether the window had the address before
(`new`, `again`)."""


class Likelihood(msgspec.Struct, frozen=True):
    """How likely a model finds test windows with timestamps (`full`) and without (`none`)."""

    full: ModeLikelihood
    bytes: ByteTable
    none: ModeLikelihood


# --- Addresses ----------------------------------------------------------------------------------------


class TopShares(msgspec.Struct, frozen=True, kw_only=True):
    """Shares of the queries whose destination is among the best 1, 5 and 10 completions."""

    count: int
    top_1: float | None
    top_5: float | None
    top_10: float | None
    intervals: Intervals = {}

    def top(self, best: int) -> float | None:
        """The share among the best 1, 5 or 10."""
        return {1: self.top_1, 5: self.top_5, 10: self.top_10}[best]


class CompletionShares(TopShares, frozen=True, kw_only=True):
    """The shares of all queries, and of those whose context does not have the destination."""

    not_in_context: TopShares


class SearchScores(msgspec.Struct, frozen=True):
    """Destinations found at wanted RTTs; docs/evaluation.md explains the shares."""

    searches: int
    found: int
    truth_known: float | None
    within_20_percent: float | None
    distinct: float | None
    distinct_prefixes: float | None
    in_train_prefix: float | None
    in_train: float | None
    in_context: float | None
    intervals: Intervals = {}


# --- The whole ----------------------------------------------------------------------------------------

ByGroup = Mapping[str, RttErrors]
"""By group of questions, address family or range of RTTs."""


class Comparison(msgspec.Struct, frozen=True, omit_defaults=True):
    """Predictors side by side on the same questions. Every table is by predictor first, then by group.

    A predictor that gives no distribution is not in `calibration`, one without an opinion on failures
    not in `failure`; an empty table is left out of the JSON.
    """

    questions: QuestionCounts
    rtt: Mapping[str, ByGroup]
    rtt_by_family: Mapping[str, ByGroup]
    rtt_by_range: Mapping[str, ByGroup]
    rtt_by_context: Mapping[str, Mapping[str, ByGroup]]
    """By predictor, number of context rows, and group."""
    error_cdf: Mapping[str, Mapping[str, Sequence[float]]]
    seconds: Mapping[str, float]
    calibration: Mapping[str, Mapping[str, Calibration]] = {}
    failure: Mapping[str, Mapping[str, FailureScores]] = {}


class Report(Comparison, frozen=True, omit_defaults=True, kw_only=True):
    """All of report.json. The last four tables are of trained models, and left out without any."""

    store: StoreRecord
    seed: int
    models: Mapping[str, ModelRecord]
    time: Mapping[str, TimeComparison] = {}
    likelihood: Mapping[str, Likelihood] = {}
    completions: Mapping[str, Mapping[str, Mapping[str, CompletionShares]]] = {}
    """By completer, family, and number of known bytes."""
    search: Mapping[str, SearchScores] = {}


def report_json(report: Report) -> dict[str, Any]:
    """The report as plain dictionaries, lists, numbers and texts, as report.json holds it."""
    document: dict[str, Any] = msgspec.to_builtins(report)
    return document


def write_report_json(path: Path, report: Report) -> None:
    """Write report.json, whole or not at all. Raises `OutputError`."""
    write_json(path, report_json(report))


def read_report(path: Path) -> Report:
    """Read a report.json. Raises `InputError` for a file that is not one, `OSError` for none."""
    try:
        return msgspec.convert(parse_json(path.read_bytes()), Report)
    except ValueError as error:
        raise InputError(
            f"{path}: not a report of `evaluate` ({error}): give the report.json that it wrote"
        ) from None
