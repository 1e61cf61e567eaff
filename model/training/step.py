"""The compiled functions: one training step (batch, loss, gradient, update) and one evaluation batch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from numpy.typing import NDArray

from model.config import Config
from model.devices import Devices, compute_dtype
from model.network.attention import choose_attention
from model.network.dropout import dropout_keys
from model.network.named_weights import fill_weights
from model.network.transformer import Transformer, dropout_sites
from model.training.hidden_sources import OF_SOURCES, draw_disguise, hide_sources
from model.training.loss import Tally, empty_tally, next_token_loss
from model.training.optimizer import make_optimizer, make_schedule
from model.training.sharding import gathering_again, place_state, whole
from model.training.source_windows import LONGEST

PLACEMENT_WEIGHT = 0.01
"""Of the placement's loss. It has weights of its own, so only the clipping of the gradients depends on this."""


class Meter(NamedTuple):
    """Sums over the steps since the last log step; they stay on the devices until the next one."""

    steps: jax.Array  # () int32
    loss: jax.Array  # () float32, the mean losses of the steps
    gradient_norm: jax.Array  # () float32, before clipping
    tally: Tally


class TrainState(NamedTuple):
    """Everything that a step changes, and what a checkpoint holds."""

    step: jax.Array  # () int32, steps done
    weights: nnx.State[Any, Any]  # of float32 arrays
    optimizer: optax.OptState
    meter: Meter


class Steps:
    """The compiled functions of a run, and the shapes they take.

    `tokens` (B, T) and `lengths` (B,) are uint16, on the devices and divided by row. `train(state,
    tokens, lengths)` returns (state, loss) and reuses the buffers of the state it is given; where the
    placement has windows of its own, their tokens come third (`model.training.source_windows`).
    `evaluate(weights, tokens, lengths)` returns a `Tally`. Making a `Steps` compiles both, which takes
    seconds to minutes; `compile_seconds` is how long `train` took. `learning_rate(state)` is the rate of
    the last step done.
    """

    def __init__(self, config: Config, devices: Devices, evaluation_rows: int | None = None):
        self.config = config
        self.devices = devices
        self.dtype = compute_dtype(config.model)
        self.attention, self.fallback = choose_attention(config.model, self.dtype)
        self.optimizer = _optimizer(config)
        self.graph = nnx.graphdef(nnx.eval_shape(self._model))
        shapes = jax.eval_shape(self._init)
        self.places = place_state(shapes, devices)
        self.init = jax.jit(self._init, out_shardings=self.places)
        self.abstract_state = _placed(shapes, self.places)
        started = time.perf_counter()
        batch = self._abstract_batch(config.train.batch_size)
        if config.model.places and config.train.placement_windows:
            length = min(config.model.context, LONGEST)
            batch += (self._abstract_rows(config.train.placement_windows, length),)
        jitted = jax.jit(
            self._train, donate_argnums=0, out_shardings=(self.places, devices.replicated)
        )
        self.train = jitted.lower(self.abstract_state, *batch).compile()
        self.compile_seconds = time.perf_counter() - started
        if evaluation_rows is not None:
            evaluate = jax.jit(self._evaluate, out_shardings=devices.replicated)
            rows = self._abstract_batch(evaluation_rows)
            self.evaluate = evaluate.lower(self.abstract_state.weights, *rows).compile()
        self.reset_meter = jax.jit(empty_meter, out_shardings=devices.replicated)
        self.all_finite = jax.jit(_all_finite)
        self.learning_rate = jax.jit(self._learning_rate)

    def start_from(self, arrays: Mapping[str, NDArray[Any]]) -> TrainState:
        """The state before the first step, with these weights instead of random ones.

        Raises `CheckpointError` naming an array that is missing, unknown, or of another shape.
        """
        weights = nnx.eval_shape(lambda: nnx.state(self._model(), nnx.Param))
        fill_weights(weights, arrays)
        weights = jax.device_put(weights, self.places.weights)
        fresh: TrainState = self.init()  # its moments and counts are those of any start
        return TrainState(fresh.step, weights, fresh.optimizer, fresh.meter)

    def _model(self) -> Transformer:
        rngs = nnx.Rngs(self.config.train.seed)
        return Transformer(self.config.model, self.dtype, self.attention, rngs)

    def _init(self) -> TrainState:
        return _first_state(self._model(), self.optimizer)

    def _train(
        self,
        state: TrainState,
        tokens: jax.Array,
        lengths: jax.Array,
        of_sources: jax.Array | None = None,
    ) -> tuple[TrainState, jax.Array]:
        tokens, lengths = tokens.astype(jnp.int32), lengths.astype(jnp.int32)
        train = self.config.train
        keys = dropout_keys(train.seed, state.step, dropout_sites(self.config.model))
        looked_up = None
        hides = train.hidden_sources > 0 or self.config.model.places
        if hides and not train.overfit_one_batch:
            disguise = draw_disguise(train.seed, state.step, len(tokens), train.hidden_sources)
            tokens, looked_up = hide_sources(tokens, disguise, self.config.model)
        to_place = tokens, looked_up
        if of_sources is not None:
            of_sources = of_sources.astype(jnp.int32)
            disguise = draw_disguise(train.seed, state.step, len(of_sources), 1.0, OF_SOURCES)
            to_place = hide_sources(of_sources, disguise, self.config.model)

        def loss_of(weights: nnx.State[Any, Any]) -> tuple[jax.Array, tuple[jax.Array, Tally]]:
            model = nnx.merge(self.graph, whole(weights, self.devices))
            logits = model(tokens, keys, looked_up)
            loss, tally = next_token_loss(
                logits, tokens, lengths, train.answer_weight, train.second_byte_weight
            )
            total = loss + PLACEMENT_WEIGHT * model.placement_loss(*to_place)
            return total, (loss, tally)

        loss_and_gradient = jax.value_and_grad(gathering_again(loss_of, self.devices), has_aux=True)
        (_, (loss, tally)), gradient = loss_and_gradient(state.weights)
        gradient = jax.lax.with_sharding_constraint(gradient, self.places.weights)
        with jax.numpy_dtype_promotion("standard"):  # Optax mixes Python floats and int32 counts
            updates, optimizer = self.optimizer.update(gradient, state.optimizer, state.weights)
        weights = optax.apply_updates(state.weights, updates)
        one_step = Meter(jnp.ones((), jnp.int32), loss, optax.tree.norm(gradient), tally)
        meter = jax.tree.map(jnp.add, state.meter, one_step)
        return TrainState(state.step + 1, weights, optimizer, meter), loss

    def _learning_rate(self, state: TrainState) -> jax.Array:
        with jax.numpy_dtype_promotion("standard"):
            rate: jax.Array = make_schedule(self.config.train)(state.step - 1)
        return rate

    def _evaluate(
        self, weights: nnx.State[Any, Any], tokens: jax.Array, lengths: jax.Array
    ) -> Tally:
        tokens, lengths = tokens.astype(jnp.int32), lengths.astype(jnp.int32)
        logits = nnx.merge(self.graph, whole(weights, self.devices))(tokens)
        return next_token_loss(logits, tokens, lengths)[1]

    def _abstract_batch(self, rows: int) -> tuple[jax.ShapeDtypeStruct, ...]:
        return self._abstract_rows(rows, self.config.model.context), self._abstract_rows(rows)

    def _abstract_rows(self, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.uint16, sharding=self.devices.by_row)


def state_shapes(config: Config) -> TrainState:
    """The shape and type of every array of a state; makes none of them."""

    def first_state() -> TrainState:
        model = Transformer(config.model, jnp.dtype("float32"), "xla", nnx.Rngs(0))
        return _first_state(model, _optimizer(config))

    shapes: TrainState = jax.eval_shape(first_state)
    return shapes


def _optimizer(config: Config) -> optax.GradientTransformation:
    model = config.model
    return make_optimizer(config.train, tables=model.prefix_rows > 0, placement=model.places)


def _first_state(model: Transformer, optimizer: optax.GradientTransformation) -> TrainState:
    weights = nnx.state(model, nnx.Param)
    return TrainState(jnp.zeros((), jnp.int32), weights, optimizer.init(weights), empty_meter())


def empty_meter() -> Meter:
    """A meter that has seen no step."""
    tally = jax.tree.map(jnp.asarray, empty_tally())
    return Meter(jnp.zeros((), jnp.int32), jnp.zeros(()), jnp.zeros(()), tally)


def _placed(tree: Any, places: Any) -> Any:
    return jax.tree.map(
        lambda a, place: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), tree, places
    )


def _all_finite(tree: Any) -> jax.Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()
