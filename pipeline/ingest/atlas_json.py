"""Finding measurement results in a stream of JSON, whatever they are wrapped in.

The stream may be NDJSON, an array (compact, or indented over many lines), a lone object, objects
one after another, or objects that hold arrays of results a few levels down. A compiled scanner
walks the bytes once, keeps a stack of open containers, and reports where each result begins and
ends; decoding is the caller's job. Its state outlives a block, so memory is a block plus one
unfinished object.

A result is an object that directly holds the key "prb_id", or both "msm_id" and "timestamp", and
holds no result itself. An object without these keys is a wrapper if there are results in it. If
there are none, it is reported where a result was due: as a line, as an element of the outermost
array, or as a later element of an array that holds results.

Damage costs as little as the format allows. In NDJSON a line break ends whatever is open. Elsewhere
a string ends at a raw line break (which JSON forbids inside one), and a closing bracket closes what
was left open inside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from pipeline.compiled import compiled, inlined

RESULT, OTHER, BROKEN, TRUNCATED = range(4)
"""What a span is: a result (not decoded yet), an object that is none, text that is no JSON, and
JSON that the end of the file cut off."""

Span = tuple[int, int, int, int]
"""(start, end, kind, row): bytes [start, end) of the buffer it comes with, or start -1 where the
text is no longer held; row is the line of NDJSON, else the number of the span, from 1."""

MAX_RESULT = 16 << 20
"""Bytes of a result. A longer open object is taken for a wrapper, and its text is let go."""

_MAX_DEPTH = 256
_MAX_SPANS = 1 << 14  # reported at once

_STATE = np.dtype(
    [
        ("position", np.int64),  # of the next byte to scan
        ("by_line", np.int64),  # 1: NDJSON
        ("depth", np.int64),  # how many containers are open
        ("in_string", np.int64),  # 1: inside a string
        ("string", np.int64),  # where it starts
        ("escaped", np.int64),  # 1: the byte before was a backslash
        ("key_due", np.int64),  # 1: a string that starts here is a key
        ("garbage", np.int64),  # where text outside all containers starts, or one of the two below
        ("row", np.int64),  # of the last span, or the current line of NDJSON
        ("count", np.int64),  # spans written
    ]
)
_NOTHING, _REPORTED = -1, -2  # there is no garbage; it has been reported already

_CONTAINER = np.dtype([("kind", np.int64), ("start", np.int64), ("flags", np.int64)])
_OBJECT, _ARRAY = 0, 1  # kinds
# Flags: what an open container directly or indirectly holds.
_MSM, _PRB, _TIME, _HOLDS_RESULT, _RESULT_ELEMENT = 1, 2, 4, 8, 16

_SPAN = np.dtype([(name, np.int64) for name in ("start", "end", "kind", "row")])

Bytes = NDArray[np.uint8]
Stack = NDArray[np.void]
"""The open containers, `_CONTAINER` (_MAX_DEPTH,), outermost first."""
Spans = NDArray[np.void]
"""Where spans are written to, `_SPAN` (_MAX_SPANS + 1,)."""

_TAB, _LINE_BREAK, _RETURN, _SPACE, _QUOTE, _COMMA, _COLON = b'\t\n\r ",:'
_OPEN_ARRAY, _BACKSLASH, _CLOSE_ARRAY, _OPEN_OBJECT, _CLOSE_OBJECT = b"[\\]{}"

# Bytes that the scanner must look at in strings, in containers outside strings, and there in NDJSON. All
# others are skipped quickly.
_IN_STRINGS, _IN_CONTAINERS, _IN_LINES = np.uint8(1), np.uint8(2), np.uint8(4)
_MEANING = np.zeros(256, np.uint8)
_MEANING[list(b'"\\\n')] |= _IN_STRINGS
_MEANING[list(b'"{}[]:,')] |= _IN_CONTAINERS | _IN_LINES
_MEANING[list(b"\n")] |= _IN_LINES

_MSM_ID = np.frombuffer(b"msm_id", np.uint8)
_PRB_ID = np.frombuffer(b"prb_id", np.uint8)
_TIMESTAMP = np.frombuffer(b"timestamp", np.uint8)


def find_results(blocks: Iterable[bytes]) -> Iterator[tuple[memoryview, list[Span]]]:
    """Yield a buffer with the spans that end in it, in order; about 300 MB/s on one core.

    `blocks` are consecutive pieces of a file's text, of any size. A file with text but neither an
    object nor an empty array yields one `OTHER` span.
    """
    pieces = iter(blocks)
    buffer = next(pieces, b"").removeprefix(b"\xef\xbb\xbf")  # a byte order mark is no JSON
    head = buffer[:4096]
    state = _new_state(_is_ndjson(buffer))
    stack = np.zeros(_MAX_DEPTH, _CONTAINER)
    table = np.empty((_MAX_SPANS + 1, 4), np.int64)
    spans = table.view(_SPAN)[:, 0]
    found = False
    while True:
        piece = next(pieces, b"")
        data = np.frombuffer(buffer, np.uint8)
        while True:
            _scan(data, not piece, state, stack, spans)
            if state.count:
                found = True
                yield memoryview(buffer), table[: state.count].tolist()
            if state.count < _MAX_SPANS:
                break
        if not piece:
            break
        keep = _let_go(len(buffer), state, stack)
        buffer = buffer[keep:] + piece
    text = b"".join(head.split())
    if not found and text not in (b"", b"[]"):
        yield memoryview(head), [(0, len(head), OTHER, 1)]


def _is_ndjson(block: bytes) -> bool:
    """Are most of the first lines whole objects?"""
    lines = [line for line in map(bytes.strip, block[: 1 << 20].split(b"\n", 32)[:32]) if line]
    whole = sum(line.startswith(b"{") and line.endswith(b"}") for line in lines)
    return 2 * whole > len(lines)


def _new_state(by_line: bool) -> np.record:
    """The state before the first byte. It is changed in place."""
    state: np.record = np.zeros(1, _STATE).view(np.recarray)[0]
    state.by_line = by_line
    state.row = by_line  # lines count from 1; spans count up as they are reported
    state.string = state.garbage = _NOTHING
    return state


def _let_go(length: int, state: np.record, stack: Stack) -> int:
    """How many leading bytes of a buffer of `length` are no longer needed; all positions move with them."""
    keep = length
    containers = stack[: state.depth]
    for kind, start, flags in containers.tolist():
        held = kind == _OBJECT and not flags & _HOLDS_RESULT and start >= 0
        if held and length - start <= MAX_RESULT:
            keep = start
            break
    starts = containers["start"]
    containers["start"] = np.where(starts < keep, -1, starts - keep)
    state.string -= keep
    state.position -= keep
    return keep


# --- Compiled --------------------------------------------------------------------------------------


@compiled
def _scan(data: Bytes, last: bool, state: np.record, stack: Stack, spans: Spans) -> None:
    """Scan `data` from `state.position`, which moves on; write `state.count` spans.

    Stops early when `spans` is full. `last` says that the file ends with this buffer.
    """
    state.count = 0
    i = state.position
    while i < len(data) and state.count < _MAX_SPANS:  # an iteration reports at most one span
        if state.depth > 0:
            i = _scan_inside(data, i, state, stack)
            if i == len(data):
                break
        byte = data[i]
        if byte in (_SPACE, _RETURN, _TAB):
            pass
        elif byte == _LINE_BREAK:
            _end_line(i, state, stack, spans)
        elif byte in (_OPEN_OBJECT, _OPEN_ARRAY):
            _open(_OBJECT if byte == _OPEN_OBJECT else _ARRAY, i, state, stack, spans)
        elif state.depth > 0:
            _close(_OBJECT if byte == _CLOSE_OBJECT else _ARRAY, i, state, stack, spans)
        elif byte != _COMMA and state.garbage == _NOTHING:  # commas may stand between objects
            state.garbage = i
        i += 1
    state.position = i
    if i == len(data) and state.count < _MAX_SPANS:
        _end_buffer(i, last, state, stack, spans)


@inlined
def _scan_inside(data: Bytes, i: int, state: np.record, stack: Stack) -> int:
    """Scan strings, commas and colons of the innermost container from `i` on, and note its keys.

    Returns the position of the next bracket outside strings (in NDJSON, the next bracket or line break),
    or the end of `data`. Most bytes pass through here, so the state is kept in local variables.
    """
    by_line = state.by_line
    outside = _IN_LINES if by_line else _IN_CONTAINERS
    in_string, string, escaped = state.in_string, state.string, state.escaped
    key_due, flags = state.key_due, stack[state.depth - 1].flags
    while i < len(data):
        if escaped:
            escaped = 0
        elif in_string:
            i = _skip(data, i, _IN_STRINGS)
            byte = data[i]
            if byte == _QUOTE:
                in_string = 0
                if key_due:
                    flags |= _key_flag(data, string + 1, i)
            elif byte == _BACKSLASH:
                escaped = 1
            elif byte == _LINE_BREAK:  # the closing quote is missing
                in_string = 0
                if by_line:
                    break
        else:
            i = _skip(data, i, outside)
            byte = data[i]
            if byte == _QUOTE:
                in_string = 1
                string = i
            elif byte == _COLON:
                key_due = 0
            elif byte == _COMMA:
                key_due = 1
            elif _MEANING[byte] & outside:
                break
        i += 1
    state.in_string, state.string, state.escaped = in_string, string, escaped
    state.key_due = key_due
    stack[state.depth - 1].flags = flags
    return i


@inlined
def _skip(data: Bytes, i: int, where: np.uint8) -> int:
    """The next position from `i` on whose byte has a meaning `where` the scanner is, or the last one."""
    while i < len(data) - 1 and _MEANING[data[i]] & where == 0:
        i += 1
    return i


@compiled
def _key_flag(data: Bytes, start: int, end: int) -> int:
    """The flag of the key data[start:end]; 0 for other keys and for one whose start was let go."""
    if start <= 0:
        return 0
    if end - start == 6:
        if np.array_equal(data[start:end], _MSM_ID):
            return _MSM
        if np.array_equal(data[start:end], _PRB_ID):
            return _PRB
    elif end - start == 9 and np.array_equal(data[start:end], _TIMESTAMP):
        return _TIME
    return 0


@compiled
def _end_line(i: int, state: np.record, stack: Stack, spans: Spans) -> None:
    """A line break outside a string: it ends garbage and, in NDJSON, whatever is open."""
    if state.garbage >= 0:
        _report(state.garbage, i, BROKEN, state, spans)
    elif state.by_line and state.depth > 0:
        _report(stack[0].start, i, BROKEN, state, spans)
    state.garbage = _NOTHING
    if state.by_line:
        state.depth = 0
        state.row += 1


@compiled
def _open(kind: int, i: int, state: np.record, stack: Stack, spans: Spans) -> None:
    """Open a container at `i`."""
    if state.garbage >= 0:
        _report(state.garbage, i, BROKEN, state, spans)
    state.garbage = _NOTHING
    if state.depth == _MAX_DEPTH:  # not a measurement: start over
        _report(stack[0].start, i, BROKEN, state, spans)
        state.depth = 0
    container = stack[state.depth]
    container.kind = kind
    container.start = i
    container.flags = 0
    state.depth += 1
    state.key_due = 1


@compiled
def _close(kind: int, i: int, state: np.record, stack: Stack, spans: Spans) -> None:
    """Close the innermost open container of this kind, and with it all that was left open inside.

    A bracket that closes nothing is ignored here, and spoils the object around it.
    """
    level = state.depth - 1
    while level >= 0 and stack[level].kind != kind:
        level -= 1
    if level < 0:
        return
    unclosed = level + 1
    if kind == _ARRAY and unclosed < state.depth:
        _report(stack[unclosed].start, i, BROKEN, state, spans)
    for inner in range(state.depth - 1, level, -1):
        stack[inner - 1].flags |= stack[inner].flags & _HOLDS_RESULT
    state.depth = level
    _report_closed(level, i + 1, state, stack, spans)


@compiled
def _report_closed(level: int, end: int, state: np.record, stack: Stack, spans: Spans) -> None:
    """Report the container that just closed at `level` if it is a result, or is where one was due."""
    kind, start, flags = stack[level].kind, stack[level].start, stack[level].flags
    if kind == _ARRAY or flags & _HOLDS_RESULT:
        if level > 0:
            stack[level - 1].flags |= flags & _HOLDS_RESULT
        return
    if flags & _PRB or (flags & _MSM and flags & _TIME):
        if level > 0:
            stack[level - 1].flags |= _HOLDS_RESULT | _RESULT_ELEMENT
        _report(start, end, RESULT, state, spans)
        return
    due = level == 0 or (
        stack[level - 1].kind == _ARRAY and (level == 1 or stack[level - 1].flags & _RESULT_ELEMENT)
    )
    if due:
        _report(start, end, OTHER, state, spans)


@compiled
def _end_buffer(i: int, last: bool, state: np.record, stack: Stack, spans: Spans) -> None:
    """The end of the buffer, which ends garbage and, at the end of the file, whatever is open."""
    if state.garbage >= 0:
        _report(state.garbage, i, BROKEN, state, spans)
        state.garbage = _REPORTED
    elif last and state.depth > 0:
        start = -1  # of the outermost object that holds no result
        for level in range(state.depth - 1, -1, -1):
            if stack[level].kind == _OBJECT and not stack[level].flags & _HOLDS_RESULT:
                start = stack[level].start
        _report(start, i, TRUNCATED, state, spans)
        state.depth = 0


@inlined
def _report(start: int, end: int, kind: int, state: np.record, spans: Spans) -> None:
    """Append a span."""
    if not state.by_line:
        state.row += 1
    span = spans[state.count]
    span.start = start
    span.end = end
    span.kind = kind
    span.row = state.row
    state.count += 1
