"""The folder of a training run: the names of its files, and what each of them holds.

    RUN/run.json             a `RunRecord`, written first
    RUN/checkpoints/<step>   the weights and the optimizer; each with a copy of the record
    RUN/metrics.jsonl        a `MetricsLine` per log step
    RUN/evaluations.jsonl    an `Evaluation` per line
    RUN/tensorboard/         the numbers of both as TensorBoard events
    RUN/profile/             an XLA trace of a few early steps, with --profile
    RUN/result.json          a `RunResult`, written last
    RUN/first_look.json      a `FirstLook`, after it

Training writes the folder; inference and evaluation read it. Reading ignores fields of these records
that it does not know, so a newer version may add some; only an unknown field of a configuration is an
error, because it could alter what the model computes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from model.config import Config
from model.saved import convert_saved
from stores.errors import CheckpointError, InputError
from stores.files import parse_json, read_json_lines
from stores.provenance import Provenance, in_turn

RECORD_FILE = "run.json"
METRICS_FILE = "metrics.jsonl"
EVALUATIONS_FILE = "evaluations.jsonl"
RESULT_FILE = "result.json"
FIRST_LOOK_FILE = "first_look.json"
CHECKPOINTS_FOLDER = "checkpoints"
TENSORBOARD_FOLDER = "tensorboard"
PROFILE_FOLDER = "profile"


@dataclass(frozen=True)
class Saved:
    """What the records below have in common: their form in JSON, written and read."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form, with the fields in the order of their definition."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: object, where: Path) -> Self:
        """The record that `as_dict` gave, after a trip through JSON.

        Raises `CheckpointError`, naming `where`, for a field that is missing or has the wrong type.
        """
        return convert_saved(cls, values, where)

    @classmethod
    def read(cls, file: Path) -> Self:
        """The record that a JSON file holds. Raises `CheckpointError` when it cannot be read."""
        try:
            values = parse_json(file.read_bytes())
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{file}: cannot be read ({error})") from error
        return cls.from_dict(values, file)

    @classmethod
    def read_if_whole(cls, file: Path) -> Self | None:
        """As `read`, but `None` when there is no file, or one that is not JSON: empty, zeros or cut off, as
        a loss of power may leave it. What it recorded counts as not done."""
        try:
            parse_json(file.read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return cls.read(file)

    @classmethod
    def read_lines(cls, file: Path) -> list[Self]:
        """The records that a JSON-lines file holds; none when there is no such file. Raises
        `CheckpointError` for a line that is not one."""
        try:
            lines = read_json_lines(file)
        except (OSError, InputError) as error:
            raise CheckpointError(str(error)) from error
        return [cls.from_dict(line, file) for line in lines]


@dataclass(frozen=True)
class Base:
    """The trained model whose weights a run began with."""

    store_digest: str = "unknown"
    provenance: Provenance | None = None
    """What it had been trained on by then; `None` if nobody noted it."""


@dataclass(frozen=True)
class RunRecord(Saved):
    """What a run and each of its checkpoints belong to."""

    store_digest: str
    config: Config
    code_version: str
    provenance: Provenance | None = None
    """Of the store; `None` until it has been read, and in runs that did not note it yet."""
    base: Base | None = None
    """`None` for a run that began with random weights."""

    def with_base(self, own: Provenance | None) -> Provenance | None:
        """All that the weights have been trained on, if the data of the run are `own`; `None` if nobody noted one
        of the two."""
        if self.base is None or own is None:
            return own
        return in_turn(self.base.provenance, own) if self.base.provenance else None

    @classmethod
    def from_dict(cls, values: object, where: Path) -> Self:
        """As `Saved.from_dict`. Fields that the configuration did not have yet take their defaults;
        a field that it does not have any more, or not yet, is a `CheckpointError`."""
        if isinstance(values, dict) and "config" in values:
            Config.from_dict(values["config"], where)  # names an unknown field
        return convert_saved(cls, values, where)


@dataclass(frozen=True)
class KindLoss(Saved):
    """The loss on one kind of token."""

    loss: float
    """Mean nats per token."""
    accuracy: float
    """How often the likeliest token was the right one, 0 to 1."""
    tokens: int


@dataclass(frozen=True)
class LossSummary(Saved):
    """The loss on some windows."""

    loss: float
    """Mean nats per token."""
    nats_per_measurement: float
    bits_per_measurement: float
    accuracy: float
    """How often the likeliest token was the right one, 0 to 1."""
    tokens: int
    measurements: int
    kinds: dict[str, KindLoss]
    """By kind of token, for the kinds that occur."""


@dataclass(frozen=True)
class LossByMode(LossSummary):
    """The loss on windows of all timestamp modes together, and of each mode."""

    modes: dict[str, LossSummary]


@dataclass(frozen=True)
class Evaluation(LossByMode):
    """The loss on windows of `split` after `step` steps: a line of evaluations.jsonl."""

    step: int
    split: str = "test"
    """What is chosen by it: `validation` where the store has that, else `test`."""

    def as_dict(self) -> dict[str, Any]:
        """As `Saved.as_dict`, but with the step first."""
        return {"step": self.step} | super().as_dict()


@dataclass(frozen=True)
class LoggedStep(Saved):
    """What the lines of both logs have in common."""

    step: int


@dataclass(frozen=True)
class StepLoss(LoggedStep):
    """What choosing a checkpoint needs of an `Evaluation`."""

    nats_per_measurement: float
    split: str = "test"


@dataclass(frozen=True)
class MetricsLine(Saved):
    """Means over the steps since the last log step: a line of metrics.jsonl."""

    step: int
    loss: float
    """Nats per token."""
    accuracy: float
    bits_per_measurement: float
    gradient_norm: float
    """Before clipping."""
    learning_rate: float
    """Of the last step."""
    tokens_per_second: float
    live_tokens_per_second: float
    """Without the tails of the rows."""
    mfu: dict[str, float] | None
    """Share of the devices' peak by convention of counting; `None` where the peak is not known."""
    kinds: dict[str, KindLoss]


@dataclass(frozen=True)
class RunResult(Saved):
    """What a run reached: printed by `train`, and the content of result.json once it is finished."""

    run: str
    finished: bool
    stopped_by: str | None
    """Name of the signal that stopped an unfinished run."""
    preset: str
    steps: int
    loss: float | None
    """Of the last log line, nats per token; `None` before the first one."""
    losses: tuple[tuple[int, float], ...]
    """(step, loss) of every log line."""
    tokens_per_second: float | None
    """Median over the log lines."""
    mfu: dict[str, float] | None
    evaluation: Evaluation | None
    """The last one on test. With a validation split, test is measured only when the run is finished."""
    baseline: LossByMode | None
    """The context-free model on the same test windows; `None` until the run is finished."""
    parameters: int
    device: str
    devices: int
    attention: str
    precision: str
    memory: dict[str, int | None] | None
    """`peak_bytes` and `limit_bytes` of the first device, where it counts them."""
    store: str
    store_digest: str
    first_step_seconds: float | None = None
    """From the call of `train` to the end of its first step; older runs did not measure it."""
    chosen_on: str = "test"
    """The split whose loss chose the best checkpoint and the mix of the context-free model."""
    validation: Evaluation | None = None
    """The last one on validation, where the store has that split."""
    new_sources: str | None = None
    """A warning where many sources of the split are not in train."""


WITHOUT_CONTEXT, WITH_CONTEXT = "model, without context", "model, with context"
"""The names under which a `FirstLook` has the run's own model."""


@dataclass(frozen=True)
class FirstLook(Saved):
    """Median absolute errors in ms, by predictor and group; groups without answered rows are left out."""

    steps: int
    """Of the run when it was looked at."""
    asked: dict[str, int]
    """Answered rows of each group."""
    errors_ms: dict[str, dict[str, float]]
