"""What a model makes of test windows: nats of each field given those before it, and of each byte.

One plain forward pass gives p(token | all tokens before it). The order of fields is a coin flip that
nobody can predict, so a field's own nats leave it out: its role counts among the roles of the same field
(IPv4 or IPv6, answered or failed, how a time is written), its bytes among the bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from model.network.transformer import Transformer
from stores.cut import cut_windows
from stores.grammar import ORDER_NAMES, ORDERS
from stores.reader import TokenStore
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

MODES = ("full", "none")  # with the time on every measurement, and on none
BATCH = 8  # windows of a forward pass
FAMILIES = {"ipv4": (SRC_IPV4, DST_IPV4), "ipv6": (SRC_IPV6, DST_IPV6)}
NOTHING = "nothing"
"""Name of what is known before a measurement's first field."""

_PAYLOAD = np.array(PAYLOAD_BYTES)
_FIELD = np.full(BYTE0, -1)  # of each role
for _number, _roles in enumerate(ROLES_OF_FIELD):
    _FIELD[list(_roles)] = _number


def likelihood_report(
    model: Transformer,
    store: TokenStore,
    windows: int,
    advance: Callable[[int], None] = lambda count: None,
) -> dict[str, Any]:
    """How likely the model finds evenly spaced windows of the test split, JSON-able.

    For each mode, `full` (a time on every measurement) and `none`: `measurements`; mean `nats` of one by
    field, and their `total`; `orders` {field order}: `measurements`, `nats`; `conditionals` {field:
    {fields known before it}}: `count`, `nats`. And `bytes` of the full windows, as `byte_report`.
    `advance` is told how many windows of all 2 · `windows` were done.
    """
    report: dict[str, Any] = {}
    for seed, mode in enumerate(MODES):
        tokens, lengths = spaced_windows(store, mode, windows, model.config.context, seed)
        nats, hits = token_scores(model, tokens, advance)
        fields = find_fields(tokens, lengths)
        own = fields.sums(nats)
        report[mode] = {
            **_totals(fields, own),
            "orders": _orders(fields, own),
            "conditionals": _conditionals(fields, own),
        }
        if mode == MODES[0]:
            report["bytes"] = byte_report(fields, nats, hits)
    return report


def spaced_windows(
    store: TokenStore, mode: str, count: int, context: int, seed: int
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
    """Of windows (n, T): nats of each token among those of its kind, and whether it was the likeliest
    of them. The first of a window has no prediction: 0 nats."""
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
    """(267, vocabulary) whether a token could stand where another does, were the field known."""
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
    """Fields that the measurement already has, a bit each, as numbered in `FIELDS`."""
    again: Mask
    """Of an address: the window already has it in this field."""

    @property
    def field(self) -> NDArray[np.int64]:
        """Number in `FIELDS`."""
        return _FIELD[self.role]

    def sums(self, nats: Floats) -> Floats:
        """(fields,) sums over role and payload of `nats` (windows, T)."""
        total = np.cumsum(nats, axis=1)
        end = self.start + _PAYLOAD[self.role]
        return total[self.window, end] - total[self.window, self.start - 1]


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


def _totals(fields: Fields, own: Floats) -> dict[str, Any]:
    """Mean nats of a measurement, by field and in all."""
    measurements = len(np.unique(fields.measurement))
    sums = np.bincount(fields.field, own, len(FIELDS))
    present = np.unique(fields.field)
    return {
        "measurements": measurements,
        "nats": {FIELDS[field]: float(sums[field] / measurements) for field in present},
        "total": float(sums.sum() / measurements) if measurements else None,
    }


def _orders(fields: Fields, own: Floats) -> dict[str, Any]:
    """Mean nats of a measurement by its field order."""
    _, measurement = np.unique(fields.measurement, return_inverse=True)
    place = np.bitwise_count(fields.before)
    code = np.bincount(measurement, (fields.field + 1) * 5.0**place)  # the order's digits, base 5
    total = np.bincount(measurement, own)
    result = {}
    for order, name in zip(ORDERS, ORDER_NAMES, strict=True):
        chosen = total[code == sum((field + 1) * 5**at for at, field in enumerate(order))]
        if len(chosen):
            result[name] = {"measurements": len(chosen), "nats": float(chosen.mean())}
    return result


def _conditionals(fields: Fields, own: Floats) -> dict[str, dict[str, Any]]:
    """Mean nats of each field by which others the measurement had before it."""
    result: dict[str, dict[str, Any]] = {}
    for field, before in sorted(
        set(zip(fields.field.tolist(), fields.before.tolist(), strict=True))
    ):
        nats = own[(fields.field == field) & (fields.before == before)]
        known = [name for at, name in enumerate(FIELDS) if before >> at & 1]
        result.setdefault(FIELDS[field], {})[" ".join(known) or NOTHING] = {
            "count": len(nats),
            "nats": float(nats.mean()),
        }
    return result


def byte_report(fields: Fields, nats: Floats, hits: Mask) -> dict[str, Any]:
    """How well the bytes of addresses are predicted, each given all before it.

    {ipv4, ipv6: {src, dst: {new, again: …}}}, `again` if the window has that address earlier: `count`,
    `perplexity` (per byte, 256 of a model that knows nothing), `accuracy` of the likeliest byte by position.
    """
    report: dict[str, Any] = {}
    for family, roles in FAMILIES.items():
        for role in roles:
            for name, chosen in (("new", ~fields.again), ("again", fields.again)):
                at = np.flatnonzero(chosen & (fields.role == role))
                places = fields.start[at, None] + 1 + np.arange(_PAYLOAD[role])  # (n, bytes)
                if not len(at):
                    continue
                window = fields.window[at, None]
                of_field = report.setdefault(family, {}).setdefault(FIELDS[_FIELD[role]], {})
                of_field[name] = {
                    "count": len(at),
                    "perplexity": float(np.exp(nats[window, places].mean())),
                    "accuracy": hits[window, places].mean(0).tolist(),
                }
    return report
