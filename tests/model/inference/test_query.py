"""Questions as tokens, and what is refused."""

from __future__ import annotations

import json
import pickle
import sys
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from model.inference.checks import parse_prefix
from model.inference.context_file import parse_context_text, read_context_file
from model.inference.query import CompletionQuery, RttQuery, SampleQuery
from stores.codec import Measurement, decode_rtt, decode_window
from stores.errors import InputError, PinglmError, QueryError
from stores.vocabulary import BYTE0

DATA = Path(__file__).parents[2] / "data"
NAN = float("nan")
RTT_BYTES = [BYTE0, BYTE0 + 77]  # a code of 0.077 ms


def test_a_time_counts_from_the_last_timestamp_of_the_same_source() -> None:
    earlier = Measurement(ip_address("193.0.2.1"), ip_address("193.0.2.2"), 9.0, 1_700_000_000)
    asked = RttQuery("193.0.2.1", "193.0.2.9", 1_700_000_060.9, [earlier])
    same = asked.prompt(1024)
    other = RttQuery("193.0.2.3", "193.0.2.9", 1_700_000_060, [earlier]).prompt(1024)
    assert len(other) - len(same) == 7  # eight bytes, not one
    tokens = same + RTT_BYTES
    assert decode_window(tokens, len(tokens))[-1].time == 1_700_000_060


@pytest.mark.parametrize(
    ("text", "family", "known"),
    [
        ("193.0.2", 4, "c10002"),
        ("193.0.2.", 4, "c10002"),
        ("11", 4, "0b"),
        ("193.0.2.7", 4, "c1000207"),
        ("11.0.0.0/8", 4, "0b"),
        ("0.0.0.0/0", 4, ""),
        ("193.0.2.7/32", 4, "c1000207"),
        ("2001:db9", 6, "20010db9"),
        ("2001:db9:", 6, "20010db9"),
        ("2001:db9::", 6, "20010db9"),
        ("2001:d00::/24", 6, "20010d"),
        ("::/0", 6, ""),
        ("2001:db9::1", 6, "20010db9000000000000000000000001"),
        ("1:2:3:4:5:6:7:8", 6, "00010002000300040005000600070008"),
    ],
)
def test_prefixes_are_whole_bytes(text: str, family: int, known: str) -> None:
    assert parse_prefix(text) == (family, bytes.fromhex(known))


@pytest.mark.parametrize(
    "text",
    [
        *("", "2001", "256", "1.2.3.4.5", "1..2", ".1", "a.b", "10.0.0.0/9", "10.1.0.0/8"),
        *("::", ":", "2001::5:", "1:2:3:4:5:6:7:8:9", "12345:", "2001:db9::/33", "10.0.0.0/40"),
        "fe80::1%eth0",
    ],
)
def test_other_prefixes_are_refused(text: str) -> None:
    with pytest.raises(QueryError, match=r"prefix .*expected whole bytes"):
        parse_prefix(text)


GOOD = ("193.0.2.1", "193.0.2.2")
A, B, SIX = (ip_address(a) for a in (*GOOD, "2001:db9::1"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("193.0.2.1", "2001:db9::1"), "dst 2001:db9::1: expected IPv4 like the source"),
        (("193.0.2.256", "193.0.2.1"), "src '193.0.2.256': expected an IPv4 or IPv6 address"),
        (("193.0.2.1", 5), "dst 5: expected an IPv4"),
        (("fe80::1%eth0", "fe80::2"), "src .*expected an IPv4"),
        ((*GOOD, NAN), "time nan: expected a finite number"),
        ((*GOOD, -1), "time -1: expected Unix seconds from 0"),
        ((*GOOD, 1e12), "time 1e\\+12|time 1000000000000.0"),
        ((*GOOD, "soon"), "time 'soon'"),
        ((*GOOD, None, [Measurement(A, B, NAN, 1)]), r"context\[0\]\.rtt_ms nan"),
        ((*GOOD, None, [Measurement(A, B, -3.0, 1)]), r"context\[0\]\.rtt_ms -3"),
        ((*GOOD, None, [Measurement(A, B, 1.0, 1), Measurement(A, SIX, 1.0, 1)]), r"context\[1\]"),
        ((*GOOD, None, [Measurement(A, B, 1.0, -7)]), r"context\[0\]\.time -7"),
    ],
)
def test_a_wrong_question_is_refused_by_the_name_of_its_field(
    arguments: tuple[object, ...], message: str
) -> None:
    with pytest.raises(QueryError, match=message):
        RttQuery(*arguments)  # type: ignore[arg-type]


HUGE = 10**5000  # Python does not print it


@pytest.mark.parametrize(
    "ask",
    [
        lambda: RttQuery(HUGE, A),
        lambda: RttQuery(A, B, HUGE),
        lambda: RttQuery(A, B, None, [Measurement(A, B, HUGE, None)]),
        lambda: CompletionQuery(HUGE),
        lambda: CompletionQuery("10", HUGE),
        lambda: CompletionQuery("10", 1, (), HUGE),
        lambda: SampleQuery(A, HUGE),
        lambda: SampleQuery(A, 5.0, HUGE),
        lambda: SampleQuery(A, 5.0, 1, (), HUGE),
        lambda: SampleQuery(A, 5.0, 1, (), 0.1, HUGE),
        lambda: SampleQuery(A, 5.0, 1, (), 0.1, 0.5),
        lambda: SampleQuery(A, 5.0, 1, (), 0.1, "1"),
        lambda: CompletionQuery("1" * 100_000),
        lambda: RttQuery("1" * 100_000, A),
    ],
)
def test_values_of_any_size_and_type_are_refused_in_a_short_line(ask: Any) -> None:
    with pytest.raises(QueryError) as caught:
        ask()
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("rtt_ms", [5e-324, 1e13, 1e306, sys.float_info.max])
def test_every_finite_rtt_has_its_tokens(rtt_ms: float) -> None:
    """Beyond 50 days the code saturates."""
    tokens = [*RttQuery(*GOOD, None, [Measurement(A, B, rtt_ms, 1)]).prompt(64), *RTT_BYTES]
    (earlier, _) = decode_window(tokens, len(tokens))
    assert earlier.rtt_ms == decode_rtt(1 if rtt_ms < 1 else 0xFFFF)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("193.0.2.1", NAN), "target_rtt_ms nan"),
        (("193.0.2.1", -5.0), "target_rtt_ms -5.0: expected more than 0 ms"),
        (("193.0.2", 5.0), "src '193.0.2'"),
        (("193.0.2.1", 5.0, 0), "n 0: expected a whole number from 1 to 256"),
        (("193.0.2.1", 5.0, 10**6), "n 1000000"),
        (("193.0.2.1", 5.0, 5, (), -0.1), "tolerance -0.1"),
        (("193.0.2.1", 5.0, 5, (), NAN), "tolerance nan"),
        (("193.0.2.1", 5.0, 5, (), 0.1, -1), "seed -1"),
    ],
)
def test_a_wrong_search_is_refused(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(QueryError, match=message):
        SampleQuery(*arguments)  # type: ignore[arg-type]
    with pytest.raises(QueryError, match="k 257"):
        CompletionQuery("10", 257)
    with pytest.raises(QueryError, match="field 'rtt'"):
        CompletionQuery("10", field="rtt")  # type: ignore[arg-type]


def test_replace_changes_one_field_and_checks_it_again() -> None:
    earlier = [Measurement(A, B, 1.0, 1)]
    rtt = RttQuery(*GOOD, 7.9, iter(earlier))  # type: ignore[arg-type]
    assert replace(rtt, dst="193.0.2.9") == RttQuery("193.0.2.1", "193.0.2.9", 7, earlier)  # type: ignore[arg-type]
    completion = CompletionQuery("193.0.2", context=earlier)
    assert replace(completion, k=3) == CompletionQuery("193.0.2", 3, earlier)
    other = replace(completion, prefix="2001:db9:")
    assert (completion.family, completion.known) == (4, bytes([193, 0, 2]))
    assert (other.family, other.known) == (6, bytes.fromhex("20010db9"))
    sample = SampleQuery("193.0.2.1", 5.0, seed=3)  # type: ignore[arg-type]
    assert replace(sample, n=4) == SampleQuery("193.0.2.1", 5.0, 4, seed=3)  # type: ignore[arg-type]
    assert {rtt, replace(rtt)} == {rtt}  # hashable, whatever the context was given as
    with pytest.raises(QueryError, match="time -1"):
        replace(rtt, time=-1)
    with pytest.raises(QueryError, match="prefix 'x'"):
        replace(completion, prefix="x")
    with pytest.raises(QueryError, match="tolerance 2"):
        replace(sample, tolerance=2)


def test_an_error_carries_the_field_and_the_row_of_the_context() -> None:
    with pytest.raises(QueryError) as caught:
        RttQuery(*GOOD, None, [Measurement(A, B, 1.0, 1), Measurement(A, SIX, 1.0, 1)])  # type: ignore[arg-type]
    error = caught.value
    assert (error.field, error.row) == ("dst", 1)
    assert str(error).startswith("context[1].dst 2001:db9::1: expected IPv4")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.field, copy.row) == (str(error), "dst", 1)
    with pytest.raises(QueryError) as caught:
        SampleQuery(A, -1.0)
    assert (caught.value.field, caught.value.row) == ("target_rtt_ms", None)


CONTEXT_CASES = json.loads((DATA / "context_cases.json").read_text())
JSON_LINES = """
{"src": "193.0.2.1", "dst": "193.0.2.2", "rtt_ms": 12.5, "time": 1751000000.7}

{"src": "193.0.2.1", "dst": "193.0.2.3", "failed": true}
{"src": "193.0.2.1", "dst": "193.0.2.4", "rtt_ms": "failed", "failed": true, "time": null}
"""
CSV = """src,dst,rtt_ms,time
193.0.2.1, 193.0.2.2, 12.5, 1751000000
193.0.2.1,193.0.2.3,failed
193.0.2.1,193.0.2.4,failed,
"""


@pytest.mark.parametrize("text", [JSON_LINES, CSV])
def test_context_files_of_both_kinds_say_the_same(text: str, tmp_path: Path) -> None:
    path = tmp_path / "context"
    path.write_text("\ufeff" + text if text == CSV else text)
    third, fourth = ip_address("193.0.2.3"), ip_address("193.0.2.4")
    assert read_context_file(path) == [
        Measurement(A, B, 12.5, 1751000000),
        Measurement(A, third, None, None),
        Measurement(A, fourth, None, None),
    ]
    assert parse_context_text("src,dst,rtt_ms,failed\n", "paste") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"src": "193.0.2.1", "dst": "193.0.2.2"}', "here:1: rtt_ms: expected a number of ms, or"),
        ('{"src": "193.0.2.1", "dst": "x", "rtt_ms": 1}', "here:1: dst 'x': expected an IPv4"),
        ('{"src": "193.0.2.1", "rtt_ms": 1}', "here:1: dst None"),
        ('{"rtt": 1}', "here:1: unknown field rtt: expected src, dst, rtt_ms, failed, time"),
        ("{}\n{", "here:1: rtt_ms"),
        ('{"src"', "here:1: expected one JSON object per line"),
        ("src,dst,rtt_ms\n193.0.2.1,193.0.2.2,1,2,3\n", "here:2: has more values"),
        ("src,dst,rtt_ms\n193.0.2.1,193.0.2.2,fast\n", "here:2: rtt_ms 'fast': expected a finite"),
        ("src,dst,rtt_ms\n193.0.2.1,193.0.2.2,-1\n", "here:2: rtt_ms -1: expected 0 ms or more"),
        ("193.0.2.1,193.0.2.2,1\n", "here: expected JSON lines, or CSV whose first line is"),
        ("", "here: expected JSON lines, or CSV"),
        (
            '{"src": ' + "[" * 100_000,
            "here:1: expected one JSON object per line .nested too deeply",
        ),
        ('{"src": ' + "[" * 400 + "]" * 400 + "}", "here:1: rtt_ms: expected"),
        (
            '{"rtt_ms": 1, "src": ' + "[" * 400 + "]" * 400 + "}",
            r"here:1: src \[{60}…: expected an",
        ),
        (
            "src,dst,rtt_ms\n193.0.2.1,193.0.2.2," + "1" * 100_000,
            "here:2: rtt_ms '1{59}…: expected",
        ),
        ("src,dst,rtt_ms\n193.0.2.1,193.0.2.2," + "1" * 100_000 + "x", "here:2: rtt_ms '1{59}…: "),
        (
            f"src,dst,{'x' * 100_000}\n193.0.2.1,193.0.2.2,1",
            "here:2: unknown field x{60}…: expected",
        ),
    ],
)
def test_a_wrong_context_file_is_an_error_that_names_the_line(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_context_text(text, "here")


@pytest.mark.parametrize("case", CONTEXT_CASES, ids=lambda case: case["name"])
def test_the_shared_cases_of_context_text_read_as_they_say(case: dict[str, Any]) -> None:
    """The page's JavaScript is tested with the same ones."""
    if "error_line" in case:
        with pytest.raises(InputError, match=f"^paste:{case['error_line']}: "):
            parse_context_text(case["text"], "paste")
    else:
        found = parse_context_text(case["text"], "paste")
        assert [[str(m.src), str(m.dst), m.rtt_ms, m.time] for m in found] == case["rows"]


def test_an_overlong_csv_field_is_an_error_of_its_line() -> None:
    with pytest.raises(InputError, match=r"^paste:2: cannot be read \(field larger"):
        parse_context_text("src,dst\n" + "1" * 200_000, "paste")


def test_a_context_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(PinglmError, match=r"none\.csv: cannot be read"):
        read_context_file(tmp_path / "none.csv")
