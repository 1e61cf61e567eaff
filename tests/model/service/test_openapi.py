"""The OpenAPI description against the service: what it allows is answered as it says, all else refused."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator, FormatChecker

KINDS = ("predict_rtt", "sample_ips", "complete_ip")
OTHERS = (
    *(
        None,
        True,
        "",
        "1",
        "x" * 64,
        "x" * 65,
        "é" * 64,
        "\ud800",
        "\0",
        "2001:db9::1",
        "fe80::1%e",
    ),
    *([], {}, [[]], [{}], {"src": "193.0.2.1"}, json.loads("[" * 200 + "]" * 200)),
)
"""What may stand anywhere in a body."""
NUMBERS = (0, -0.0, 1, -1, 1.5, 5.0, 5e-324, 2**31, 2**53 + 1, 2**64, 10**400, -(10**400))
NUMBERS += (1e308, -1e308, math.inf)
Place = tuple[str | int, ...]


class Description:
    """/openapi.json, and validators of its parts."""

    def __init__(self, url: str):
        self.document = httpx.get(f"{url}/openapi.json").json()

    def body(self, path: str) -> Draft202012Validator:
        return self._validator(self.document["paths"][path]["post"]["requestBody"])

    def answer(self, path: str, status: int) -> Draft202012Validator:
        return self._validator(self.document["paths"][path]["post"]["responses"][str(status)])

    def example(self, path: str) -> Any:
        name = self.body(path).schema["$ref"].split("/")[-1]
        return self.document["components"]["schemas"][name]["examples"][0]

    def bounds(self) -> set[float]:
        """The bounds of all numbers."""
        names = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}

        def found(part: Any) -> Iterator[float]:
            if isinstance(part, dict):
                yield from (part[name] for name in names & part.keys())
            for inner in part.values() if isinstance(part, dict) else part:
                if isinstance(inner, dict | list):
                    yield from found(inner)

        return set(found(self.document["components"]["schemas"]))

    def _validator(self, part: dict[str, Any]) -> Draft202012Validator:
        schema = part["content"]["application/json"]["schema"]
        whole = {**schema, "components": self.document["components"]}
        return Draft202012Validator(whole, format_checker=FormatChecker())


@pytest.fixture(scope="module")
def description(url: str) -> Description:
    return Description(url)


def places(value: Any, at: Place = ()) -> Iterator[Place]:
    """The value itself, and every place in it."""
    yield at
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(part, (*at, key))


def at(body: Any, place: Place) -> Any:
    for key in place:
        body = body[key]
    return body


def changed(body: Any, place: Place, value: Any) -> Any:
    """A copy with another value in that place."""
    if not place:
        return value
    body = copy.deepcopy(body)
    at(body, place[:-1])[place[-1]] = value
    return body


def shortened(body: Any) -> Iterator[Any]:
    """Copies without one field or item each, and with one too many."""
    for place in places(body):
        if place:
            copied = copy.deepcopy(body)
            del at(copied, place[:-1])[place[-1]]
            yield copied
        if isinstance(at(body, place), dict):
            yield changed(body, (*place, "more"), 1)


def bodies(example: Any, numbers: list[float]) -> Iterator[Any]:
    yield example
    yield from shortened(example)
    for place in places(example):
        values = [*OTHERS, *NUMBERS[:5]]
        if isinstance(at(example, place), int | float):
            values = [*OTHERS, *numbers]
        yield from (changed(example, place, value) for value in values)


def check(client: httpx.Client, description: Description, path: str, body: Any) -> int:
    """Send it, and check the answer against the description."""
    content = json.dumps(body)  # with Infinity, which httpx would not send
    response = client.post(path, content=content, headers={"content-type": "application/json"})
    allowed = description.body(path).is_valid(body)
    expected = (200,) if allowed else (400, 422)
    if allowed and path.startswith("/complete_ip"):
        expected = (200, 422)  # what a prefix means is not described
    assert response.status_code in expected, (content[:500], response.text[:500])
    description.answer(path, response.status_code).validate(response.json())
    return response.status_code


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_description_allows_is_answered_and_all_else_refused(
    url: str, description: Description, kind: str
) -> None:
    bounds = description.bounds()
    around = [(b - 1, math.nextafter(b, -math.inf), b, math.nextafter(b, math.inf)) for b in bounds]
    numbers = [*NUMBERS, *(value for values in around for value in values)]
    example = description.example(f"/{kind}")
    if kind != KINDS[0]:  # one context is enough
        example = {**example, "context": []}
    several = {"queries": [{**example, "context": []}]}
    asked = [(f"/{kind}", body) for body in bodies(example, numbers)]
    asked += [(f"/{kind}/batch", body) for body in bodies(several, list(NUMBERS))]
    with httpx.Client(base_url=url, timeout=60) as client:
        seen = [check(client, description, path, body) for path, body in asked]
    assert seen.count(200) > 10
    assert seen.count(422) > 200
