"""The best prediction that is possible without context: byte frequencies by field and position.

The model knows the grammar and nothing else: the distribution of a byte depends on its field and its
position in that field, that of a role token on the fields that the measurement already has. A
transformer that does not beat it has learned nothing about addresses or latency.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.network.token_places import MAX_PAYLOAD
from model.run_folder import LossByMode
from model.training.held_out import summarize_modes
from model.training.loss import KIND_TABLE, KINDS, Tally, combine
from stores.cut import TokenRows
from stores.layout import MODES
from stores.sampler import BLOCK, SHARES
from stores.union import Store
from stores.vocabulary import BYTE0, MEASUREMENT_START, ROLES_OF_FIELD, VOCABULARY_SIZE

FIT_WINDOWS = 10_000  # of train, evenly spaced: 10 M tokens for some 100 distributions
FIT_BATCH = 256
SMOOTHING = (1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Shares of the uniform distribution to mix in. For each kind of token, the share that is best on the
validation split is used, or else on test itself: test has sources that train does not have, and a transformer
should not win the comparison merely because they are a surprise to this model."""

BYTE_CONTEXTS = BYTE0 * (MAX_PAYLOAD + 1)
ROLE_CONTEXTS = 3 * 3 * 2 * 2  # source none/v4/v6, destination the same, result, time


def contexts(tokens: NDArray[np.uint16]) -> NDArray[np.int64]:
    """What a context-free model knows when it predicts each token of valid windows: (B, T) int64.

    For a byte, role · 17 + position; for a role token, `BYTE_CONTEXTS` + a number for the set of fields
    that the measurement already has. `tokens` is (B, T) uint16.
    """
    token = tokens.astype(np.int64)
    position = np.broadcast_to(np.arange(token.shape[1]), token.shape)

    def latest(where: NDArray[np.bool_]) -> NDArray[np.int64]:
        """The position of the last True at or before each position, or -1."""
        return np.maximum.accumulate(np.where(where, position, -1), axis=1)

    is_role = token < BYTE0
    at_role = np.maximum(latest(is_role), 0)
    role = np.minimum(np.take_along_axis(token, at_role, 1), BYTE0 - 1)
    of_byte = role * (MAX_PAYLOAD + 1) + np.minimum(position - at_role, MAX_PAYLOAD)

    start = latest(token == MEASUREMENT_START)
    present = np.zeros(token.shape, np.int64)  # fields so far, the token itself included
    for roles, states in zip(ROLES_OF_FIELD, (3, 3, 2, 2), strict=True):
        at = latest(np.isin(token, roles))
        state = np.where(np.take_along_axis(token, np.maximum(at, 0), 1) == roles[0], 1, states - 1)
        present = present * states + np.where(at > start, state, 0)
    before = np.pad(present[:, :-1], ((0, 0), (1, 0)))
    return np.where(is_role, BYTE_CONTEXTS + before, of_byte)


class ContextFree:
    """Token counts by context, fitted on evenly spaced windows of the train split, mixed as for
    training. Takes about 2 s."""

    def __init__(self, store: Store):
        self.counts = np.zeros((BYTE_CONTEXTS + ROLE_CONTEXTS, VOCABULARY_SIZE), np.int64)
        for mode in MODES:
            windows = store.windows("train", mode)
            wanted = min(windows, FIT_WINDOWS * SHARES[mode] // BLOCK)
            spaced = (np.arange(wanted) * windows) // max(wanted, 1)
            for start in range(0, wanted, FIT_BATCH):
                rows = spaced[start : start + FIT_BATCH]
                lengths = np.asarray(store.lengths("train", mode)[rows])
                self._count(store.gather("train", mode, rows), lengths)

    def _count(self, tokens: NDArray[np.uint16], lengths: NDArray[np.uint16]) -> None:
        live = _live(tokens, lengths)
        pair = contexts(tokens)[live] * VOCABULARY_SIZE + tokens[live]
        self.counts += np.bincount(pair, minlength=self.counts.size).reshape(self.counts.shape)

    def evaluate(
        self,
        batches: list[tuple[str, TokenRows]],
        chosen_on: list[tuple[str, TokenRows]] | None = None,
    ) -> LossByMode:
        """The same numbers as `HeldOutLoss.measure` on the same batches, with the smoothing that is best for
        each kind of token on the batches `chosen_on`, by default on the same ones."""
        tallies = self._tallies(batches)
        chosen = tallies if chosen_on is None else self._tallies(chosen_on)
        best = np.argmin([combine(of_batches).nats for of_batches in chosen], axis=0)  # (kinds,)

        def choose(batch: int, name: str) -> NDArray[Any]:
            sums = [getattr(of_batches[batch], name) for of_batches in tallies]
            chosen: NDArray[Any] = np.choose(best, sums)
            return chosen

        mixed = [
            tally._replace(nats=choose(i, "nats"), correct=choose(i, "correct"))
            for i, tally in enumerate(tallies[0])
        ]
        return summarize_modes([mode for mode, _ in batches], mixed)

    def _tallies(self, batches: list[tuple[str, TokenRows]]) -> list[list[Tally]]:
        """Of each batch, by smoothing."""
        tables = map(self.log_probabilities, SMOOTHING)
        return [[self._tally(table, *rows) for _, rows in batches] for table in tables]

    def log_probabilities(self, uniform: float) -> NDArray[np.float64]:
        """(contexts, vocabulary) float64: the logarithms of the frequencies, mixed with the share
        `uniform` of the uniform distribution over the tokens that the grammar allows there."""
        allowed = np.zeros(self.counts.shape)
        allowed[:BYTE_CONTEXTS, BYTE0:] = 1 / (VOCABULARY_SIZE - BYTE0)
        allowed[BYTE_CONTEXTS:, :BYTE0] = 1 / BYTE0
        total = self.counts.sum(1, keepdims=True)
        frequency = np.where(total > 0, self.counts / np.maximum(total, 1), allowed)
        with np.errstate(divide="ignore"):
            return np.log((1 - uniform) * frequency + uniform * allowed)

    def _tally(
        self, table: NDArray[np.float64], tokens: NDArray[np.uint16], lengths: NDArray[np.uint16]
    ) -> Tally:
        live = _live(tokens, lengths)
        context, token = contexts(tokens)[live], tokens[live].astype(np.int64)
        kind = np.append(KIND_TABLE.ravel(), np.zeros(ROLE_CONTEXTS, np.int32))[context]
        right = table.argmax(1)[context] == token

        def by_kind(weights: NDArray[Any] | None) -> NDArray[Any]:
            return np.bincount(kind, weights, minlength=len(KINDS))

        whole = np.arange(tokens.shape[1]) < lengths[:, None].astype(np.int64)
        starts = (tokens == MEASUREMENT_START) & whole
        nats = -table[context, token]
        return Tally(by_kind(nats), by_kind(right), by_kind(None), starts.sum())


def _live(tokens: NDArray[np.uint16], lengths: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """The positions that are predicted: all but the first of a row and its tail, as in `loss`."""
    position = np.arange(tokens.shape[1])
    return (position > 0) & (position < lengths[:, None].astype(np.int64))
