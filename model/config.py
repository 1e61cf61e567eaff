"""Every setting of a run: three frozen dataclasses, and the presets.

Any field can be set by name from the command line (`--set width=128`); no two fields share a name. A run
saves the configuration that it was made with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from model.saved import convert_saved, refuse_unknown
from stores.errors import ConfigError
from stores.vocabulary import CONTEXT, VOCABULARY_SIZE

MIN_CONTEXT = 64  # the longest measurement has 47 tokens
MOST = {"prefix_rows": 2**24, "placement": 32, "source_kinds": 1024}
DEFAULT_STORE = "data/store.zarr"

SHAPE = (
    "vocabulary",
    "layers",
    "width",
    "heads",
    "mlp",
    "context",
    "prefix_rows",
    "factors",
    "recall",
    "nearness",
    "placement",
    "source_kinds",
)
"""Fields of a model that its weights depend on, and its context."""


def free(default: Any) -> Any:
    """A field that may change when a run is continued, because it does not affect what is learned."""
    return field(default=default, metadata={"free": True})


def _positive(config: Any, *names: str) -> None:
    for name in names:
        if not getattr(config, name) > 0:
            raise ConfigError(f"{name} {getattr(config, name)}: expected more than 0")


def _one_of(config: Any, name: str, *allowed: str) -> None:
    if getattr(config, name) not in allowed:
        raise ConfigError(f"{name} {getattr(config, name)!r}: expected {' or '.join(allowed)}")


@dataclass(frozen=True)
class ModelConfig:
    """The shape of the transformer, and how it is computed."""

    vocabulary: int = VOCABULARY_SIZE
    layers: int = 20
    width: int = 640
    heads: int = 10
    mlp: int = 2048
    context: int = CONTEXT
    """Tokens per row. Below 1024, windows are cut at measurement boundaries."""
    prefix_rows: int = 0
    """Rows of the tables of address prefixes and of whole addresses that tokens look up; 0: no tables."""
    recall: bool = False
    """Whether tokens also look up what the last measurement of their pair in the window said, where there are
    tables."""
    nearness: bool = False
    """Whether the bytes of an RTT can be likelier the nearer they are to the recalled ones, where there are any."""
    placement: int = 0
    """Features of a destination, in which a source is placed by the measurements of its window, where there are
    tables; 0: none."""
    source_kinds: int = 0
    """Kinds of vantage points, of which a placed source is one, each with RTTs of its own; 0: all are alike."""
    factors: int = 32
    """Channels of the product of source and destination, where there are tables."""
    dropout: float = 0.1
    """Applied to the embeddings and to what each sublayer adds to the residual stream."""
    precision: str = "auto"
    """Of the activations: "bfloat16", "float32", or "auto", which is bfloat16 on accelerators."""
    attention: str = free("auto")
    """"cudnn", "xla", or "auto", which is cuDNN where the device supports it."""
    scan: bool = free(False)
    """Scan over the layers, which compiles faster, instead of unrolling them, which often runs faster."""
    remat: bool = free(False)
    """Recompute each layer in the backward pass, which takes less memory and about a third more time."""

    def __post_init__(self) -> None:
        _positive(self, "layers", "width", "heads", "mlp", "factors")
        if self.width % self.heads or self.width // self.heads % 2:
            raise ConfigError(
                f"width {self.width} over {self.heads} heads: expected an even number of channels per head"
            )
        if not MIN_CONTEXT <= self.context <= CONTEXT:
            raise ConfigError(f"context {self.context}: expected {MIN_CONTEXT} to {CONTEXT} tokens")
        if self.vocabulary < VOCABULARY_SIZE:
            raise ConfigError(f"vocabulary {self.vocabulary}: expected {VOCABULARY_SIZE} or more")
        for name, most in MOST.items():
            if not 0 <= getattr(self, name) <= most:
                raise ConfigError(f"{name} {getattr(self, name)}: expected 0 to {most}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout {self.dropout}: expected 0 or more and below 1")
        _one_of(self, "precision", "auto", "bfloat16", "float32")
        _one_of(self, "attention", "auto", "cudnn", "xla")

    @property
    def recalls(self) -> bool:
        """Whether tokens look up what the last measurement of their pair said."""
        return self.recall and self.prefix_rows > 0

    @property
    def places(self) -> bool:
        """Whether sources are placed by the measurements of their window."""
        return self.placement > 0 and self.prefix_rows > 0

    @property
    def head_size(self) -> int:
        """Channels of one attention head."""
        return self.width // self.heads

    @classmethod
    def from_dict(cls, values: object, where: Path) -> ModelConfig:
        """The configuration saved in the file `where`; fields that it lacks take their defaults.

        Raises `CheckpointError` naming a field that is unknown or has the wrong type or value.
        """
        refuse_unknown(cls, values, where)
        return convert_saved(cls, values, where)


@dataclass(frozen=True)
class TrainConfig:
    """The data order of a run, its optimizer, and how often it logs, evaluates and saves."""

    steps: int = free(200_000)
    batch_size: int = 32
    """Rows per batch, over all devices together."""
    seed: int = 0
    optimizer: str = "adamw"
    """"adamw", or "muon" (Muon for the hidden matrices, AdamW for the rest)."""
    learning_rate: float = 3e-4
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.01
    """Applied to matrices only."""
    clip_norm: float = 1.0
    """Upper limit of the global norm of the gradient."""
    schedule: str = "cosine"
    """"cosine" to `final_fraction`, or "wsd": warm-up, stable, then linear decay to `final_fraction`."""
    warmup_steps: int = 2_000
    final_fraction: float = 0.1
    decay_fraction: float = 0.2
    """The share of the steps over which "wsd" decays."""
    prefix_rate: float = 10.0
    """How many times the learning rate of the rest that of the looked-up tables is: a row is used rarely."""
    prefix_decay: float = 0.0
    """Weight decay of those tables, at their rate: it keeps them from learning each pair by heart."""
    answer_weight: float = 1.0
    """How many times a result that follows both addresses (its role token and the first byte of the RTT)
    counts in the loss. It is what the model is asked for, but makes up only 2 of some 26 tokens, in a
    third of the measurements."""
    second_byte_weight: float = 1.0
    """The same for the second byte of that RTT, which is noise until the first is nearly certain."""
    hidden_sources: float = 0.0
    """Share of the windows whose sources stand under false addresses, so that the model learns to tell from
    the context alone where a source is."""
    composed: float = 0.0
    """Share of the windows composed of chosen rows of their source: rows that ask, and pairs that return."""
    scattered: float = 0.0
    """Share of the windows made of rows of pairs drawn evenly from the whole split; `composed` and what the store
    has share the others."""
    placement_windows: int = 0
    """Windows of one source each that the placement learns from at every step; 0: from those of the batch."""
    fsdp: int = free(1)
    """How many devices share weights and optimizer state, each keeping a part of every large array."""
    overfit_one_batch: bool = False
    """For debugging: every step gets the first batch, so the loss must approach 0."""
    log_every: int = free(100)
    eval_every: int = free(1_000)
    eval_batches: int = free(100)
    """Test batches per evaluation: 40 % full, 30 % none, 30 % mixed."""
    save_every: int = free(5_000)
    keep_checkpoints: int = free(10)
    """How many of the latest checkpoints are kept; the best one is kept as well."""

    def __post_init__(self) -> None:
        _positive(self, "steps", "batch_size", "log_every", "eval_every", "save_every")
        _positive(self, "keep_checkpoints", "fsdp", "learning_rate", "clip_norm", "answer_weight")
        _positive(self, "prefix_rate", "second_byte_weight")
        _one_of(self, "optimizer", "adamw", "muon")
        _one_of(self, "schedule", "cosine", "wsd")
        if self.eval_batches < 10:
            raise ConfigError(f"eval_batches {self.eval_batches}: expected 10 or more (4 : 3 : 3)")
        of_windows = ("composed", "scattered", "hidden_sources")
        for name in ("beta1", "beta2", "final_fraction", "decay_fraction", *of_windows):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} {getattr(self, name)}: expected 0 to 1")
        for name in (
            "warmup_steps",
            "seed",
            "weight_decay",
            "prefix_decay",
            "epsilon",
            "placement_windows",
        ):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} {getattr(self, name)}: expected 0 or more")


@dataclass(frozen=True)
class Config:
    """The configuration of a run: the preset that it started from, its model and its training."""

    preset: str
    model: ModelConfig
    train: TrainConfig

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form, as saved in RUN/run.json and in every checkpoint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: object, where: Path) -> Config:
        """What `as_dict` gave, as saved in the file `where`; fields that it lacks take their defaults.

        Raises `CheckpointError` naming a field that is unknown or has the wrong type or value.
        """
        if isinstance(values, Mapping):
            refuse_unknown(ModelConfig, values.get("model"), where)
            refuse_unknown(TrainConfig, values.get("train"), where)
        return convert_saved(cls, values, where)


PRESETS = {
    "85m": Config("85m", ModelConfig(), TrainConfig()),
    # About 5 M weights: a GPU trains it well in ten minutes.
    "small": Config(
        "small",
        ModelConfig(layers=6, width=256, heads=4, mlp=1024, dropout=0.0),
        TrainConfig(
            steps=10_000, batch_size=64, learning_rate=1e-3, warmup_steps=500, save_every=1_000
        ),
    ),
    # Two CPU cores train it to something useful in minutes.
    "tiny": Config(
        "tiny",
        ModelConfig(
            layers=3,
            width=128,
            heads=2,
            mlp=384,
            context=256,
            prefix_rows=32_768,
            recall=True,
            nearness=True,
            dropout=0.0,
        ),
        TrainConfig(
            steps=4_000,
            batch_size=8,
            optimizer="muon",
            learning_rate=3e-3,
            schedule="wsd",
            warmup_steps=100,
            decay_fraction=0.9,
            final_fraction=0.01,
            answer_weight=10.0,
            second_byte_weight=10.0,
            hidden_sources=0.1,
            composed=0.5,
            scattered=0.5,
            log_every=50,
            eval_every=800,
            eval_batches=20,
            save_every=400,
        ),
    ),
}


def make_config(preset: str, overrides: Mapping[str, Any]) -> Config:
    """The preset with fields replaced by name. Values may be text; `None` leaves a field as it is.

    Raises `ConfigError`, naming the preset, field or value that is wrong.
    """
    if preset not in PRESETS:
        raise ConfigError(f"preset {preset!r}: expected one of {', '.join(PRESETS)}")
    config = PRESETS[preset]
    given = {name: value for name, value in overrides.items() if value is not None}
    parts: dict[str, Any] = {}
    for part in ("model", "train"):
        base = getattr(config, part)
        types = get_type_hints(type(base))
        changes = {
            name: _parse(name, types[name], given.pop(name)) for name in types if name in given
        }
        parts[part] = replace(base, **changes)
    if given:
        known = [f.name for part in ("model", "train") for f in fields(getattr(config, part))]
        raise ConfigError(f"no field {next(iter(given))!r}: expected one of {', '.join(known)}")
    return replace(config, **parts)


def with_shape(config: Config, model: ModelConfig) -> Config:
    """The configuration with the shape of another model, so that its weights fit."""
    shape = {name: getattr(model, name) for name in SHAPE}
    return replace(config, model=replace(config.model, **shape))


def parse_assignments(assignments: list[str]) -> dict[str, str]:
    """`["width=128", …]` as a dict. Raises `ConfigError` for an assignment without a name or a value."""
    pairs = [assignment.partition("=") for assignment in assignments]
    for assignment, (name, _, value) in zip(assignments, pairs, strict=True):
        if not name or not value:
            raise ConfigError(f"--set {assignment!r}: expected FIELD=VALUE")
    return {name.strip().replace("-", "_"): value.strip() for name, _, value in pairs}


def _parse(name: str, to: type, value: Any) -> Any:
    """`value` as the field's type."""
    if to is bool and isinstance(value, str):
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if value.lower() not in words:
            raise ConfigError(f"{name} {value!r}: expected true or false")
        return words[value.lower()]
    try:
        return to(value)
    except ValueError:
        raise ConfigError(f"{name} {value!r}: expected {to.__name__}") from None
