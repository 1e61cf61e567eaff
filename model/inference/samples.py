"""What a search for destinations at an RTT is made of: the RTTs that match, and which draws are the answer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model.inference.decoding import Bands
from model.inference.prediction import CANONICAL, CODE_MS, SampledAddress
from model.inference.query import SampleQuery
from stores.codec import encode_rtt


def within_tolerance(query: SampleQuery) -> NDArray[np.bool_]:
    """Which RTT codes (65536,) are within the query's tolerance; the target's own code always is."""
    within = np.abs(CODE_MS - query.target_rtt_ms) <= query.tolerance * query.target_rtt_ms
    within[encode_rtt(query.target_rtt_ms)] = True
    return within & CANONICAL


def rtt_band(query: SampleQuery) -> Bands:
    """`within_tolerance` for the decoder. RTTs ascend with codes, so at most two first bytes are cut."""
    within = within_tolerance(query).reshape(256, 256)
    taken, possible = within.sum(1), CANONICAL.reshape(256, 256).sum(1)
    cut = np.flatnonzero((taken > 0) & (taken < possible))
    edges, parts = np.zeros(2, np.int32), np.zeros((2, 256), np.float32)
    edges[: len(cut)], parts[: len(cut)] = cut, within[cut]
    return Bands(((taken > 0) & (taken == possible)).astype(np.float32), edges, parts)


def choose(pool: list[SampledAddress], query: SampleQuery) -> list[SampledAddress]:
    """`n` of the pool, drawn without replacement in proportion to their probabilities (by adding Gumbel
    noise to the logarithms), most certain first."""
    noise = np.random.default_rng((query.seed, 1)).gumbel(size=len(pool))
    chosen = np.argsort(-noise - np.array([drawn.log_probability for drawn in pool]))[: query.n]
    return sorted((pool[at] for at in chosen), key=lambda drawn: -drawn.p_within)
