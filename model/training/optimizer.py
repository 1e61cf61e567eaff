"""AdamW or Muon, under a cosine or a warm-up-stable-decay schedule."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import optax
from optax import contrib

from model.config import TrainConfig

PLACEMENT_RATE = 0.3
"""How many times the rate of the rest that of a placement's features is. At the full rate, its expectations are off
by 7.6 instead of 7.1 ms at new sources with ten rows of context (docs/lab-log.md)."""
MUON_RMS = 0.2  # scales Muon's updates to AdamW's size, so that one learning rate fits both


def make_schedule(config: TrainConfig) -> optax.Schedule:
    """The learning rate by step: a linear warm-up from 0, then what `config.schedule` says."""
    peak, last = config.learning_rate, config.learning_rate * config.final_fraction
    warmup = min(config.warmup_steps, config.steps // 2)  # so that short runs warm up, too
    start = optax.linear_schedule(0.0, peak, max(warmup, 1))
    if config.schedule == "cosine":
        rest = optax.cosine_decay_schedule(
            peak, max(config.steps - warmup, 1), config.final_fraction
        )
        return optax.join_schedules([start, rest], [warmup])
    decay = max(round(config.steps * config.decay_fraction), 1)
    stable = optax.constant_schedule(peak)
    return optax.join_schedules(
        [start, stable, optax.linear_schedule(peak, last, decay)],
        [warmup, max(config.steps - decay, warmup)],
    )


def make_optimizer(
    config: TrainConfig, *, tables: bool = False, placement: bool = False
) -> optax.GradientTransformation:
    """Clipping by global norm, then AdamW or Muon. Weight decay applies to matrices, including the
    embeddings, and never to norm scales. With `tables`, the model has some that are looked up; their rows
    get a larger rate, for each is used rarely, and at the rate of the matrices they starve. With `placement`,
    it has one, whose features get a smaller rate."""
    schedule = make_schedule(config)
    if config.optimizer == "adamw":
        update = optax.adamw(
            schedule,
            b1=config.beta1,
            b2=config.beta2,
            eps=config.epsilon,
            weight_decay=config.weight_decay,
            mask=_is_matrix,
        )
    else:
        # optax.contrib.muon has no mask for the decay of its Adam part, which holds the norm scales, so
        # only the hidden matrices decay here.
        update = contrib.muon(
            schedule,
            weight_decay=config.weight_decay,
            adam_b1=config.beta1,
            adam_b2=config.beta2,
            muon_weight_dimension_numbers=_hidden_matrices,
            consistent_rms=MUON_RMS,
        )
    steps = [optax.clip_by_global_norm(config.clip_norm), update]
    if tables:
        steps.append(optax.masked(optax.scale(config.prefix_rate), _is_table))
        if config.prefix_decay:
            rate = config.prefix_rate * config.prefix_decay
            steps.append(optax.add_decayed_weights(lambda step: -rate * schedule(step), _is_table))
    if placement:
        steps.append(optax.masked(optax.scale(PLACEMENT_RATE), _is_place))
    return optax.chain(*steps)


def _is_matrix(weights: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim == 2, weights)


def _named(*names: str) -> Callable[[Any], Any]:
    """A mask of the weights: which leaves have one of the names in their path."""

    def is_named(path: Any, leaf: Any) -> bool:
        where = jax.tree_util.keystr(path)
        return any(f"'{name}'" in where for name in names)

    return functools.partial(jax.tree_util.tree_map_with_path, is_named)


_is_table = _named("prefix", "carried", "factors")
"""Those that have a row for each prefix; the other look-ups are used all the time."""
_is_place = _named("of_source", "of_destination", "variances", "mean")
"""Those that the placement's regression consists of, and not what the transformer makes of it."""


def _hidden_matrices(weights: Any) -> Any:
    """Dimension numbers for the matrices of the layers; `None`, meaning Adam, for the embedding, the
    head and the norms."""

    def numbers(path: Any, leaf: Any) -> contrib.MuonDimensionNumbers | None:
        in_layer = "blocks" in jax.tree_util.keystr(path)
        return contrib.MuonDimensionNumbers() if in_layer and leaf.ndim == 2 else None

    return jax.tree_util.tree_map_with_path(numbers, weights)
