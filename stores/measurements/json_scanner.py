"""The compiled scanner behind `find_results`: walks JSON bytes once, and reports where results begin and end.

It keeps a stack of open containers. All that it knows is in arrays, so that it goes on with the next block
where it stopped.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stores.measurements.compiled import compiled, inlined, records

RESULT, OTHER, BROKEN, TRUNCATED = range(4)
"""What a span is: a result (not decoded yet), an object that is none, text that is no JSON, and
JSON that the end of the file cut off."""
SPAN_REASONS = {OTHER: "not_a_result", BROKEN: "bad_json", TRUNCATED: "truncated"}
"""Why a span that is no result has no row; see `measurements.atlas_result.REASONS`."""

_MAX_DEPTH = 256
MAX_SPANS = 1 << 14  # reported at once

_STATE = np.dtype(
    [
        ("position", np.int64),  # of the next byte to scan
        ("by_line", np.int64),  # 1: NDJSON
        ("depth", np.int64),  # how many containers are open, up to _MAX_DEPTH + 1
        ("deeper", np.int64),  # how many more are open
        ("in_string", np.int64),  # 1: inside a string
        ("string", np.int64),  # where it starts
        ("escaped", np.int64),  # 1: the byte before was a backslash
        ("key_due", np.int64),  # 1: a string that starts here is a key
        ("garbage", np.int64),  # where text outside all containers starts, or one of the two below
        ("row", np.int64),  # of the last span, or the current line of NDJSON
        ("count", np.int64),  # spans written
    ]
)
_LONG_GARBAGE = 1 << 16  # bytes; a reject keeps no more of them
_NOTHING, _REPORTED = -1, -2  # there is no garbage; it has been reported already

_CONTAINER = np.dtype([("kind", np.int64), ("start", np.int64), ("holds", np.int64)])
_OBJECT, _ARRAY = 0, 1  # kinds
# Flags: what an open container directly or indirectly holds.
_MSM, _PRB, _TIME, _HOLDS_RESULT, _RESULT_ELEMENT, _TOO_DEEP = 1, 2, 4, 8, 16, 32

SPAN = np.dtype([(name, np.int64) for name in ("start", "end", "kind", "row")])

Bytes = NDArray[np.uint8]
Stack = NDArray[np.void]
"""The open containers, `_CONTAINER` (_MAX_DEPTH + 1,), outermost first."""
Spans = NDArray[np.void]
"""Where spans are written to, `SPAN` (MAX_SPANS + 1,)."""

_TAB, _LINE_BREAK, _RETURN, _SPACE, _QUOTE, _COMMA, _COLON = b'\t\n\r ",:'
_SEPARATOR = 0x1E  # before each text of RFC 7464
_OPEN_ARRAY, _BACKSLASH, _CLOSE_ARRAY, _OPEN_OBJECT, _CLOSE_OBJECT = b"[\\]{}"

# Bytes that the scanner must look at in strings, in containers outside strings, and there in NDJSON. All
# others are skipped quickly.
_IN_STRINGS, _IN_CONTAINERS, _IN_LINES = np.uint8(1), np.uint8(2), np.uint8(4)
_MEANING = np.zeros(256, np.uint8)
_MEANING[list(b'"\\\n\x1e')] |= _IN_STRINGS
_MEANING[list(b'"{}[]:,\x1e')] |= _IN_CONTAINERS | _IN_LINES
_MEANING[list(b"\n")] |= _IN_LINES

_MSM_ID = np.frombuffer(b"msm_id", np.uint8)
_PRB_ID = np.frombuffer(b"prb_id", np.uint8)
_TIMESTAMP = np.frombuffer(b"timestamp", np.uint8)


def new_state(by_line: bool) -> np.record:
    """The state before the first byte. It is changed in place."""
    state: np.record = np.zeros(1, _STATE).view(np.recarray)[0]
    state.by_line = by_line
    state.row = by_line  # lines count from 1; spans count up as they are reported
    state.string = state.garbage = _NOTHING
    return state


def new_stack() -> Stack:
    """A stack without containers, and room for `_MAX_DEPTH` and one that stands for all deeper ones."""
    return records(np.zeros(_MAX_DEPTH + 1, _CONTAINER))


def let_go(length: int, longest: int, state: np.record, stack: Stack) -> int:
    """How many leading bytes of a buffer of `length` are no longer needed; all positions move with them.

    The text of an open object (in NDJSON, of the whole line) is kept up to `longest` bytes, and always the
    last byte.
    """
    keep = max(0, length - 1) if state.garbage < 0 else int(state.garbage)
    containers = stack[: state.depth]
    for kind, start, flags in containers.tolist():
        held = state.by_line or (kind == _OBJECT and not flags & _HOLDS_RESULT)
        if held and start >= 0 and length - start <= longest:
            keep = start
            break
    starts = containers["start"]
    containers["start"] = np.where(starts < keep, -1, starts - keep)
    if state.garbage >= 0:
        state.garbage -= keep
    state.string -= keep
    state.position -= keep
    return keep


@compiled
def scan(data: Bytes, last: bool, state: np.record, stack: Stack, spans: Spans) -> None:
    """Scan `data` from `state.position`, which moves on; write `state.count` spans.

    Stops early when `spans` is full. `last` says that the file ends with this buffer.
    """
    state.count = 0
    i = state.position
    while i < len(data) and state.count < MAX_SPANS:  # an iteration reports at most one span
        if state.depth > 0:
            i = _scan_inside(data, i, state, stack)
            if i == len(data):
                break
        byte = data[i]
        if byte in (_SPACE, _RETURN, _TAB):
            pass
        elif byte == _LINE_BREAK:
            _end_line(i, state, stack, spans)
        elif byte == _SEPARATOR:
            _end_open(i, state, stack, spans)
        elif byte in (_OPEN_OBJECT, _OPEN_ARRAY):
            if state.depth > _MAX_DEPTH and data[i - 1] == _LINE_BREAK:
                _end_open(i, state, stack, spans)
            _open(_OBJECT if byte == _OPEN_OBJECT else _ARRAY, i, state, stack, spans)
        elif state.depth > 0:
            _close(_OBJECT if byte == _CLOSE_OBJECT else _ARRAY, i, state, stack, spans)
        elif byte != _COMMA and state.garbage == _NOTHING:  # commas may stand between objects
            state.garbage = i
        i += 1
    state.position = i
    if i == len(data) and state.count < MAX_SPANS:
        _end_buffer(i, last, state, stack, spans)


@inlined
def _scan_inside(data: Bytes, i: int, state: np.record, stack: Stack) -> int:
    """Scan strings, commas and colons of the innermost container from `i` on, and note its keys.

    Returns the position of the next bracket or separator outside strings (in NDJSON, also line break), or
    the end of `data`. Most bytes pass through here, so the state is kept in local variables.
    """
    by_line = state.by_line
    outside = _IN_LINES if by_line else _IN_CONTAINERS
    in_string, string, escaped = state.in_string, state.string, state.escaped
    key_due, flags = state.key_due, stack[state.depth - 1].holds
    while i < len(data):
        if escaped and data[i] not in (_LINE_BREAK, _SEPARATOR):
            escaped = 0
        elif in_string:
            escaped = 0
            i = _skip(data, i, _IN_STRINGS)
            byte = data[i]
            if byte == _QUOTE:
                in_string = 0
                if key_due:
                    flags |= _key_flag(data, string + 1, i)
            elif byte == _BACKSLASH:
                escaped = 1
            elif byte in (_LINE_BREAK, _SEPARATOR):  # the closing quote is missing
                in_string = 0
                if by_line or byte == _SEPARATOR:
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
    stack[state.depth - 1].holds = flags
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
    """A line break outside a string and, but for NDJSON, outside all containers."""
    _end_open(i, state, stack, spans)
    if state.by_line:
        state.row += 1


@compiled
def _end_open(i: int, state: np.record, stack: Stack, spans: Spans) -> None:
    """End garbage, or whatever is open."""
    if state.garbage >= 0:
        _report(state.garbage, i, BROKEN, state, spans)
    elif state.depth > 0:
        _report(stack[0].start, i, BROKEN, state, spans)
    state.garbage = _NOTHING
    state.depth = state.deeper = 0


@compiled
def _open(kind: int, i: int, state: np.record, stack: Stack, spans: Spans) -> None:
    """Open a container at `i`."""
    if state.garbage >= 0:
        _report(state.garbage, i, BROKEN, state, spans)
    state.garbage = _NOTHING
    if state.depth > _MAX_DEPTH:
        state.deeper += 1
        return
    if state.depth == _MAX_DEPTH and not stack[_MAX_DEPTH - 1].holds & _TOO_DEEP:
        for level in range(_MAX_DEPTH):
            stack[level].holds |= _TOO_DEEP
    container = stack[state.depth]
    container.kind = kind
    container.start = i
    container.holds = 0
    state.depth += 1
    state.key_due = 1


@compiled
def _close(kind: int, i: int, state: np.record, stack: Stack, spans: Spans) -> None:
    """Close the innermost open container of this kind, and with it all that was left open inside.

    A bracket that closes nothing is ignored here, and spoils the object around it.
    """
    if state.deeper > 0:
        state.deeper -= 1
        return
    level = state.depth - 1
    while level >= 0 and stack[level].kind != kind:
        level -= 1
    if level < 0:
        return
    unclosed = level + 1
    if kind == _ARRAY and unclosed < state.depth:
        _report(stack[unclosed].start, i, BROKEN, state, spans)
        _forget_depth(level + 1, stack)
    for inner in range(state.depth - 1, level, -1):
        stack[inner - 1].holds |= stack[inner].holds & _HOLDS_RESULT
    state.depth = level
    _report_closed(level, i + 1, state, stack, spans)


@compiled
def _report_closed(level: int, end: int, state: np.record, stack: Stack, spans: Spans) -> None:
    """Report the container that just closed at `level` if it is a result, or is where one was due."""
    if level == _MAX_DEPTH:  # its flags are those of everything deeper
        return
    kind, start, flags = stack[level].kind, stack[level].start, stack[level].holds
    if flags & _HOLDS_RESULT or (kind == _ARRAY and not flags & _TOO_DEEP):
        if level > 0:
            stack[level - 1].holds |= flags & _HOLDS_RESULT
        return
    is_result = flags & _PRB or (flags & _MSM and flags & _TIME)
    if is_result and level > 0:
        stack[level - 1].holds |= _HOLDS_RESULT | _RESULT_ELEMENT
    due = level == 0 or (
        stack[level - 1].kind == _ARRAY and (level == 1 or stack[level - 1].holds & _RESULT_ELEMENT)
    )
    if flags & _TOO_DEEP:
        if is_result or due:
            _report(start, end, BROKEN, state, spans)
            _forget_depth(level, stack)
    elif is_result:
        _report(start, end, RESULT, state, spans)
    elif due:
        _report(start, end, OTHER, state, spans)


@compiled
def _forget_depth(levels: int, stack: Stack) -> None:
    """What was too deep inside the outermost containers has been reported."""
    for level in range(levels):
        stack[level].holds &= ~_TOO_DEEP


@compiled
def _end_buffer(i: int, last: bool, state: np.record, stack: Stack, spans: Spans) -> None:
    """The end of the buffer, which ends garbage that is long and, at the end of the file, whatever is open."""
    if state.garbage >= 0 and (last or i - state.garbage >= _LONG_GARBAGE):
        _report(state.garbage, i, BROKEN, state, spans)
        state.garbage = _REPORTED
    elif last and state.depth > 0:
        start = -1  # of the outermost object that holds no result
        for level in range(state.depth - 1, -1, -1):
            if stack[level].kind == _OBJECT and not stack[level].holds & _HOLDS_RESULT:
                start = stack[level].start
        _report(start, i, TRUNCATED, state, spans)
        state.depth = state.deeper = 0


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
