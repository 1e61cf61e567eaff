"""Finding results in broken JSON: what is broken, cut off or nested too deep costs itself and no more."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stores.measurements.json_scanner import BROKEN, OTHER, RESULT, TRUNCATED
from tests.measurements.scans import FIRST, RESULTS, SECOND, THIRD, found


def test_a_line_that_ends_in_a_backslash_costs_that_line() -> None:
    good = json.dumps(FIRST).encode()
    spans = found(b"\n".join([good, b'{"prb_id": 1, "name": "open\\', good, good]))
    assert [(kind, row) for kind, row, _ in spans] == [
        (RESULT, 1), (BROKEN, 2), (RESULT, 3), (RESULT, 4),
    ]  # fmt: skip


def test_one_bad_line_costs_that_line() -> None:
    good = json.dumps(FIRST).encode()
    bad = [b'{"msm_id": 1, "prb_id": 2, "name": "open', b"{{[", b"not json", b'{"a": "b}', b"]}"]
    text = b"\n".join([good, bad[0], good, *bad[1:], good, *[good] * 6])
    spans = found(text)
    assert [row for kind, row, _ in spans if kind == BROKEN] == [2, 4, 5, 6, 7]
    assert [row for kind, row, _ in spans if kind == RESULT] == [1, 3, *range(8, 15)]
    assert len(spans) == 14
    assert spans[1][2] == bad[0]


def test_a_broken_element_of_an_array_costs_that_element() -> None:
    good = json.dumps(FIRST)
    for bad in ('{"prb_id": 1, "x": }', '{"prb_id": 1, "x": [1, }', '{"prb_id" 1 2 3}'):
        spans = found(f"[{good}, {bad}, {good}]".encode())
        assert [piece for _, _, piece in spans] == [good.encode(), bad.encode(), good.encode()]


def test_a_missing_quote_in_indented_json_costs_that_element() -> None:
    text = json.dumps(RESULTS, indent=2).replace('"prb_id": 7', '"prb_id: 7')
    spans = found(text.encode())
    assert [json.loads(piece) for _, row, piece in spans if row > 1 and piece] == [SECOND, THIRD]
    assert len(spans) == 3


def test_a_missing_brace_costs_that_element() -> None:
    good = json.dumps(FIRST)
    spans = found(f'[{good}, {{"prb_id": 2, "a": 1, {good}, {good}]'.encode())
    assert [kind for kind, _, _ in spans] == [RESULT, RESULT, RESULT, BROKEN]


@pytest.mark.parametrize("text", [b"hello", b"[1, 2]", b'["a"]', b"\x00\x01\x02", b"[[[]]]"])
def test_a_file_of_something_else_is_reported_once(text: bytes) -> None:
    assert [kind for kind, _, _ in found(text)] in ([OTHER], [BROKEN])


@pytest.mark.parametrize("cut", [20, 120, 200])
def test_a_file_that_ends_inside_a_value_says_so_once(cut: int) -> None:
    for text in (json.dumps(RESULTS), json.dumps({"data": RESULTS}), json.dumps(RESULTS, indent=1)):
        kinds = [kind for kind, _, _ in found(text.encode()[:-cut])]
        assert kinds[-1] == TRUNCATED
        assert set(kinds[:-1]) <= {RESULT}


def test_nesting_without_end_does_not_stop_the_scan() -> None:
    text = b"[" * 10_000 + b"\n" + json.dumps(FIRST).encode()
    assert (RESULT, json.dumps(FIRST).encode()) in [(k, piece) for k, _, piece in found(text)]


def deep(levels: int, inside: Any = 1, **keys: Any) -> str:
    """An object with `keys`, and with `inside` in so many lists and objects."""
    opening = "".join('{"a":' if level % 2 else "[" for level in range(levels))
    closing = "".join("}" if level % 2 else "]" for level in reversed(range(levels)))
    start = json.dumps(keys)[:-1] + (", " if keys else "")
    return f'{start}"x":{opening}{json.dumps(inside)}{closing}}}'


@pytest.mark.parametrize("levels", [257, 300, 1000, 50_000])
@pytest.mark.parametrize("keys", [{}, {"prb_id": 4}, {"msm_id": 1, "timestamp": 2}])
def test_a_line_nested_too_deep_is_one_broken_line(levels: int, keys: dict[str, int]) -> None:
    good = json.dumps(FIRST)
    for line in (deep(levels, **keys), deep(levels, {"prb_id": 1}, **keys), deep(levels + 1)[5:-1]):
        spans = found("\n".join([good, line, good, line, good, *[good] * 6]).encode())
        assert [row for _, row, _ in spans] == list(range(1, 12))
        assert [row for kind, row, _ in spans if kind != RESULT] == [2, 4]
        assert spans[1][0] == BROKEN
        assert line.encode().strip(b"[]") in (spans[1][2] or b"").strip(b"[]")


@given(
    elements=st.lists(
        st.sampled_from([0, 200, 255, 256, 257, 258, 259, 600, 1111]), min_size=1, max_size=6
    ),
    keys=st.sampled_from([{}, {"prb_id": 4}]),
    shape=st.sampled_from(["[{}]", '{{"data": [{}]}}', "{}"]),
    block=st.integers(1, 3000),
)
@settings(max_examples=150, deadline=None)
def test_an_element_nested_too_deep_is_one_broken_element(
    elements: list[int], keys: dict[str, int], shape: str, block: int
) -> None:
    """After a good result, so that whatever follows is an element where a result is due."""
    outside = {"[{}]": 1, "{}": 0}.get(shape, 2)
    texts = [json.dumps(FIRST), *(deep(levels, **keys) for levels in elements)]
    spans = found(shape.format(",\n ".join(texts)).encode(), block)
    fine = RESULT if keys else OTHER
    kinds = [BROKEN if levels + 1 + outside > 256 else fine for levels in elements]
    assert [kind for kind, _, _ in spans] == [RESULT, *kinds]
    assert [piece for _, _, piece in spans] == [text.encode() for text in texts]


def test_an_indented_element_nested_too_deep_is_one_broken_element() -> None:
    value: Any = 1
    for _ in range(400):
        value = [value]
    text = json.dumps([FIRST, {"x": value}, SECOND], indent=1)
    for block in (100, 1 << 20):
        assert [kind for kind, _, _ in found(text.encode(), block)] == [RESULT, BROKEN, RESULT]


def test_an_unclosed_element_nested_too_deep_is_one_broken_element() -> None:
    good = json.dumps(FIRST)
    for text in (f"[{good}, {'[{' * 300} ]", f'{{"data": [{good}, {{"x": {"[" * 700}]}}'):
        kinds = [kind for kind, _, _ in found(text.encode())]
        assert kinds[0] == RESULT
        assert kinds[1:] in ([BROKEN], [TRUNCATED])


def test_a_first_block_that_ends_behind_a_bracket_makes_no_lines_of_a_wrapper() -> None:
    text = f'{{"data": [{json.dumps(FIRST)},\n {{"x": 1}}]}}'.encode()
    for block in range(1, len(text)):
        assert [kind for kind, _, _ in found(text, block)] == [RESULT, OTHER]
