"""What sampled addresses are judged and chosen by, without a model."""

from __future__ import annotations

from ipaddress import ip_address

import numpy as np
import pytest

from model.inference.prediction import SampledAddress
from model.inference.query import SampleQuery
from model.inference.samples import choose, rtt_band, within_tolerance
from tests.model.inference.plain import V4


def test_a_band_of_codes_is_whole_first_bytes_and_parts_of_two() -> None:
    for target in (5e-324, 0.0005, 0.02, 0.9, 1.3, 20.0, 31.7, 5000.0, 59_000.0, 60_000.0):
        for tolerance in (0.0, 1e-6, 0.01, 0.05, 0.3, 0.99):
            query = SampleQuery(V4[0], target, tolerance=tolerance)
            band = rtt_band(query)
            codes = np.repeat(band.whole[:, None], 256, axis=1)
            for edge, part in zip(band.edges, band.parts, strict=True):
                codes[edge] += part
            np.testing.assert_array_equal(codes.ravel() == 1, within_tolerance(query))


def test_what_is_kept_of_the_draws_is_in_proportion_to_its_probability() -> None:
    shares = {"193.0.2.1": 0.6, "193.0.2.2": 0.3, "193.0.2.3": 0.1}
    pool = [SampledAddress(ip_address(a), np.log(p) - 9, p) for a, p in shares.items()]
    first = [choose(pool, SampleQuery(V4[0], 20, 1, seed=seed))[0].address for seed in range(2000)]
    for address, share in shares.items():
        assert first.count(ip_address(address)) == pytest.approx(2000 * share, abs=100)
    assert choose(pool, SampleQuery(V4[0], 20, 9)) == pool
