"""What users of the page take away: a link to the question, the answer as CSV, all destinations at once."""

from __future__ import annotations

import csv
import json
from typing import Any
from urllib.parse import quote, urlencode

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.model.service.conftest import DST, SRC
from tests.model.service.test_page import CONTEXT, predict
from tests.model.service.test_page import browser as browser
from tests.model.service.test_page import page as page

TABS = {
    "predict": {"src": SRC, "dst": DST, "time": "2025-06-27T04:53:20"},
    "each": {"src": SRC},
    "sample": {"src": SRC, "target_rtt_ms": "30", "tolerance": "20", "n": "3"},
    "complete": {"prefix": "198.51", "field": "src", "k": "4"},
}


def link(tab: str, context: str = CONTEXT, **fields: str) -> str:
    return "#" + urlencode({"ask": tab, **fields, "context": context})


def opened(page: Page, url: str, fragment: str) -> None:
    """Open a link as if from elsewhere: the page itself stays the same where only the fragment differs."""
    page.goto("about:blank")
    page.goto(f"{url}/{fragment}")


def downloaded(page: Page, tab: str) -> list[dict[str, str]]:
    with page.expect_download() as download:
        page.click(f"#{tab} .take-away button")
    assert download.value.suggested_filename.endswith(".csv")
    with open(download.value.path(), newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("tab", TABS)
def test_a_link_holds_the_question_and_its_context_and_asks_it(
    page: Page, url: str, tab: str
) -> None:
    opened(page, url, link(tab, **TABS[tab]))
    answer = page.locator(f"#{tab} .answer")
    expect(answer.locator(".take-away")).to_be_visible(timeout=30_000)
    expect(page.locator("#context")).to_have_value(CONTEXT)
    for name, value in TABS[tab].items():
        expect(page.locator(f"#{tab} [name={name}]")).to_have_value(value)
    said = answer.inner_text()
    again = answer.locator(".take-away a").get_attribute("href")
    assert again
    opened(page, url, again)
    expect(answer.locator(".take-away")).to_be_visible(timeout=30_000)
    assert answer.inner_text() == said


def test_a_link_is_of_what_was_asked_and_a_click_asks_it_again(page: Page) -> None:
    predict(page)
    page.wait_for_selector("#predict .answer svg")
    page.fill("#predict-dst", "198.51.101.99")
    page.click("#predict .take-away a")
    expect(page.locator("#predict-dst")).to_have_value(DST)
    expect(page.locator("#predict .answer.old")).to_have_count(0)


def test_a_link_from_a_stranger_is_text_and_no_more(page: Page, url: str) -> None:
    script = "<img src=x onerror=document.title='owned'>"
    opened(page, url, link("predict", f"src,dst,rtt_ms\n{script},{DST},5\n", src=script, dst=DST))
    expect(page.locator("#predict-src-error")).to_contain_text("expected an IPv4 or IPv6 address")
    expect(page.locator("#context-error")).to_have_text("")
    opened(page, url, link("predict", f"src,dst,rtt_ms\n{script},{DST},5\n", src=SRC, dst=DST))
    expect(page.locator("#context-error")).to_contain_text("line 2: src")
    assert page.locator("img").count() == 0
    for strange in (
        "#ask=nothing",
        "#ask=__proto__",
        "#%",
        f"#ask=predict&src={quote('%00')}",
        "#",
    ):
        opened(page, url, strange)
        expect(page.locator("#about")).to_contain_text("weights")
    assert page.title() == "pinglm"


def test_the_answer_as_csv_has_the_apis_numbers(page: Page, url: str) -> None:
    opened(page, url, link("predict", "", src=SRC, dst=DST))
    page.wait_for_selector("#predict .take-away")
    (row,) = downloaded(page, "predict")
    answer = httpx.post(f"{url}/predict_rtt", json={"src": SRC, "dst": DST}).json()
    assert (row["src"], row["dst"], row["time"]) == (SRC, DST, "")
    assert float(row["median_ms"]) == pytest.approx(answer["median_ms"])
    assert float(row["q0.95_ms"]) == pytest.approx(answer["quantiles_ms"]["0.95"])
    assert row["notes"] == "; ".join(answer["notes"])

    opened(page, url, link("sample", "", **TABS["sample"]))
    page.wait_for_selector("#sample .take-away")
    rows = downloaded(page, "sample")
    assert [row["address"] for row in rows] == page.locator("#sample td button").all_inner_texts()
    assert all(0 <= float(row["p_within"]) <= 1 for row in rows)
    unmet = [row["unmet_prefix"] for row in rows if row["unmet_prefix"]]
    marks = page.locator("#sample td small").all_inner_texts()
    assert unmet
    assert marks == [f"the training data have none in {prefix}" for prefix in unmet]

    opened(page, url, link("complete", "", **TABS["complete"]))
    page.wait_for_selector("#complete .take-away")
    assert len(downloaded(page, "complete")) == 4


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("plain", "plain"),
        ('a "quoted", one\r\nin two lines', 'a "quoted", one\r\nin two lines'),
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("+1", "'+1"),
        ("-1+cmd|'x'!A0", "'-1+cmd|'x'!A0"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("\r=1", "'\r=1"),
        ("  =1", "'  =1"),
        ("＝1", "'＝1"),
        (-2.5, "-2.5"),
        (None, ""),
    ],
)
def test_csv_is_quoted_and_no_text_is_a_formula(page: Page, value: Any, read: str) -> None:
    text = page.evaluate(
        f"import('/page/csv.js').then((csv) => csv.csvText(['a', 'b'], [[{json.dumps(value)}, 1]]))"
    )
    assert list(csv.reader(text.splitlines(keepends=True))) == [["a", "b"], [read, "1"]]


def test_all_destinations_of_the_context_are_one_table(page: Page, url: str) -> None:
    dsts = [f"198.51.101.{at}" for at in range(1, 81)]  # more than one request may ask about
    rows = [f"{SRC},{dst},{at}.5," for at, dst in enumerate(dsts)]
    rows += [f"{SRC},{dsts[0]},failed,", f"{SRC},10.0.0.1,3,", "2001:db9::1,2001:db9::2,4,"]
    rows += [f"193.0.2.9,{dsts[1]},77,"]
    page.fill("#context", "\n".join(["src,dst,rtt_ms,time", *rows]))
    page.click("#tab-each")
    page.fill("#each-src", SRC)
    page.press("#each-src", "Enter")
    expect(page.locator("#each tbody tr")).to_have_count(81, timeout=60_000)
    shown = {
        row.split("\t")[0]: row.split("\t")[-1]
        for row in page.locator("#each tbody tr").all_inner_texts()
    }
    assert set(shown) == {*dsts, "10.0.0.1"}
    assert (shown[dsts[0]], shown[dsts[1]]) == ("failed", "1.5 ms")
    table = downloaded(page, "each")
    assert {row["dst"] for row in table} == set(shown)
    page.click("#each td button >> nth=0")
    page.wait_for_selector("#predict .answer svg")
    assert page.input_value("#predict-src") == SRC


def test_without_measurements_there_are_no_destinations(page: Page) -> None:
    page.click("#tab-each")
    page.press("#each-src", "Enter")
    expect(page.locator("#context-error")).to_contain_text("no measurements")
    page.fill("#context", CONTEXT)
    page.fill("#each-src", "2001:db9::1")
    page.press("#each-src", "Enter")
    expect(page.locator("#context-error")).to_contain_text("no destination of the family of")


def test_a_destination_that_is_not_an_address_is_named_by_its_line(page: Page) -> None:
    page.fill("#context", CONTEXT + f"{SRC},nowhere,5,\n")
    page.click("#tab-each")
    page.press("#each-src", "Enter")
    expect(page.locator("#context-error")).to_contain_text("line 4: dst")


def test_the_table_of_all_destinations_fits_a_narrow_window(page: Page, url: str) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    long = "2001:db9:1111:2222:3333:4444:5555:6666"
    opened(page, url, link("each", f"src,dst,rtt_ms,time\n{long},{long},5,\n"))
    page.wait_for_selector("#each table")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
