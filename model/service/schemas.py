"""What goes in and out over HTTP. Shape and limits are checked here, the values by `model.inference.query`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from model.inference.checks import LAST_SECOND
from model.inference.query import MAX_BRANCHES, MAX_SEED, MOST_TARGET_MS
from stores.codec import decode_rtt

MAX_CONTEXT = 1_000  # measurements; a window of 1,024 tokens holds at most 85
MAX_QUERIES = 64  # per batch request

LONGEST_MS = decode_rtt(0xFFFF)  # 50 days; the codec has no code for more


def _whole(value: Any) -> Any:
    """5.0 as 5: to JSON they are the same number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Rtt = Annotated[Number, Field(ge=0, le=LONGEST_MS)]
Time = Annotated[Number, Field(ge=0, le=LAST_SECOND)]
Target = Annotated[Number, Field(gt=0, le=MOST_TARGET_MS)]
Share = Annotated[Number, Field(ge=0, lt=1)]
Count = Annotated[int, Field(strict=True, ge=1, le=MAX_BRANCHES), BeforeValidator(_whole)]
Seed = Annotated[int, Field(strict=True, ge=0, le=MAX_SEED), BeforeValidator(_whole)]
Allow = Annotated[
    bool, Field(strict=True, description="Also accept addresses that are not globally routable.")
]
Text = Annotated[str, Field(max_length=64)]
AddressText = Annotated[
    Text,
    Field(
        examples=["193.0.2.1"],
        json_schema_extra={"anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]},
    ),
]

_CONTEXT = [
    {"src": "193.0.2.1", "dst": "198.51.101.8", "rtt_ms": 21.7, "time": 1751000000},
    {"src": "193.0.2.1", "dst": "198.51.101.9", "rtt_ms": 35.2},
]
_RTT = {"src": "193.0.2.1", "dst": "198.51.101.7", "time": 1751000060, "context": _CONTEXT}
_SAMPLE = {"target_rtt_ms": 20, "src": "193.0.2.1", "n": 5, "tolerance": 0.1, "context": _CONTEXT}
_COMPLETION = {"prefix": "198.51", "k": 5, "field": "dst"}


def _shape(*examples: Any) -> ConfigDict:
    return ConfigDict(extra="forbid", json_schema_extra={"examples": list(examples)})


def _pair(*examples: Any) -> ConfigDict:
    """The shape of what has `src` and `dst`: both are of one address family."""
    families: list[Any] = [
        {"properties": {field: {"format": family} for field in ("src", "dst")}}
        for family in ("ipv4", "ipv6")
    ]
    return ConfigDict(
        extra="forbid", json_schema_extra={"examples": list(examples), "anyOf": families}
    )


class Earlier(BaseModel):
    """An earlier measurement. `rtt_ms` is null if the ping failed; `time` is in Unix seconds, or null."""

    model_config = _pair(*_CONTEXT)
    src: AddressText
    dst: AddressText
    rtt_ms: Rtt | None
    time: Time | None = None


Context = Annotated[list[Earlier], Field(max_length=MAX_CONTEXT)]


class RttQuery(BaseModel):
    """What will a ping return? `context`: earlier measurements, oldest first. Private and special addresses are
    refused unless `allow_private`."""

    model_config = _pair(_RTT)
    src: AddressText
    dst: AddressText
    time: Time | None = None
    context: Context = []
    allow_private: Allow = False


class SampleQuery(BaseModel):
    """Which destinations are `target_rtt_ms` (± the share `tolerance` of it) away from `src`?"""

    model_config = _shape(_SAMPLE)
    target_rtt_ms: Target
    src: AddressText
    n: Count = 10
    tolerance: Share = 0.05
    seed: Seed = 0
    context: Context = []
    allow_private: Allow = False


class CompletionQuery(BaseModel):
    """Which addresses begin with `prefix` (whole bytes, or a CIDR at a byte boundary)?"""

    model_config = _shape(_COMPLETION)
    prefix: Annotated[Text, Field(examples=["198.51", "2001:db9:", "2001:d00::/24"])]
    k: Count = 10
    field: Literal["dst", "src"] = "dst"
    context: Context = []
    allow_private: Allow = False


class RttQueries(BaseModel):
    """Several queries, answered in order."""

    model_config = _shape({"queries": [_RTT]})
    queries: Annotated[list[RttQuery], Field(min_length=1, max_length=MAX_QUERIES)]


class SampleQueries(BaseModel):
    """Several queries, answered in order."""

    model_config = _shape({"queries": [_SAMPLE]})
    queries: Annotated[list[SampleQuery], Field(min_length=1, max_length=MAX_QUERIES)]


class CompletionQueries(BaseModel):
    """Several queries, answered in order."""

    model_config = _shape({"queries": [_COMPLETION]})
    queries: Annotated[list[CompletionQuery], Field(min_length=1, max_length=MAX_QUERIES)]


class Histogram(BaseModel):
    """Probability of an answered ping's RTT between neighbouring edges, from the 0.5 % to the 99.5 %
    quantile."""

    edges_ms: list[float]
    probabilities: list[float]


class Answer(BaseModel):
    """What every answer says about what it rests on: what the model was trained on; by field of the query, the /16
    or /32 of its address that training did not have; and the same in words."""

    data: Literal["simulated", "real", "mixed", "unknown"]
    unmet_prefixes: dict[str, str]
    notes: list[str]


class RttAnswer(Answer):
    """Distribution of a ping's result; all but `p_failed` assume that the ping is answered."""

    src: str
    dst: str
    time: int | None
    context_used: int
    median_ms: float
    mean_ms: float
    p_failed: float
    quantiles_ms: dict[str, float]
    histogram: Histogram


class Sample(BaseModel):
    """A destination, the log-probability (nats) of it and an RTT within tolerance, the probability that a
    ping to it is answered within tolerance, and its /16 (IPv6: /32), if training had no destination in it."""

    address: str
    log_probability: float
    p_within: float
    unmet_prefix: str | None


class SampleAnswer(Answer):
    """Distinct destinations, most certain first; may be fewer than requested. `convincing`: whether the first one
    has a `p_within` of 0.1 or more."""

    src: str
    target_rtt_ms: float
    tolerance: float
    context_used: int
    convincing: bool
    samples: list[Sample]


class CompletionItem(BaseModel):
    """An address, its probability given the prefix, that of each completed byte, and its /16 (IPv6: /32), if
    training had no address of its field in it."""

    address: str
    probability: float
    byte_probabilities: list[float]
    unmet_prefix: str | None


class CompletionAnswer(Answer):
    """The most probable addresses, best first."""

    prefix: str
    field: str
    context_used: int
    completions: list[CompletionItem]


class RttAnswers(BaseModel):
    """Answers in the order of the queries."""

    answers: list[RttAnswer]


class SampleAnswers(BaseModel):
    """Answers in the order of the queries."""

    answers: list[SampleAnswer]


class CompletionAnswers(BaseModel):
    """Answers in the order of the queries."""

    answers: list[CompletionAnswer]


class FileAnswer(BaseModel):
    """The last measurements of a file, oldest first; how many it has, and what was left out, in words."""

    measurements: list[Earlier]
    count: int
    note: str


class ErrorItem(BaseModel):
    """What is wrong (`msg`), and where (`loc`)."""

    loc: list[str | int]
    msg: str
    type: str


class Errors(BaseModel):
    """The body of every response other than 200."""

    detail: list[ErrorItem]
