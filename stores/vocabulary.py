"""The 267 tokens: 11 roles, then one token per byte value.

There is no PAD, BOS or EOS. The tail of a window is filled with 0 and lies past the window's length.
"""

from __future__ import annotations

VOCABULARY_VERSION = 1
VOCABULARY_SIZE = 267
CONTEXT = 1024  # tokens in a window

MEASUREMENT_START = 0
SRC_IPV4 = 1
SRC_IPV6 = 2
DST_IPV4 = 3
DST_IPV6 = 4
TIMESTAMP_ABS = 5
TIMESTAMP_DELTA1 = 6
TIMESTAMP_DELTA4 = 7
RTT_START = 8
THROUGHPUT_START = 9  # reserved: no writer emits it yet
FAILED = 10
BYTE0 = 11  # token of byte b is BYTE0 + b

ROLE_NAMES = (
    "MEASUREMENT_START",
    "SRC_IPV4",
    "SRC_IPV6",
    "DST_IPV4",
    "DST_IPV6",
    "TIMESTAMP_ABS",
    "TIMESTAMP_DELTA1",
    "TIMESTAMP_DELTA4",
    "RTT_START",
    "THROUGHPUT_START",
    "FAILED",
)

PAYLOAD_BYTES = (0, 4, 16, 4, 16, 8, 1, 4, 2, 2, 0)
"""Bytes that follow each role token, by token id."""


def token_name(token: int) -> str:
    """Readable name of a token id: a role's name, or ``0x1f`` for a byte.

    Raises `ValueError` for ids outside the vocabulary.
    """
    if 0 <= token < BYTE0:
        return ROLE_NAMES[token]
    if BYTE0 <= token < VOCABULARY_SIZE:
        return f"0x{token - BYTE0:02x}"
    raise ValueError(f"token {token} is outside the vocabulary of {VOCABULARY_SIZE}")
