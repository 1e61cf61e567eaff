"""Swagger UI at `/docs`, in a real browser that can reach nothing else."""

from __future__ import annotations

import httpx
from playwright.sync_api import Page, expect

from tests.model.service.test_page import browser as browser
from tests.model.service.test_page import page as page


def test_every_route_is_shown_and_can_be_tried(page: Page, url: str) -> None:
    """The fixture fails the test if anything is asked of another host, or is against the policy."""
    page.goto(f"{url}/docs")
    document = httpx.get(f"{url}/openapi.json").json()
    routes = sum(len(methods) for methods in document["paths"].values())
    expect(page.locator(".opblock")).to_have_count(routes)
    asked = page.locator("[id$=predict_rtt_post]").first
    asked.locator(".opblock-summary-control").click()
    asked.locator(".try-out__btn").click()
    asked.locator(".execute").click()
    expect(
        asked.locator(".live-responses-table td.response-col_status:not(.col_header)")
    ).to_contain_text("200")
    expect(asked.locator(".live-responses-table")).to_contain_text("median_ms")


def test_its_policy_only_adds_the_icons_in_the_style_sheet(url: str) -> None:
    policy = "default-src 'self'; frame-ancestors 'none'"
    for path, expected in (("/", policy), ("/docs", f"{policy}; img-src 'self' data:")):
        assert httpx.get(f"{url}{path}").headers.get_list("content-security-policy") == [expected]
