"""How likely a model finds test windows: nats of each field given those before it, and of each byte.

One plain forward pass gives p(token | all tokens before it). The order of the fields was drawn at random
and cannot be predicted, so the nats of a field leave it out: the role token is scored only among the roles
of the same field (IPv4 or IPv6, answered or failed, how a timestamp is written), bytes only among bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from model.evaluate.records import (
    ByteScores,
    ByteTable,
    FieldNats,
    Likelihood,
    ModeLikelihood,
    OrderNats,
)
from model.network.transformer import Transformer
from stores.cut import cut_windows
from stores.grammar import ORDER_NAMES, ORDERS
from stores.union import Store
from stores.vocabulary import (
    BYTE0,
    DST_IPV4,
    DST_IPV6,
    FIELDS,
    MEASUREMENT_START,
    PAYLOAD_BYTES,
    ROLES_OF_FIELD,
    SRC_IPV4,
    SRC_IPV6,
    VOCABULARY_SIZE,
)

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

MODES = ("full", "none")  # a timestamp on every measurement, and on none
BATCH = 8  # windows of a forward pass
FAMILIES = {"ipv4": (SRC_IPV4, DST_IPV4), "ipv6": (SRC_IPV6, DST_IPV6)}
NOTHING = "nothing"
"""Stands for the fields known before the first one of a measurement."""

_PAYLOAD = np.array(PAYLOAD_BYTES)
_FIELD = np.full(BYTE0, -1)  # of each role
for _number, _roles in enumerate(ROLES_OF_FIELD):
    _FIELD[list(_roles)] = _number


def likelihood_report(
    model: Transformer,
    store: Store,
    windows: int,
    advance: Callable[[int], None] = lambda count: None,
) -> Likelihood:
    """How likely the model finds evenly spaced windows of the test split, at most `windows` of each mode.

    Bytes are scored on the windows with timestamps. `advance` is called with the number of windows scored
    since the last call, of at most 2 · `windows` in total.
    """
    by_mode: dict[str, ModeLikelihood] = {}
    of_bytes: ByteTable = {}
    for seed, mode in enumerate(MODES):
        tokens, lengths = spaced_windows(store, mode, windows, model.config.context, seed)
        nats, hits = token_scores(model, tokens, advance)
        fields = find_fields(tokens, lengths)
        by_mode[mode] = _mode_likelihood(fields, fields.sums(nats))
        if mode == "full":
            of_bytes = byte_report(fields, nats, hits)
    return Likelihood(full=by_mode["full"], bytes=of_bytes, none=by_mode["none"])


def spaced_windows(
    store: Store, mode: str, count: int, context: int, seed: int
) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Evenly spaced test windows, at most `count`, cut to `context`: tokens (n, context), lengths."""
    stored = store.windows("test", mode)
    rows = np.arange(min(count, stored)) * stored // max(min(count, stored), 1)
    tokens, lengths = store.gather("test", mode, rows), store.lengths("test", mode)[rows]
    return cut_windows(tokens, np.asarray(lengths), context, (0, seed))


# --- On the device ------------------------------------------------------------------------------------


def token_scores(
    model: Transformer, tokens: NDArray[np.uint16], advance: Callable[[int], None]
) -> tuple[Floats, Mask]:
    """For windows (n, T): nats (n, T) of each token among those of its kind, and whether it was the
    likeliest of them. The first token of a window is not predicted: 0 nats."""
    same_kind = jnp.asarray(_same_kind(model.config.vocabulary))

    @nnx.jit
    def score(model: Transformer, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = model(rows)[:, :-1]  # (B, T-1, V)
        targets = rows[:, 1:].astype(jnp.int32)
        within = jnp.where(same_kind[targets], logits, -jnp.inf)
        own = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        return jax.nn.logsumexp(within, axis=-1) - own, jnp.argmax(within, axis=-1) == targets

    nats = np.zeros(tokens.shape)
    hits = np.zeros(tokens.shape, bool)
    for start in range(0, len(tokens), BATCH):
        rows = tokens[start : start + BATCH]
        padded = np.pad(rows, ((0, BATCH - len(rows)), (0, 0)))
        found = jax.device_get(score(model, jnp.asarray(padded)))
        nats[start : start + BATCH, 1:], hits[start : start + BATCH, 1:] = (
            part[: len(rows)] for part in found
        )
        advance(len(rows))
    return nats, hits


def _same_kind(vocabulary: int) -> Mask:
    """(267, vocabulary) whether a token could stand in place of another if the field were known."""
    kinds = np.full(vocabulary, -1)
    kinds[MEASUREMENT_START] = len(FIELDS)
    for number, roles in enumerate(ROLES_OF_FIELD):
        kinds[list(roles)] = number
    kinds[BYTE0:VOCABULARY_SIZE] = len(FIELDS) + 1
    same: Mask = kinds[:VOCABULARY_SIZE, None] == kinds
    return same


# --- Fields -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fields:
    """The fields of windows in order, arrays (fields,); `measurement` counts from 0 over all windows."""

    window: NDArray[np.int64]
    start: NDArray[np.int64]
    """Place of the role token in its window."""
    role: NDArray[np.int64]
    measurement: NDArray[np.int64]
    before: NDArray[np.int64]
    """Fields that the measurement already has: one bit each, numbered as in `FIELDS`."""
    again: Mask
    """For an address: whether the window already has it in this field."""

    @property
    def field(self) -> NDArray[np.int64]:
        """Number in `FIELDS`."""
        return _FIELD[self.role]

    def sums(self, nats: Floats) -> Floats:
        """(fields,) sums over role and payload of `nats` (windows, T)."""
        total = np.cumsum(nats, axis=1)
        end = self.start + _PAYLOAD[self.role]
        sums: Floats = total[self.window, end] - total[self.window, self.start - 1]
        return sums


def find_fields(tokens: NDArray[np.uint16], lengths: NDArray[np.uint16]) -> Fields:
    """The fields of valid windows (n, T)."""
    live = np.arange(tokens.shape[1]) < lengths[:, None]
    window, start = np.nonzero((tokens < BYTE0) & live)
    role = tokens[window, start].astype(np.int64)
    begins = role == MEASUREMENT_START
    measurement = np.cumsum(begins) - 1
    bit = np.where(begins, 0, 1 << np.maximum(_FIELD[role], 0))
    so_far = np.cumsum(bit)
    before = so_far - bit - so_far[begins][measurement]
    seen: set[tuple[int, int, bytes]] = set()
    again = np.zeros(len(role), bool)
    for at in np.flatnonzero((role >= SRC_IPV4) & (role <= DST_IPV6)):
        first = start[at] + 1
        payload = tokens[window[at], first : first + PAYLOAD_BYTES[role[at]]].tobytes()
        key = (int(window[at]), int(role[at]), payload)
        again[at] = key in seen
        seen.add(key)
    kept = ~begins
    return Fields(*(column[kept] for column in (window, start, role, measurement, before, again)))


def _mode_likelihood(fields: Fields, own: Floats) -> ModeLikelihood:
    """Mean nats by field, field order and known fields, of `own` (fields,) nats."""
    measurements = len(np.unique(fields.measurement))
    sums = np.bincount(fields.field, own, len(FIELDS))
    present = np.unique(fields.field)
    return ModeLikelihood(
        measurements=measurements,
        nats={FIELDS[field]: float(sums[field] / measurements) for field in present},
        total=float(sums.sum() / measurements) if measurements else None,
        orders=_orders(fields, own),
        conditionals=_conditionals(fields, own),
    )


def _orders(fields: Fields, own: Floats) -> dict[str, OrderNats]:
    """Mean nats of a measurement by its field order."""
    _, measurement = np.unique(fields.measurement, return_inverse=True)
    place = np.bitwise_count(fields.before)
    total = np.bincount(measurement, own)
    found = np.full((len(total), len(FIELDS)), -1)  # each measurement's fields in order, then -1
    found[measurement, place] = fields.field
    result = {}
    for order, name in zip(ORDERS, ORDER_NAMES, strict=True):
        padded = (*order, *[-1] * (len(FIELDS) - len(order)))
        chosen = total[(found == padded).all(axis=1)]
        if len(chosen):
            result[name] = OrderNats(measurements=len(chosen), nats=float(chosen.mean()))
    return result


def _conditionals(fields: Fields, own: Floats) -> dict[str, dict[str, FieldNats]]:
    """Mean nats of each field by which others the measurement had before it."""
    result: dict[str, dict[str, FieldNats]] = {}
    for field, before in sorted(
        set(zip(fields.field.tolist(), fields.before.tolist(), strict=True))
    ):
        nats = own[(fields.field == field) & (fields.before == before)]
        known = [name for at, name in enumerate(FIELDS) if before >> at & 1]
        result.setdefault(FIELDS[field], {})[" ".join(known) or NOTHING] = FieldNats(
            count=len(nats), nats=float(nats.mean())
        )
    return result


def byte_report(fields: Fields, nats: Floats, hits: Mask) -> ByteTable:
    """How well the bytes of addresses are predicted, each given everything before it.

    An address is `again` if the window already had it in the same field, else `new`. The perplexity of a
    model that knows nothing is 256 per byte.
    """
    report: dict[str, dict[str, dict[str, ByteScores]]] = {}
    for family, roles in FAMILIES.items():
        for role in roles:
            for name, chosen in (("new", ~fields.again), ("again", fields.again)):
                at = np.flatnonzero(chosen & (fields.role == role))
                places = fields.start[at, None] + 1 + np.arange(_PAYLOAD[role])  # (n, bytes)
                if not len(at):
                    continue
                window = fields.window[at, None]
                of_field = report.setdefault(family, {}).setdefault(FIELDS[_FIELD[role]], {})
                of_field[name] = ByteScores(
                    count=len(at),
                    perplexity=float(np.exp(nats[window, places].mean())),
                    accuracy=hits[window, places].mean(0).tolist(),
                )
    return report
