"""Files that the page hands to the service: over HTTP, and dropped in a browser."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.measurements.measurement_files import FORMS, PINGS
from tests.model.service.conftest import free_port, listening
from tests.model.service.test_page import browser

__all__ = ["browser"]  # a fixture
EXPECTED = [{"src": s, "dst": d, "rtt_ms": rtt, "time": time} for s, d, rtt, time in PINGS]
BOX = "\n".join(
    [
        "src,dst,rtt_ms,time",
        *(f"{s},{d},{'failed' if r is None else f'{r:g}'},{t}" for s, d, r, t in PINGS),
    ]
)


@pytest.fixture(scope="module")
def url(exported: Path, compile_cache: Path) -> Iterator[str]:
    """The service, whose model need not be ready for this."""
    with listening(exported, compile_cache, free_port()) as (_, address):
        yield address


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    page = browser.new_page()
    failures: list[str] = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.goto(url)
    yield page
    assert failures == []
    page.close()


@pytest.mark.parametrize("name", FORMS)
def test_a_file_of_any_form_is_read_into_measurements(name: str, url: str) -> None:
    answer = httpx.post(f"{url}/context", content=FORMS[name](), timeout=60)
    assert answer.status_code == 200, answer.text
    assert (answer.json()["measurements"], answer.json()["count"]) == (EXPECTED, 5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "file: expected JSON lines, or CSV"),
        (b"src,dst,rtt_ms\n9.9.9.9,8.8.8.8,fast\n", "file:2: rtt_ms 'fast': expected a finite"),
        (b'[{"prb_id": 1}]', "file: no usable measurement: missing_type 1"),
        (b"PAR1", "file: cannot be read as Parquet"),
        (b"BZh91AY&SY", "file: damaged or cut-off bz2 file"),
        (gzip.compress(b"\n" * (17 << 20)), "file: more than 16,777,216 bytes of text"),
        (b"src,dst,failed\n" + b"9.9.9.9,8.8.8.8,yes\n" * 50_001, "file: more than 50,000 rows"),
    ],
)
def test_what_is_not_a_file_of_measurements_is_refused(
    content: bytes, message: str, url: str
) -> None:
    answer = httpx.post(f"{url}/context", content=content, timeout=60)
    assert answer.status_code == 422
    [problem] = answer.json()["detail"]
    assert problem["msg"].startswith(message)


def test_of_many_measurements_the_last_ones_are_given(url: str) -> None:
    rows = b"".join(b"9.9.9.9,8.8.8.8,%d\n" % i for i in range(2500))
    answer = httpx.post(f"{url}/context", content=b"src,dst,rtt_ms\n" + rows).json()
    assert answer["count"] == 2500
    assert [row["rtt_ms"] for row in answer["measurements"]] == list(range(1500, 2500))


DROP = """([name, content]) => {
    const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
    const data = new DataTransfer();
    data.items.add(new File([bytes], name));
    document.getElementById("context").dispatchEvent(
        new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
}"""


@pytest.mark.parametrize("name", ["results.ndjson.bz2", "bigquery.parquet", "table.csv.gz"])
def test_a_dropped_file_of_any_form_becomes_rows_in_the_box(name: str, page: Page) -> None:
    page.evaluate(DROP, [name, base64.b64encode(FORMS[name]()).decode()])
    expect(page.locator("#context")).to_have_value(BOX)
    expect(page.locator("#context-note")).to_contain_text("5 measurements")


def test_the_box_shows_whole_microseconds(page: Page) -> None:
    """An RTT of RIPE Atlas is the mean of three, with all digits of a double."""
    rows = b"src,dst,rtt_ms,time\n9.9.9.9,8.8.8.8,139.19502999999997,1751000000\n"
    page.evaluate(DROP, ["a.csv.gz", base64.b64encode(gzip.compress(rows)).decode()])
    expect(page.locator("#context")).to_have_value(
        "src,dst,rtt_ms,time\n9.9.9.9,8.8.8.8,139.195,1751000000"
    )


def test_pasted_results_become_rows_in_the_box(page: Page) -> None:
    page.fill("#context", FORMS["results.json"]().decode())
    expect(page.locator("#context")).to_have_value(BOX)
    expect(page.locator("#context-note")).to_contain_text("1 of 6 rows left out: no_public_source")
    page.fill("#context", "[1]")
    expect(page.locator("#context-error")).to_contain_text("no usable measurement: not_a_result 1")
