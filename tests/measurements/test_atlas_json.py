"""Finding results: the same ones whatever wraps them, wherever blocks end, however long they are."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stores.measurements import atlas_json
from stores.measurements.atlas_json import find_in_lines, find_results
from stores.measurements.json_scanner import BROKEN, OTHER, RESULT
from tests.measurements.scans import FIRST, RESULTS, THIRD, found, results


def containers() -> dict[str, bytes]:
    lines = [json.dumps(result).encode() for result in RESULTS]
    wrapped = {
        "filter": {"msm_id": 4, "probes": [7, 8]},
        "meta": {"msm_id": 4, "type": {"id": 1}, "targets": [{"id": 1}, {"id": 2}]},
        "measurements": {"pings": RESULTS},
    }
    return {
        "ndjson": b"\n".join(lines),
        "ndjson with blank lines and CRLF": b"\r\n\r\n".join(lines) + b"\r\n",
        "compact array": json.dumps(RESULTS, separators=(",", ":")).encode(),
        "indented array": json.dumps(RESULTS, indent=4).encode(),
        "array of one line each": b"[" + b",\n".join(lines) + b"]\n",
        "objects on one line": b"".join(lines),
        "indented objects one after another": b"\n".join(
            json.dumps(result, indent=1).encode() for result in RESULTS
        ),
        "wrapper": json.dumps(wrapped).encode(),
        "indented wrapper": json.dumps(wrapped, indent=2).encode(),
        "wrapper per line": b"".join(b'{"data": [' + line + b"]}\n" for line in lines),
        "array of wrappers": json.dumps([{"a": {"b": [r]}} for r in RESULTS]).encode(),
        "byte order mark": b"\xef\xbb\xbf" + json.dumps(RESULTS).encode(),
    }


@pytest.mark.parametrize("name", containers())
@pytest.mark.parametrize("block", [1, 3, 64, 1 << 20])
def test_every_container_gives_the_same_results(name: str, block: int) -> None:
    text = containers()[name]
    if name == "byte order mark":
        block = max(block, 3)
    if block < len(text) and name.startswith("ndjson"):
        block = max(block, 128)  # whether it is NDJSON is seen in the first block
    assert results(text, block) == RESULTS


json_values = st.recursive(
    st.none() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["msm_id", "prb_id", "timestamp", "x", "msm_ix", '"', "{"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=25,
)


def plain_results(value: Any) -> list[Any]:
    """The twin of the compiled scanner: results by walking decoded JSON, innermost first."""
    children = (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    )
    inside = [result for child in children for result in plain_results(child)]
    if inside or not isinstance(value, dict):
        return inside
    return [value] if "prb_id" in value or {"msm_id", "timestamp"} <= value.keys() else []


@given(value=json_values, indent=st.sampled_from([None, 0, 2]), block=st.integers(1, 80))
@settings(max_examples=300, deadline=None)
def test_scanner_equals_a_walk_of_the_decoded_json(value: Any, indent: int, block: int) -> None:
    text = json.dumps([[value]], indent=indent, ensure_ascii=False).encode()
    pieces = [
        json.loads(piece) for kind, _, piece in found(text, block) if kind == RESULT and piece
    ]
    assert pieces == plain_results(value)


@given(st.lists(st.integers(0, 400), max_size=6), st.binary(max_size=12), st.integers(0, 400))
@settings(max_examples=300, deadline=None)
def test_spans_do_not_depend_on_where_blocks_end(cuts: list[int], damage: bytes, at: int) -> None:
    text = json.dumps(RESULTS, indent=1).encode()
    text = text[:at] + damage.replace(b"\x00", b"") + text[at + 2 :]
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    blocks = [text[a:b] for a, b in pairwise(edges) if a < b]
    pieces = [
        (kind, row, bytes(data[start:end]))
        for data, spans in find_results(blocks)
        for start, end, kind, row in spans
        if kind == RESULT
    ]
    if not atlas_json.is_ndjson(text):
        assert [piece for _, _, piece in pieces] == [
            piece for kind, _, piece in found(text) if kind == RESULT
        ]


lines_of_all_kinds = st.lists(
    st.sampled_from(
        [json.dumps(result).encode() for result in RESULTS]
        + [
            b"",
            b"not json",
            b'{"a": 1}',
            b'{"a": "open',
            b'{"a": "open\\',
            b'[{"prb_id": 1}, {"a": ',
        ]
        + [
            b'{"data": [{"prb_id": 1}, {"prb_id": 2}',
            b"]}",
            b", {} , x",
            b'{"b": "' + b"y" * 90 + b'"}',
        ]
        + [b'\x1e{"prb_id": 1}', b'{"a": \x1e{"prb_id": 3}', b'{"a": "\\\x1e{"prb_id": 4}']
    ),
    max_size=12,
)


@given(lines_of_all_kinds, st.integers(1, 60), st.integers(0, 12), st.sampled_from([b"", b"\n"]))
@settings(max_examples=300, deadline=None)
def test_lines_give_the_same_spans_wherever_blocks_end_and_files_are_cut(
    lines: list[bytes], block: int, cut: int, end: bytes
) -> None:
    def spans(text: bytes, block: int, first: int = 0) -> list[tuple[int, int, bytes | None]]:
        blocks = (text[i : i + block] for i in range(0, len(text), block))
        return [
            (kind, first + row, bytes(data[start:stop]) if start >= 0 else None)
            for data, found in find_in_lines(blocks)
            for start, stop, kind, row in found
        ]

    head = b"".join(line + b"\n" for line in lines[:cut])
    tail = b"\n".join(lines[cut:]) + end
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atlas_json, "MAX_RESULT", 80)
        whole = spans(head + tail, 1 << 20)
        assert spans(head + tail, block) == whole
        assert spans(head, block) + spans(tail, block, head.count(b"\n")) == whole


@pytest.mark.parametrize("block", [1, 7, 64])
def test_text_outside_all_objects_is_kept_wherever_blocks_end(block: int) -> None:
    assert found(b"some text\nand more", block) == [
        (BROKEN, 1, b"some text"),
        (BROKEN, 2, b"and more"),
    ]


def test_objects_where_a_result_was_due_are_reported() -> None:
    good = json.dumps(FIRST)
    for text in (
        f'[{good}, {{"a": 1}}]',
        f'{good}\n{{"a": 1}}\n',
        f'{{"d": [{good}, {{"a": 1}}]}}',
    ):
        assert [kind for kind, _, _ in found(text.encode())] == [RESULT, OTHER], text
    assert found(b'{"a": {"b": 1}}') == [(OTHER, 1, b'{"a": {"b": 1}}')]


@pytest.mark.parametrize("text", [b"", b"[]", b" [\n ]\n", b"\n\n"])
def test_an_empty_file_has_nothing_to_report(text: bytes) -> None:
    assert found(text) == []


def test_memory_is_bounded_in_a_long_wrapper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atlas_json, "MAX_RESULT", 1 << 16)
    element = json.dumps(FIRST).encode() + b","

    def blocks() -> Any:
        yield b'{"text": "' + b"x" * 300_000
        yield b'", "data": ['
        for _ in range(300):
            yield element * 100
        yield element[:-1] + b"]}"

    longest, count = 0, 0
    for data, spans in find_results(blocks()):
        longest = max(longest, len(data))
        count += sum(kind == RESULT for _, _, kind, _ in spans)
    assert count == 30_001
    assert longest < 3 * (1 << 16)


def test_a_result_that_is_too_long_is_reported_without_its_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(atlas_json, "MAX_RESULT", 1 << 10)
    text = b'[{"prb_id": 1, "x": "' + b"y" * 5000 + b'"}, ' + json.dumps(FIRST).encode() + b"]"
    assert found(text, block=512) == [(RESULT, 1, None), (RESULT, 2, json.dumps(FIRST).encode())]


def test_more_spans_than_fit_at_once_all_come(monkeypatch: pytest.MonkeyPatch) -> None:
    text = b"[" + b'{"prb_id":1},' * (3 * atlas_json.MAX_SPANS) + b'{"prb_id":1}]'
    rows = [row for _, row, _ in found(text)]
    assert rows == list(range(1, 3 * atlas_json.MAX_SPANS + 2))


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_the_separators_of_rfc_7464_are_not_records(indent: int | None, block: int) -> None:
    texts = [b"\x1e" + json.dumps(result, indent=indent).encode() + b"\n" for result in RESULTS]
    if indent is None:
        block = max(block, 1 << 10)  # whether it is NDJSON is seen in the first block
    assert results(b"".join(texts), block) == RESULTS
    assert found(b"\x1e\n") == []
    cut = texts[1][:-20]
    pieces = found(texts[0] + cut + b"".join(texts[2:]), block)
    assert [kind for kind, _, _ in pieces] == [RESULT, BROKEN, RESULT]
    assert json.loads(pieces[2][2] or b"") == THIRD
