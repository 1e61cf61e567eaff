"""A reader of the page that `evaluate` writes."""

from __future__ import annotations

from html.parser import HTMLParser


class Page(HTMLParser):
    """Notes what a page loads, and that its elements nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        wanted = [v for k, v in attrs if k in ("src", "href", "xlink:href") and v]
        self.loads += [value for value in wanted if not value.startswith("#")]
        if tag not in ("meta", "br", "link", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in ("meta", "br", "link", "img"):
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open[-1] == "p" and tag != "p":
            self.open.pop()
        assert self.open.pop() == tag
