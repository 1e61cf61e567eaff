"""Options of stages that no data can be divided by."""

from __future__ import annotations

import re
from typing import Any

import pytest

from pipeline.split.stage import SplitOptions
from pipeline.tokenize.stage import TokenizeOptions
from stores.errors import ConfigError


@pytest.mark.parametrize(
    ("options", "values", "said"),
    [
        (SplitOptions, {"by": "place"}, "--by place: expected time, source or pair"),
        (SplitOptions, {"test_fraction": 0.0}, "--test-fraction 0.0: expected between 0 and 1"),
        (SplitOptions, {"test_fraction": 1.0}, "--test-fraction 1.0"),
        (SplitOptions, {"test_fraction": float("nan")}, "--test-fraction nan"),
        (SplitOptions, {"rows_per_shard": 0}, "--rows-per-shard 0: expected 1 or more"),
        (SplitOptions, {"train_shards": -1}, "--train-shards -1: expected 1 or more"),
        (TokenizeOptions, {"seed": -1}, "--seed -1: expected 0 to 2^63 - 1"),
        (TokenizeOptions, {"seed": 2**63}, "--seed 9223372036854775808"),
    ],
)
def test_an_option_out_of_range_is_refused_by_its_name(
    options: type, values: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        options(**values)
