from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from model.training.context_free import SMOOTHING, ContextFree, contexts
from model.training.held_out import fixed_batches, summarize_modes
from stores.codec import encode_windows
from stores.layout import MODES
from stores.reader import TokenStore
from stores.vocabulary import BYTE0, MEASUREMENT_START, PAYLOAD_BYTES, ROLE_NAMES
from tests.helpers import random_measurements


def plain_contexts(window: list[int]) -> list[object]:
    """Twin of `contexts`: walk the grammar, note what is known before each token."""
    known: list[object] = []
    role, at, fields = 0, 0, frozenset[str]()
    for token in window:
        if token >= BYTE0:
            at += 1
            known.append((role, at))
            continue
        known.append(fields)
        role, at = token, 0
        name = ROLE_NAMES[token]
        if token == MEASUREMENT_START:
            fields = frozenset()
        elif name.startswith("TIMESTAMP"):
            fields |= {"time"}
        elif name in ("RTT_START", "FAILED"):
            fields |= {"result"}
        else:
            fields |= {name}
    return known


def test_contexts_tell_apart_exactly_what_the_grammar_tells_apart() -> None:
    measurements = random_measurements(300, 4)
    stream = ((m, i % 3 > 0) for i, m in enumerate(measurements))
    same: dict[object, set[int]] = defaultdict(set)
    for window in encode_windows(stream):
        for key, number in zip(
            plain_contexts(window), contexts(np.array([window], np.uint16))[0], strict=True
        ):
            same[key].add(int(number))
    assert all(len(numbers) == 1 for numbers in same.values())
    assert len({number for numbers in same.values() for number in numbers}) == len(same)


def test_loss_is_that_of_the_frequencies(store: Path) -> None:
    """Against counting in plain Python, over whole windows and the same smoothing."""
    opened = TokenStore.open(store)
    counts: dict[object, Counter[int]] = defaultdict(Counter)
    for mode in MODES:
        for row in range(opened.windows("train", mode)):
            length = int(opened.lengths("train", mode)[row])
            window = opened.gather("train", mode, [row])[0, :length].tolist()
            for key, token in list(zip(plain_contexts(window), window, strict=True))[1:]:
                counts[key][token] += 1
    batches = fixed_batches(opened, 10, 1024)
    model = ContextFree(opened)
    table = model.log_probabilities(0.1)
    ours, theirs, tokens = 0.0, 0.0, 0
    for _, (rows, lengths) in batches:
        ours += float(np.sum(model._tally(table, rows, lengths).nats))
        for row, length in zip(rows, lengths.tolist(), strict=True):
            window = row[:length].tolist()
            for key, token in list(zip(plain_contexts(window), window, strict=True))[1:]:
                choices = BYTE0 if isinstance(key, frozenset) else 256
                frequency = counts[key][token] / sum(counts[key].values())
                theirs -= np.log(0.9 * frequency + 0.1 / choices)
                tokens += 1
    assert tokens > 10_000
    assert ours == pytest.approx(theirs, rel=1e-6)


def test_each_kind_has_the_smoothing_with_the_lowest_loss(store: Path) -> None:
    opened = TokenStore.open(store)
    batches = fixed_batches(opened, 10, 1024)
    model = ContextFree(opened)
    result = model.evaluate(batches)
    assert result.kinds["source_1"].loss <= np.log(256) + 1e-9
    for uniform in SMOOTHING:
        table = model.log_probabilities(uniform)
        one = summarize_modes(
            [mode for mode, _ in batches], [model._tally(table, *r) for _, r in batches]
        )
        assert one.tokens == result.tokens
        for kind, numbers in result.kinds.items():
            assert numbers.loss <= one.kinds[kind].loss + 1e-9


def test_every_payload_byte_has_a_context_of_its_own() -> None:
    window = encode_windows((m, True) for m in random_measurements(40, 1))[0]
    found = contexts(np.array([window], np.uint16))[0]
    for i, token in enumerate(window):
        for offset in range(1, PAYLOAD_BYTES[token] + 1 if token < BYTE0 else 1):
            assert found[i + offset] == token * 17 + offset
