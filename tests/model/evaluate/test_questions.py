"""Which rows are asked, and what their contexts hold."""

from __future__ import annotations

import numpy as np

from model.evaluate.questions import choose_questions
from stores.rows import Rows
from tests.model.evaluate.small_rows import make_rows

A, B, C = "192.0.2.1", "192.0.2.2", "192.0.2.3"
X, Y, Z = "198.51.100.1", "198.51.100.2", "203.0.113.1"


def random_rows(seed: int) -> tuple[Rows, Rows]:
    rng = np.random.default_rng(seed)

    def some(count: int, sources: list[str]) -> list:
        return [
            (
                str(rng.choice(sources)),
                str(rng.choice([X, Y, Z])),
                int(rng.integers(1000, 1200)),
                None if rng.random() < 0.1 else float(rng.integers(1, 100)),
            )
            for _ in range(count)
        ]

    return make_rows(some(80, [A, B]), some(60, [A, C]))


def test_context_is_the_last_rows_of_the_source_before_the_query() -> None:
    train, test = random_rows(0)
    asked = choose_questions(train, test, None, context_rows=5)
    for at in range(len(test)):
        history = train if test.src[at] in train.src else test
        earlier = np.flatnonzero(
            (history.src == test.src[at]) & (history.seconds < test.seconds[at])
        )
        earlier = earlier[np.argsort(history.seconds[earlier], kind="stable")][-5:]
        used = asked.queries.context_dst[at] >= 0
        assert used.sum() == len(earlier)
        assert not used[: 5 - len(earlier)].any()
        for column, values in (
            (asked.queries.context_dst, history.dst),
            (asked.queries.context_seconds, history.seconds),
            (asked.queries.context_rtt_ms, history.rtt_ms),
        ):
            np.testing.assert_array_equal(column[at][used], values[earlier])


def test_a_known_source_learns_nothing_from_test_rows() -> None:
    train, test = make_rows([(A, X, 1, 1.0)], [(A, Y, 5, 2.0), (A, Z, 9, 3.0)])
    asked = choose_questions(train, test, None)
    last = asked.queries.take([1])
    assert last.context_rtt_ms[last.context_dst >= 0].tolist() == [1.0]


def test_a_new_source_brings_its_own_earlier_rows_and_never_the_answer() -> None:
    train, test = make_rows(
        [(A, X, 1, 1.0)], [(C, X, 5, 2.0), (C, X, 6, None), (C, X, 6, 4.0), (C, Y, 7, 5.0)]
    )
    asked = choose_questions(train, test, None)
    contexts = [
        asked.queries.context_rtt_ms[at][asked.queries.context_dst[at] >= 0] for at in range(4)
    ]
    np.testing.assert_array_equal(contexts[0], [])
    np.testing.assert_array_equal(contexts[1], [2.0])  # not the other row of its second
    np.testing.assert_array_equal(contexts[2], [2.0])
    np.testing.assert_array_equal(contexts[3], [2.0, np.nan, 4.0])
    assert asked.queries.context_has_pair.tolist() == [False, True, True, False]


def test_groups_say_what_train_has_seen() -> None:
    train, test = make_rows(
        [(A, X, 1, 1.0), (A, Y, 2, None)],
        [(A, X, 5, 2.0), (A, Y, 5, 2.0), (A, Z, 5, 2.0), (C, X, 5, 2.0)],
    )
    groups = choose_questions(train, test, None).groups()
    assert groups["seen_pairs"].tolist() == [True, True, False, False]
    assert groups["unseen_pairs"].tolist() == [False, False, True, False]
    assert groups["seen_sources"].tolist() == [True, True, True, False]
    assert groups["unseen_sources"].tolist() == [False, False, False, True]
    assert groups["context_has_pair"].tolist() == [True, True, False, False]
    assert groups["all"].all()


def test_less_context_is_the_most_recent_of_it() -> None:
    train, test = random_rows(1)
    asked = choose_questions(train, test, None, context_rows=8)
    short = choose_questions(train, test, None, context_rows=3)
    np.testing.assert_array_equal(
        asked.queries.with_context(3).context_rtt_ms, short.queries.context_rtt_ms
    )
    assert asked.queries.with_context(0).context_dst.shape == (len(test), 0)
    assert not asked.queries.with_context(0).context_has_pair.any()


def test_a_limit_takes_a_seeded_sample() -> None:
    train, test = random_rows(2)
    picks = [choose_questions(train, test, 20, seed) for seed in (0, 0, 1)]
    assert [len(pick.queries) for pick in picks] == [20, 20, 20]
    np.testing.assert_array_equal(picks[0].rtt_ms, picks[1].rtt_ms)
    assert not np.array_equal(picks[0].queries.seconds, picks[2].queries.seconds)
    assert picks[0].candidates == len(test)
    assert len(choose_questions(train, test, 10**6).queries) == len(test)
