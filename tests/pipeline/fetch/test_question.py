"""What a user may ask for, and how it is cut into slices."""

from __future__ import annotations

import random
import re
import time
from typing import Any, Literal

import pytest

from pipeline.fetch.question import Question, Slice, make_question
from stores.errors import ConfigError

DAY = 86400
JAN = 1704067200  # 2024-01-01


def question(**changes: Any) -> Question:
    every: Literal["hour", "day"] = changes.pop("every", "day")
    given = {
        "url": "https://h", "measurements": "1001", "start": "2024-01-01", "stop": "2024-01-03", "probes": None,
    } | changes  # fmt: skip
    return make_question(**given, every=every)


def test_times_and_lists_have_one_form_and_slices_end_with_days() -> None:
    asked = question(
        url="https://h/api/", measurements="1004, 1001,1004", probes="30-40,2,1",
        start="2024-01-01T22:00+01:00", stop=str(JAN + 2 * DAY + 5),
    )  # fmt: skip
    assert (asked.url, asked.measurements, asked.probes) == (
        "https://h/api",
        (1001, 1004),
        ("1", "2", "30-40"),
    )
    ends = [
        (JAN + 21 * 3600, JAN + DAY),
        (JAN + DAY, JAN + 2 * DAY),
        (JAN + 2 * DAY, JAN + 2 * DAY + 5),
    ]
    assert asked.missing([]) == [Slice(number, *end) for number in (1001, 1004) for end in ends]
    assert Slice(1001, *ends[0]).file == "1001-20240101T210000Z-20240102T000000Z.ndjson"
    hours = question(start="2024-01-01T01:30Z", stop="2024-01-01T03:00", every="hour").missing([])
    assert [(s.stop - s.start) // 60 for s in hours] == [30, 60]


def test_what_is_missing_and_what_is_here_add_up_to_all_and_nothing_comes_twice() -> None:
    rng = random.Random(0)
    for _ in range(300):
        here: list[Slice] = []
        seconds: set[int] = set()
        for _ in range(rng.randrange(1, 5)):
            start, stop = sorted(rng.sample(range(0, 400), 2))
            asked = Question("u", (1,), start, stop, (), rng.choice([7, 50]))
            missing = asked.missing([*here, Slice(2, 0, 400)])
            new = [second for part in missing for second in range(part.start, part.stop)]
            assert len(new) == len(set(new))
            assert not set(new) & seconds
            seconds |= set(new)
            assert set(range(start, stop)) <= seconds
            here += missing


def test_a_file_name_says_its_slice() -> None:
    for part in (Slice(1, 0, 1), Slice(987654321, JAN - 1, JAN + DAY)):
        assert Slice.of_file(part.file) == part
    for name in (
        "a.ndjson",
        "1-20240101T000000Z-20241301T000000Z.ndjson",
        f".{Slice(1, 0, 1).file}.tmp",
    ):
        assert Slice.of_file(name) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"measurements": ""}, "--msm : '' is none"),
        ({"measurements": "1001,x"}, "--msm 1001,x: 'x' is none: expected numbers like 1001,1004"),
        ({"measurements": "-5"}, "--msm -5"),
        ({"probes": "1,,2"}, "--probes 1,,2: '' is none"),
        ({"probes": "1&start=0"}, "--probes"),
        ({"start": "yesterday"}, "--start yesterday: expected a time since 2010 in ISO 8601"),
        ({"start": "20240101"}, "--start 20240101: expected a time since 2010"),
        ({"start": "nan"}, "--start nan: expected a time"),
        ({"start": "-1"}, "--start -1: expected a time"),
        ({"stop": "1e300"}, "--stop 1e300: expected a time"),
        ({"stop": "2024-01-01"}, "--stop 2024-01-01: expected a time after --start 2024-01-01"),
        ({"stop": str(int(time.time()) + 10**6)}, "lies in the future"),  # even after a suite of hours
        ({"url": "atlas"}, "--url atlas: expected one like https://"),
        ({"url": "ftp://h"}, "--url ftp://h: expected one like https://"),
        ({"url": "https://user:neverprinted@h"}, "--url https://h: expected one like https://"),
        ({"url": "https://h/?key=neverprinted"}, "--url https://h/: expected one like https://"),
        ({"url": "https://[h"}, "--url https://[h: expected one like https://"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(changes: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)) as raised:
        question(**changes)
    assert "neverprinted" not in str(raised.value)
