"""From prompts to distributions, completions and draws, on the device.

Only what the grammar allows at a position is ever looked at: the two kinds of result where a result
comes next, the 256 bytes where a byte does. Each function is compiled once per shape of its arguments.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from model.inference.query import MAX_BRANCHES
from model.network.kv_cache import Branches, CachedTransformer, Past
from model.network.transformer import Transformer
from stores.vocabulary import BYTE0, FAILED, RTT_START

BYTES = 256
CHUNK = 64  # first bytes whose second bytes are computed together
NEGLIGIBLE = 1e-6  # first bytes less probable than this in total get no second byte computed
DRAWS = 64  # per device call


class Prompts(NamedTuple):
    """B prompts that have been read: logits (B, 2, V) at their last two tokens, and their past."""

    logits: jax.Array
    past: Past


class RttTable(NamedTuple):
    """Log-probabilities of B results, float32."""

    failed: jax.Array  # (B,)
    first: jax.Array  # (B, 256), of the RTT code's first byte, given an answer
    second: jax.Array  # (B, 256, 256), of its second byte, given [the first]


class Beams(NamedTuple):
    """Bytes (B, N, S) int32, their log-probabilities (B, N, S), and the sums of these (B, N)."""

    bytes: jax.Array
    log_probabilities: jax.Array
    scores: jax.Array


class Bands(NamedTuple):
    """Which RTT codes count, for each of B questions. They are contiguous, so at most two first bytes
    count only in part."""

    whole: Any  # (B, 256) float32, 1 for first bytes all of whose codes count
    edges: Any  # (B, 2) int32, first bytes some of whose codes count
    parts: Any  # (B, 2, 256) float32, 1 for the second bytes that count after these


class Draws(NamedTuple):
    """Addresses (B, N, S) int32 bytes, their log-probabilities (B, N), and P(RTT in the band) (B, N)."""

    bytes: jax.Array
    scores: jax.Array
    within: jax.Array


class Decoder:
    """The compiled functions of a model; they take and return arrays on the device."""

    def __init__(self, model: Transformer):
        self.model = CachedTransformer(model)
        self._read = jax.jit(self._read_prompts)
        self._rtt = jax.jit(self._rtt_table)
        self._search = jax.jit(self._search_beams, static_argnames="length")
        self._draw = jax.jit(self._draw_addresses, static_argnames="length")

    def read(self, tokens: Any, lengths: Any) -> Prompts:
        """Read prompts (B, T) int32 of `lengths` (B,) int32, at least 2 each."""
        result: Prompts = self._read(self.model.weights, tokens, lengths)
        return result

    def rtt_table(self, prompts: Prompts) -> RttTable:
        """Distribution of the result; the prompts end with RTT_START.

        The second byte is computed for the likeliest first bytes, 64 at a time, until those left have
        less than 1e-6 of the probability together; for these it is taken as uniform.
        """
        result: RttTable = self._rtt(self.model.weights, prompts)
        return result

    def search(self, prompts: Prompts, unknown: int, length: int) -> Beams:
        """The 256 likeliest continuations of each prompt by `unknown` bytes, best first.

        A beam search 256 wide, so exact for one or two bytes. `length` (at least `unknown`) is the room in
        the result; each value of it is compiled once. Costs `unknown` - 1 passes of 256 tokens.
        """
        result: Beams = self._search(self.model.weights, prompts, jnp.int32(unknown), length=length)
        return result

    def draw(self, prompts: Prompts, bands: Bands, keys: jax.Array, length: int) -> Draws:
        """Independent draws of an address of `length` bytes, 64 for each prompt, and how probable an
        answer in the prompt's band is for each; the prompts end with the address's role. `keys` (B,)
        are random keys, one per prompt, so no prompt's draws depend on the others. Costs `length` + 3
        passes of 64 tokens."""
        result: Draws = self._draw(self.model.weights, prompts, bands, keys, length=length)
        return result

    def _read_prompts(self, weights: Any, tokens: jax.Array, lengths: jax.Array) -> Prompts:
        return Prompts(*self.model.read(weights, tokens, lengths))

    def _rtt_table(self, weights: Any, prompts: Prompts) -> RttTable:
        results = prompts.logits[:, 0, np.array([RTT_START, FAILED])]
        failed = jax.nn.log_softmax(results)[:, 1]
        first = byte_log_probabilities(prompts.logits[:, 1])  # (B, 256)
        mass, order = lax.top_k(jnp.exp(first), BYTES)
        left = lax.cumsum(mass, axis=1, reverse=True)[:, ::CHUNK]  # (B, chunks), before each
        row = jnp.arange(len(first))[:, None]
        empty = self.model.no_branches(prompts.past, CHUNK, 1)

        def matters(state: tuple[jax.Array, jax.Array]) -> jax.Array:
            chunk = state[0]
            more = lax.dynamic_index_in_dim(left, jnp.minimum(chunk, BYTES // CHUNK - 1), 1)
            wanted: jax.Array = (chunk < BYTES // CHUNK) & (more > NEGLIGIBLE).any()
            return wanted

        def compute(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            chunk, second = state
            chosen = lax.dynamic_slice_in_dim(order, chunk * CHUNK, CHUNK, 1)  # (B, 64)
            logits, _ = self.model.grow(
                weights, prompts.past, empty, chosen + BYTE0, jnp.zeros((), jnp.int32)
            )
            # A row that is finished keeps its values, whatever the other rows still need.
            wanted = lax.dynamic_index_in_dim(left, chunk, 1) > NEGLIGIBLE  # (B, 1)
            values = jnp.where(
                wanted[..., None], byte_log_probabilities(logits), second[row, chosen]
            )
            return chunk + 1, second.at[row, chosen].set(values)

        uniform = jnp.full((*first.shape, BYTES), -np.log(BYTES), jnp.float32)
        _, second = lax.while_loop(matters, compute, (jnp.zeros((), jnp.int32), uniform))
        return RttTable(failed, first, second)

    def _search_beams(
        self, weights: Any, prompts: Prompts, unknown: jax.Array, length: int
    ) -> Beams:
        scores, first = lax.top_k(byte_log_probabilities(prompts.logits[:, 1]), MAX_BRANCHES)
        room = ((0, 0), (0, 0), (0, length - 1))
        beams = Beams(jnp.pad(first[..., None], room), jnp.pad(scores[..., None], room), scores)
        branches = self.model.no_branches(prompts.past, MAX_BRANCHES, max(length - 1, 1))

        def step(at: jax.Array, state: tuple[Beams, Branches]) -> tuple[Beams, Branches]:
            beams, branches = state
            last = lax.dynamic_index_in_dim(beams.bytes, at - 1, 2, keepdims=False)  # (B, N)
            logits, branches = self.model.grow(
                weights, prompts.past, branches, last + BYTE0, at - 1
            )
            byte_scores = byte_log_probabilities(logits)  # (B, N, 256)
            total = (beams.scores[..., None] + byte_scores).reshape(len(last), -1)
            scores, chosen = lax.top_k(total, MAX_BRANCHES)
            parent, byte = chosen // BYTES, chosen % BYTES
            row = jnp.arange(len(last))[:, None]
            runs = beams.bytes[row, parent].at[:, :, at].set(byte)
            each = (
                beams.log_probabilities[row, parent]
                .at[:, :, at]
                .set(byte_scores[row, parent, byte])
            )
            branches = Branches(
                branches.keys[:, row, parent],
                branches.values[:, row, parent],
                branches.tokens[row, parent],
            )
            return Beams(runs, each, scores), branches

        one = jnp.ones((), jnp.int32)
        found: Beams = lax.fori_loop(one, unknown, step, (beams, branches))[0]
        return found

    def _draw_addresses(
        self, weights: Any, prompts: Prompts, bands: Bands, keys: jax.Array, length: int
    ) -> Draws:
        shape = (len(keys), DRAWS)

        def grow(branches: Branches, tokens: Any, grown: Any) -> tuple[jax.Array, Branches]:
            each = jnp.broadcast_to(jnp.asarray(tokens, jnp.int32), shape)
            return self.model.grow(weights, prompts.past, branches, each, jnp.int32(grown))

        def pick(logits: jax.Array, at: Any, draws: Draws) -> Draws:
            scores = jnp.broadcast_to(byte_log_probabilities(logits), (*shape, BYTES))
            at_step = jax.vmap(jax.random.fold_in, (0, None))(keys, at)
            byte = jax.vmap(jax.random.categorical)(at_step, scores)  # (B, N)
            score = jnp.take_along_axis(scores, byte[..., None], axis=2)[..., 0]
            return draws._replace(
                bytes=draws.bytes.at[:, :, at].set(byte), scores=draws.scores + score
            )

        def step(at: jax.Array, state: tuple[Draws, Branches]) -> tuple[Draws, Branches]:
            draws, branches = state
            last = lax.dynamic_index_in_dim(draws.bytes, at - 1, 2, keepdims=False)
            logits, branches = grow(branches, last + BYTE0, at - 1)
            return pick(logits, at, draws), branches

        none = jnp.zeros(shape)
        draws = pick(
            prompts.logits[:, 1:], 0, Draws(jnp.zeros((*shape, length), jnp.int32), none, none)
        )
        branches = self.model.no_branches(prompts.past, DRAWS, length + 2)
        draws, branches = lax.fori_loop(1, length, step, (draws, branches))

        results, branches = grow(branches, draws.bytes[..., -1] + BYTE0, length - 1)
        answered = jax.nn.softmax(results[..., np.array([RTT_START, FAILED])])[..., 0]
        logits, branches = grow(branches, RTT_START, length)
        first = jnp.exp(byte_log_probabilities(logits))  # (B, N, 256)
        within = jnp.einsum("bnf,bf->bn", first, bands.whole)
        for edge in range(2):
            at_edge = bands.edges[:, edge, None]  # (B, 1)
            logits, _ = grow(branches, at_edge + BYTE0, length + 1)
            part = jnp.einsum(
                "bns,bs->bn", jnp.exp(byte_log_probabilities(logits)), bands.parts[:, edge]
            )
            within += part * jnp.take_along_axis(first, at_edge[..., None], axis=2)[..., 0]
        return Draws(draws.bytes, draws.scores, answered * within)


def byte_log_probabilities(logits: jax.Array) -> jax.Array:
    """(..., V) logits to (..., 256) log-probabilities of the bytes, given that a byte comes next."""
    return jax.nn.log_softmax(logits[..., BYTE0 : BYTE0 + BYTES])
