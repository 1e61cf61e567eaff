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

import numba
import numpy as np
from numpy.typing import NDArray

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

_DEPTH, _IN_STRING, _STRING, _ESCAPED, _KEY_DUE, _GARBAGE, _ROW = range(7)  # slots of the state
_NOTHING, _REPORTED = -1, -2  # values of the slot _GARBAGE, else where the garbage starts
_OBJECT, _ARRAY = 0, 1
# What an open container directly or indirectly holds.
_MSM, _PRB, _TIME, _HOLDS_RESULT, _RESULT_ELEMENT = 1, 2, 4, 8, 16

_TAB, _LINE_BREAK, _RETURN, _SPACE, _QUOTE, _COMMA, _COLON = b'\t\n\r ",:'
_OPEN_ARRAY, _BACKSLASH, _CLOSE_ARRAY, _OPEN_OBJECT, _CLOSE_OBJECT = b"[\\]{}"

# Bytes that the scanner must look at: the others are skipped fast.
_IN_STRINGS, _IN_CONTAINERS = np.uint8(1), np.uint8(2)
_MEANING = np.zeros(256, np.uint8)
_MEANING[list(b'"\\\n')] |= _IN_STRINGS
_MEANING[list(b'"\n{}[]:,')] |= _IN_CONTAINERS

_MSM_ID = np.frombuffer(b"msm_id", np.uint8)
_PRB_ID = np.frombuffer(b"prb_id", np.uint8)
_TIMESTAMP = np.frombuffer(b"timestamp", np.uint8)


def find_results(blocks: Iterable[bytes]) -> Iterator[tuple[memoryview, list[Span]]]:
    """Yield a buffer with the spans that end in it, in order; about 500 MB/s on one core.

    `blocks` are consecutive pieces of a file's text, of any size. A file with text but neither an
    object nor an empty array yields one `OTHER` span.
    """
    pieces = iter(blocks)
    buffer = next(pieces, b"").removeprefix(b"\xef\xbb\xbf")  # a byte order mark is no JSON
    head = buffer[:4096]
    by_line = _is_ndjson(buffer)
    state = np.array([0, 0, _NOTHING, 0, 0, _NOTHING, 1 if by_line else 0], np.int64)
    stack = np.zeros((_MAX_DEPTH, 3), np.int64)  # kind, start, flags
    spans = np.empty((_MAX_SPANS + 1, 4), np.int64)
    position, found = 0, False
    while True:
        piece = next(pieces, b"")
        data = np.frombuffer(buffer, np.uint8)
        while True:
            position, count = _scan(data, position, by_line, not piece, state, stack, spans)
            if count:
                found = True
                yield memoryview(buffer), spans[:count].tolist()
            if count < _MAX_SPANS:
                break
        if not piece:
            break
        keep = _let_go(len(buffer), state, stack)
        position = len(buffer) - keep
        buffer = buffer[keep:] + piece
    text = b"".join(head.split())
    if not found and text not in (b"", b"[]"):
        yield memoryview(head), [(0, len(head), OTHER, 1)]


def _is_ndjson(block: bytes) -> bool:
    """Are most of the first lines whole objects?"""
    lines = [line for line in map(bytes.strip, block[: 1 << 20].split(b"\n", 32)[:32]) if line]
    whole = sum(line.startswith(b"{") and line.endswith(b"}") for line in lines)
    return 2 * whole > len(lines)


def _let_go(length: int, state: NDArray[np.int64], stack: NDArray[np.int64]) -> int:
    """How many bytes of the buffer nobody needs any more; positions are moved to the new origin."""
    keep = length
    for kind, start, flags in stack[: state[_DEPTH]].tolist():
        held = kind == _OBJECT and not flags & _HOLDS_RESULT and start >= 0
        if held and length - start <= MAX_RESULT:
            keep = start
            break
    depth = state[_DEPTH]
    starts = stack[:depth, 1]
    stack[:depth, 1] = np.where(starts < keep, -1, starts - keep)
    state[_STRING] -= keep
    return keep


@numba.njit(cache=True, nogil=True)
def _scan(data, position, by_line, last, state, stack, spans):
    """Scan `data` from `position`; return where it stopped and how many spans it wrote.

    Stops early when `spans` is full. `last` says that the file ends with this buffer.
    """
    depth, in_string, string = state[_DEPTH], state[_IN_STRING], state[_STRING]
    escaped, key_due, garbage = state[_ESCAPED], state[_KEY_DUE], state[_GARBAGE]
    count = 0
    size = len(data)
    i = position
    while i < size and count < _MAX_SPANS:  # an iteration reports at most one span
        byte = data[i]
        if in_string:
            if escaped:
                escaped = 0
                i += 1
                continue
            while i < size - 1 and _MEANING[byte] & _IN_STRINGS == 0:
                i += 1
                byte = data[i]
            if byte == _QUOTE:
                in_string = 0
                if key_due and depth > 0:
                    stack[depth - 1, 2] |= _key(data, string + 1, i)
            elif byte == _BACKSLASH:
                escaped = 1
            elif byte == _LINE_BREAK:  # the closing quote is missing
                in_string = 0
                continue
            i += 1
            continue
        if depth > 0:
            while i < size - 1 and _MEANING[byte] & _IN_CONTAINERS == 0:
                i += 1
                byte = data[i]
        if byte in (_SPACE, _RETURN, _TAB):
            pass
        elif byte == _LINE_BREAK:
            if garbage >= 0:
                count = _report(spans, count, garbage, i, BROKEN, by_line, state)
            elif by_line and depth > 0:
                count = _report(spans, count, stack[0, 1], i, BROKEN, by_line, state)
            garbage = _NOTHING
            if by_line:
                depth = 0
                state[_ROW] += 1
        elif byte in (_OPEN_OBJECT, _OPEN_ARRAY):
            if garbage >= 0:
                count = _report(spans, count, garbage, i, BROKEN, by_line, state)
            garbage = _NOTHING
            if depth == _MAX_DEPTH:  # no measurement: start over
                count = _report(spans, count, stack[0, 1], i, BROKEN, by_line, state)
                depth = 0
            stack[depth, 0] = _OBJECT if byte == _OPEN_OBJECT else _ARRAY
            stack[depth, 1] = i
            stack[depth, 2] = 0
            depth += 1
            key_due = 1
        elif depth == 0:
            if byte != _COMMA and garbage == _NOTHING:  # commas may stand between objects
                garbage = i
        elif byte == _QUOTE:
            in_string = 1
            string = i
        elif byte == _COLON:
            key_due = 0
        elif byte == _COMMA:
            key_due = 1
        elif byte in (_CLOSE_OBJECT, _CLOSE_ARRAY):
            kind = _OBJECT if byte == _CLOSE_OBJECT else _ARRAY
            level = depth - 1
            while level >= 0 and stack[level, 0] != kind:
                level -= 1
            if level >= 0:  # else it closes nothing, and spoils the object around it
                unclosed = level + 1
                if kind == _ARRAY and unclosed < depth:
                    count = _report(spans, count, stack[unclosed, 1], i, BROKEN, by_line, state)
                for inner in range(depth - 1, level, -1):
                    stack[inner - 1, 2] |= stack[inner, 2] & _HOLDS_RESULT
                depth = level
                count = _close(spans, count, i + 1, by_line, state, stack, level)
        i += 1
    if i == size and count < _MAX_SPANS:
        if garbage >= 0:
            count = _report(spans, count, garbage, i, BROKEN, by_line, state)
            garbage = _REPORTED
        elif last and depth > 0:
            start = -1  # of the outermost object that holds no result
            for level in range(depth - 1, -1, -1):
                if stack[level, 0] == _OBJECT and not stack[level, 2] & _HOLDS_RESULT:
                    start = stack[level, 1]
            count = _report(spans, count, start, i, TRUNCATED, by_line, state)
            depth = 0
    state[_DEPTH], state[_IN_STRING], state[_STRING] = depth, in_string, string
    state[_ESCAPED], state[_KEY_DUE], state[_GARBAGE] = escaped, key_due, garbage
    return i, count


@numba.njit(cache=True, nogil=True, inline="always")
def _report(spans, count, start, end, kind, by_line, state):
    if not by_line:
        state[_ROW] += 1
    spans[count, 0] = start
    spans[count, 1] = end
    spans[count, 2] = kind
    spans[count, 3] = state[_ROW]
    return count + 1


@numba.njit(cache=True, nogil=True)
def _close(spans, count, end, by_line, state, stack, level):
    """Report the container that just closed at `level`, if it is a result or stands where one was
    due."""
    start, flags = stack[level, 1], stack[level, 2]
    if stack[level, 0] == _ARRAY or flags & _HOLDS_RESULT:
        if level > 0:
            stack[level - 1, 2] |= flags & _HOLDS_RESULT
        return count
    if flags & _PRB or (flags & _MSM and flags & _TIME):
        if level > 0:
            stack[level - 1, 2] |= _HOLDS_RESULT | _RESULT_ELEMENT
        return _report(spans, count, start, end, RESULT, by_line, state)
    due = level == 0 or (
        stack[level - 1, 0] == _ARRAY and (level == 1 or stack[level - 1, 2] & _RESULT_ELEMENT)
    )
    if due:
        return _report(spans, count, start, end, OTHER, by_line, state)
    return count


@numba.njit(cache=True, nogil=True)
def _key(data, start, end):
    """The flag of the key data[start:end], 0 for others and for one whose start was let go."""
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
