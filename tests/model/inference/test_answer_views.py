"""What the commands print, as plain text."""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console, RenderableType

from model.inference import views
from model.inference.prediction import CODES, Completion, RttPrediction, SampledAddress
from model.inference.query import CompletionQuery, RttQuery, SampleQuery
from stores.codec import Measurement, encode_rtt

A, B = ip_address("193.0.2.1"), ip_address("198.51.101.7")
EARLIER = [Measurement(A, B, 20.0, None)] * 3


def text_of(view: RenderableType, width: int = 200) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(view)
    return capture.get()


def certain(rtt_ms: float) -> RttPrediction:
    """All probability on one RTT, 25 % on no answer."""
    codes = np.zeros(CODES)
    codes[encode_rtt(rtt_ms)] = 1
    return RttPrediction(0.25, codes)


def test_a_prediction_shows_the_failure_the_median_and_the_used_context() -> None:
    query = RttQuery(A, B, None, EARLIER)
    text = text_of(views.rtt_view(query, certain(20.0), used=2))
    assert f"RTT in ms, {A} → {B}" in text
    assert "after 2 of 3 measurements" in text
    assert "25.00%" in text
    assert "20.00 – 20.00" in text
    assert "after 3 measurements" in text_of(views.rtt_view(query, certain(20.0), used=3))
    assert "after" not in text_of(views.rtt_view(replace(query, context=()), certain(20.0), 0))


def test_80_columns_suffice_for_a_second() -> None:
    """Neither a value nor a title is broken."""
    source = ip_address("2001:db9:1234:5678:9abc:def0:1234:5678")
    query = RttQuery(source, ip_address("2001:db9::1"))
    text = text_of(views.rtt_view(query, certain(1234.0), 0), width=80)
    assert len(re.findall(r"\d{4}\.\d\d – \d{4}\.\d\d │", text)) == 2
    title, header = text_of(
        views.samples_view(SampleQuery(source, 20.0, 1), [SampledAddress(B, -3.5, 0.01)], 0),
        width=80,
    ).splitlines()[:2]
    assert title == f"Nothing convincing at 20 ms ± 5% from {source}"
    assert header.startswith("┏")


def test_a_histogram_has_a_row_per_bin_and_scales_its_bars_to_the_largest() -> None:
    codes = np.zeros(CODES)
    for rtt_ms in (10.0, 20.0, 30.0):
        codes[encode_rtt(rtt_ms)] = 1 / 3
    table = views.histogram(RttPrediction(0.0, codes), bins=4)
    assert table.row_count == 4
    text = text_of(table)
    assert "to 15.00 ms" in text
    assert "33.3%" in text
    assert "█" * views.BAR_WIDTH in text  # the largest share


@pytest.mark.parametrize("rtt_ms", [0.001, 20.0, 4.3e9])
def test_a_certain_rtt_has_all_of_the_histogram(rtt_ms: float) -> None:
    shares = re.findall(r"([\d.]+)%", text_of(views.histogram(certain(rtt_ms))))
    assert [float(share) for share in shares] == [100.0] + [0.0] * (len(shares) - 1)


def test_the_lowest_rtt_of_a_histogram_counts() -> None:
    codes = np.zeros(CODES)
    for rtt_ms, share in ((10.0, 0.75), (30.0, 0.25)):
        codes[encode_rtt(rtt_ms)] = share
    text = text_of(views.histogram(RttPrediction(0.0, codes), bins=2))
    assert ["75.0%" in line for line in text.splitlines()] == [True, False]
    assert ["25.0%" in line for line in text.splitlines()] == [False, True]


@pytest.mark.parametrize(("field", "title"), [("dst", "destinations"), ("src", "sources")])
def test_completions_show_each_byte_and_their_total(field: Any, title: str) -> None:
    found = [Completion(B, 0.5, (0.625, 0.8)), Completion(A, 0.25, (0.5, 0.5))]
    text = text_of(views.completions_view(CompletionQuery("198.51", 2, (), field), found, 0))
    assert f"IPv4 {title} beginning with 198.51\n" in text
    assert "62.5% 80.0%" in text
    assert "together 75.0% of the probability" in text


def test_samples_say_when_there_are_fewer_than_requested() -> None:
    query = SampleQuery(A, 20.0, 1)
    found = [SampledAddress(B, -3.5, 0.75)]
    whole = text_of(views.samples_view(query, found, 0))
    assert f"Destinations 20 ms ± 5% from {A}" in whole
    assert str(B) in whole
    assert "-3.50" in whole
    assert "75.0%" in whole
    assert "requested" not in whole
    fewer = text_of(views.samples_view(replace(query, n=5), found, 0))
    assert "5 were requested; further draws found no new ones" in fewer


@pytest.mark.parametrize(("loss", "shown"), [(None, "-"), (12.345, "12.35 nats per measurement")])
def test_an_export_shows_its_origin(loss: float | None, shown: str) -> None:
    origin = {"step": 1500, "test_loss": loss, "store_digest": "abcdef" * 10, "code_version": "v1"}
    record = {"parameters": 1234, "dtype": "float32", "rtt_temperature": 1.25, "origin": origin}
    text = text_of(views.export_view(Path("out"), record))
    for part in ("out", "1,234 in float32", "1,500", shown, "1.25", "abcdefabcdef", "v1"):
        assert part in text


def test_no_spinner_where_nobody_sees_it() -> None:
    with views.working("predicting", silent=True) as spinner:
        assert spinner is None
