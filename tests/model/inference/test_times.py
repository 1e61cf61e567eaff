"""A time as a user writes it: Unix seconds, or ISO 8601."""

from __future__ import annotations

import re

import pytest

from model.inference.checks import parse_time
from stores.errors import QueryError


@pytest.mark.parametrize(
    "text",
    [
        "1751000000",
        "1751000000.9",
        "2025-06-27T04:53:20Z",
        "2025-06-27T04:53:20",
        " 2025-06-27 04:53:20.5 ",
        "2025-06-27T06:53:20+02:00",
        "2025-06-26T23:23:20-0530",
    ],
)
def test_a_time_is_unix_seconds_or_iso_8601_in_utc_where_it_names_no_zone(text: str) -> None:
    assert parse_time("time", text) == 1_751_000_000


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("noon", "expected Unix seconds, or ISO 8601 as in 2025-06-27T04:53:20Z"),
        ("2025-06-27", "expected Unix seconds, or ISO 8601 as in 2025-06-27T04:53:20Z"),
        ("2025-13-27T04:53:20Z", "month must be in 1..12"),
        ("2025-06-27T04:53:20+99:00", "ISO 8601"),
        ("0001-01-01T00:00:00Z", "expected Unix seconds from 0 to the end of 2099"),
        ("9999-12-31T23:59:59-23:59", "expected Unix seconds from 0 to the end of 2099"),
    ],
)
def test_text_that_is_not_a_time_is_refused_in_words(text: str, problem: str) -> None:
    with pytest.raises(QueryError, match=re.escape(problem)):
        parse_time("time", text)
