"""The page in a real headless Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from model.service.app import PAGE
from tests.model.service.conftest import DST, SRC, free_port, serving

CONTEXT = "src,dst,rtt_ms,time\n193.0.2.1,198.51.101.8,21.7,\n193.0.2.1,198.51.101.9,failed,\n"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    assert chromium, "no chromium: install it with apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    """The open page; afterwards nothing may have been asked elsewhere, and no script have failed."""
    page = browser.new_page()
    requests: list[str] = []
    failures: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.on(
        "console",
        lambda message: (
            failures.append(message.text)
            if message.type == "error" and "Failed to load resource" not in message.text
            else None
        ),
    )
    page.goto(url)
    expect(page.locator("#about")).to_contain_text("weights")
    yield page
    assert requests
    assert all(request.startswith(url) for request in requests)
    assert failures == []
    page.close()


def predict(page: Page, src: str = SRC, dst: str = DST) -> None:
    page.fill("#predict-src", src)
    page.fill("#predict-dst", dst)
    page.press("#predict-dst", "Enter")


def test_a_query_without_context_shows_the_apis_numbers_and_a_chart(page: Page, url: str) -> None:
    predict(page)
    page.wait_for_selector("#predict .answer svg")
    answer = httpx.post(f"{url}/predict_rtt", json={"src": SRC, "dst": DST}).json()
    digits = "".join(c for c in page.inner_text("#predict .big") if c.isdigit() or c == ".")
    assert float(digits) == pytest.approx(answer["median_ms"], rel=0.06)
    assert page.locator("#predict rect.bar").count() == 60
    assert "Empty" in page.inner_text("#context-note")


def test_every_answer_says_that_it_is_of_a_simulation_and_which_network_is_unknown(
    page: Page,
) -> None:
    expect(page.locator("#about")).to_contain_text("trained on 1 pings of a simulated Internet")
    predict(page)
    page.wait_for_selector("#predict .answer svg")
    notes = page.locator("#predict .notes li")
    assert notes.all_inner_texts() == ["from a model of a simulated Internet"]
    predict(page, dst="8.8.8.8")
    expect(notes).to_have_count(2)
    assert (
        notes.all_inner_texts()[1]
        == "destination 8.8.8.8: the training data have no destination in 8.8.0.0/16"
    )
    predict(page, dst="192.168.0.1")
    expect(page.locator("#predict-dst-error")).to_contain_text("private or special")
    for tab, field, value in (
        ("sample", "#sample-src", SRC),
        ("complete", "#complete-prefix", "8"),
    ):
        page.click(f"#tab-{tab}")
        page.fill(field, value)
        page.press(field, "Enter")
        expect(page.locator(f"#{tab} .notes li")).to_have_text(
            "from a model of a simulated Internet"
        )
    expect(page.locator("#sample caption")).to_contain_text("is within the tolerance with a prob")


def test_an_invalid_address_is_named_at_its_field_which_gets_the_focus(page: Page) -> None:
    predict(page, dst="198.51.101.700")
    page.wait_for_selector("#predict-dst[aria-invalid=true]")
    assert "expected an IPv4 or IPv6 address" in page.inner_text("#predict-dst-error")
    assert page.evaluate("document.activeElement.id") == "predict-dst"
    predict(page)
    page.wait_for_selector("#predict .answer svg")
    assert page.locator("[aria-invalid]").count() == 0


def test_context_is_used_and_a_bad_line_of_it_is_named(page: Page) -> None:
    page.fill("#context", CONTEXT)
    predict(page)
    page.wait_for_selector("#predict .answer svg")
    assert page.inner_text("#context-note").startswith("2 measurements")
    page.fill("#context", CONTEXT + "193.0.2.1,198.51.101.9,soon,\n")
    predict(page)
    expect(page.locator("#context-error")).to_have_text("line 4: rtt_ms soon: expected a number")
    page.fill("#context", CONTEXT + "193.0.2.1,nowhere,5,\n")
    predict(page)
    expect(page.locator("#context-error")).to_contain_text("line 4: dst")


def test_a_dropped_file_becomes_the_context(page: Page) -> None:
    page.evaluate(
        """text => {
            const data = new DataTransfer();
            data.items.add(new File([text], "context.csv"));
            document.getElementById("context").dispatchEvent(
                new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
        }""",
        CONTEXT,
    )
    expect(page.locator("#context")).to_have_value(CONTEXT)
    assert page.inner_text("#context-note") == "2 measurements"


def test_by_keyboard_alone_addresses_are_found_and_one_is_predicted(page: Page) -> None:
    page.focus("#tab-predict")
    page.keyboard.press("ArrowRight")
    assert page.get_attribute("#tab-sample", "aria-selected") == "true"
    page.keyboard.press("Tab")
    page.keyboard.type(SRC)
    page.keyboard.press("Enter")
    page.wait_for_selector("#sample table button")
    address = page.inner_text("#sample table button >> nth=0")
    page.focus("#sample table button >> nth=0")
    page.keyboard.press("Enter")
    page.wait_for_selector("#predict .answer svg")
    assert page.input_value("#predict-dst") == address


def test_an_address_is_completed_with_the_probability_of_each_byte(page: Page) -> None:
    page.click("#tab-complete")
    page.fill("#complete-prefix", "198.51")
    page.press("#complete-prefix", "Enter")
    page.wait_for_selector("#complete table")
    assert page.locator("#complete tbody tr").count() == 10
    first = page.inner_text("#complete tbody tr >> nth=0")
    assert first.startswith("198.51.")
    assert "each byte:" in first


def test_a_newer_query_is_not_overwritten_by_a_slow_older_one(page: Page) -> None:
    page.route(
        "**/predict_rtt",
        lambda route: (
            page.wait_for_timeout(800)
            if route.request.post_data and "198.51.101.1" + '"' in route.request.post_data
            else None,
            route.continue_(),
        ),
    )
    predict(page, dst="198.51.101.1")
    predict(page, dst=DST)
    page.wait_for_selector("#predict .answer svg")
    shown = page.inner_text("#predict .answer")
    page.wait_for_timeout(1200)
    assert page.inner_text("#predict .answer") == shown
    assert page.inner_text("#predict .ask") == "Predict"


@pytest.mark.parametrize("tab", ["predict", "sample", "complete"])
def test_at_360_pixels_nothing_overflows(page: Page, tab: str) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.click(f"#tab-{tab}")
    field, value = {
        "predict": ("#predict-src", "2001:db9:1111:2222:3333:4444:5555:6666"),
        "sample": ("#sample-src", "2001:db9:1111:2222:3333:4444:5555:6666"),
        "complete": ("#complete-prefix", "2001:db9:1111:2222:3333:4444:5555:"),
    }[tab]
    if tab == "predict":
        page.fill("#predict-dst", "2001:db9:1111:2222:3333:4444:5555:7777")
    page.fill(field, value)
    page.press(field, "Enter")
    page.wait_for_selector(f"#{tab} .answer :is(svg, table)")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in colour[4:-1].split(",")]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_in_light_and_dark_text_stands_out(page: Page) -> None:
    """Contrast of 4.5 and more (WCAG 2.1 AA) for each kind of text on the page's background."""
    backgrounds = set()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        back = page.evaluate("getComputedStyle(document.body).backgroundColor")
        backgrounds.add(back)
        for selector in ("h1", "#about", "label", ".note", ".error", "a", "#tab-sample", "#state"):
            text = page.evaluate(f"getComputedStyle(document.querySelector('{selector}')).color")
            dark, light = sorted((luminance(back), luminance(text)))
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (scheme, selector)
    assert len(backgrounds) == 2


def test_a_server_that_goes_away_is_reported_and_the_page_recovers(
    browser: Browser, exported: Path, compile_cache: Path
) -> None:
    port = free_port()
    page = browser.new_page()
    with serving(exported, compile_cache, port) as (_, url):
        page.goto(url)
        expect(page.locator("#about")).to_contain_text("weights")
    predict(page)
    state = page.locator("#state")
    expect(state).to_contain_text("unreachable")
    with serving(exported, compile_cache, port, wait=False):
        expect(state).to_contain_text("warming up", timeout=60_000)
        expect(state).to_have_text("", timeout=60_000)
        predict(page)
        page.wait_for_selector("#predict .answer svg")
    page.close()


def test_the_page_names_no_other_host() -> None:
    for file in PAGE.iterdir():
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")  # a name, not an address
        assert "http://" not in text, file.name
        assert "https://" not in text, file.name
