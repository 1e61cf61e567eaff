"""The 267 tokens: 11 roles, then one for each byte value.

There is no PAD, BOS or EOS. The tail of a window is filled with 0 and lies past the window's length.
"""

from __future__ import annotations

from enum import StrEnum

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


class Field(StrEnum):
    """What a measurement consists of. The values are the names used in reports and field orders."""

    SOURCE = "src"
    DESTINATION = "dst"
    RESULT = "result"
    TIME = "time"


FIELDS = tuple(Field)
"""The fields by number."""

FIELD_OF_ROLE = {
    SRC_IPV4: Field.SOURCE,
    SRC_IPV6: Field.SOURCE,
    DST_IPV4: Field.DESTINATION,
    DST_IPV6: Field.DESTINATION,
    TIMESTAMP_ABS: Field.TIME,
    TIMESTAMP_DELTA1: Field.TIME,
    TIMESTAMP_DELTA4: Field.TIME,
    RTT_START: Field.RESULT,
    FAILED: Field.RESULT,
}
"""The field that each role token begins. The other roles begin none."""

ROLES_OF_FIELD = tuple(
    tuple(role for role, begun in FIELD_OF_ROLE.items() if begun is field) for field in FIELDS
)
"""The role tokens that can begin each field, by field number."""


def token_name(token: int) -> str:
    """Readable name of a token id: a role's name, or ``0x1f`` for a byte.

    Raises `ValueError` for ids outside the vocabulary.
    """
    if 0 <= token < BYTE0:
        return ROLE_NAMES[token]
    if BYTE0 <= token < VOCABULARY_SIZE:
        return f"0x{token - BYTE0:02x}"
    raise ValueError(f"token {token} is outside the vocabulary of {VOCABULARY_SIZE}")
