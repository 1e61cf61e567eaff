"""How questions are put into batches of a few shapes, so that few programs are compiled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address

from stores.codec import Measurement

BATCH_SIZES = (16, 4, 1)  # of device calls
SHORTEST_BUCKET = 64  # tokens; prompts are padded to a power of two times this
WARM_UP_PAIR = IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2")


def warm_up_contexts(window: int) -> list[list[Measurement]]:
    """Contexts whose prompts fall into each bucket of `bucket_length`, for every kind of query."""
    earlier = Measurement(*WARM_UP_PAIR, 20.0, None)  # 14 tokens
    buckets = sorted({bucket_length(length, window) for length in range(1, window + 1)})
    return [[], *([earlier] * (bucket // 18) for bucket in buckets[1:])]


def bucket_length(length: int, context: int) -> int:
    """Padded length of a prompt: 64 times a power of two, at most `context`."""
    bucket = SHORTEST_BUCKET
    while bucket < length:
        bucket *= 2
    return min(bucket, context)


def split_batches(members: Sequence[int]) -> Iterator[Sequence[int]]:
    """Batches of 16, then of 4, then of 1, so that no row is padding."""
    start = 0
    for size in BATCH_SIZES:
        while len(members) - start >= size:
            yield members[start : start + size]
            start += size
