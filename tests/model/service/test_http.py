from __future__ import annotations

import asyncio
import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from model.inference.ping_model import PingModel
from stores.codec import Measurement
from tests.model.service.conftest import DST, SRC, free_port, serving, until_ready

EARLIER = [
    {"src": SRC, "dst": "198.51.101.8", "rtt_ms": 21.7, "time": 1751000000},
    {"src": SRC, "dst": "198.51.101.9", "rtt_ms": None, "time": 1751000060},
]
PLAIN = {"src": SRC, "dst": DST}


@pytest.fixture(scope="module")
def model(exported: Path) -> PingModel:
    return PingModel.load(exported)


def measurements() -> list[Measurement]:
    return [Measurement(r["src"], r["dst"], r["rtt_ms"], r["time"]) for r in EARLIER]  # type: ignore[arg-type]


def test_answers_are_those_of_the_model(url: str, model: PingModel) -> None:
    asked = {**PLAIN, "time": 1751000120, "context": EARLIER}
    answer = httpx.post(f"{url}/predict_rtt", json=asked).json()
    expected = model.predict_rtt(SRC, DST, 1751000120, measurements())
    assert answer["context_used"] == 2
    assert answer["median_ms"] == pytest.approx(expected.median_ms, rel=1e-3)
    assert answer["p_failed"] == pytest.approx(expected.p_failed, rel=1e-3)
    histogram = answer["histogram"]
    assert len(histogram["edges_ms"]) == len(histogram["probabilities"]) + 1 == 61
    assert sum(histogram["probabilities"]) == pytest.approx(0.99, abs=0.01)
    assert all(
        a < b for a, b in zip(histogram["edges_ms"], histogram["edges_ms"][1:], strict=False)
    )

    answer = httpx.post(f"{url}/complete_ip", json={"prefix": "198.51", "k": 3}).json()
    assert [c["address"] for c in answer["completions"]] == [
        str(c.address) for c in model.complete_ip("198.51", 3)
    ]
    asked = {"src": SRC, "target_rtt_ms": 20, "n": 4, "seed": 5}
    answer = httpx.post(f"{url}/sample_ips", json=asked).json()
    expected_samples = model.sample_ips(SRC, 20, 4, seed=5)
    assert [s["address"] for s in answer["samples"]] == [str(s.address) for s in expected_samples]


def test_every_answer_says_what_it_rests_on(url: str) -> None:
    simulated = ["from a model of a simulated Internet"]
    far = [*simulated, "destination 8.8.8.8: the training data have no destination in 8.8.0.0/16"]
    known = httpx.post(f"{url}/predict_rtt", json=PLAIN).json()
    assert (known["data"], known["unmet_prefixes"], known["notes"]) == ("simulated", {}, simulated)
    queries = {"queries": [PLAIN, {**PLAIN, "dst": "8.8.8.8"}]}
    _, other = httpx.post(f"{url}/predict_rtt/batch", json=queries).json()["answers"]
    assert (other["unmet_prefixes"], other["notes"]) == ({"dst": "8.8.0.0/16"}, far)
    samples = httpx.post(f"{url}/sample_ips", json={"src": SRC, "target_rtt_ms": 20}).json()
    assert samples["notes"] == simulated
    assert samples["convincing"] == (samples["samples"][0]["p_within"] >= 0.1)
    completions = httpx.post(f"{url}/complete_ip", json={"prefix": "8.8"}).json()
    assert completions["unmet_prefixes"] == {"prefix": "8.8.0.0/16"}
    about = httpx.get(f"{url}/model").json()["provenance"]
    assert (about["data"], about["rows"], about["sources"]) == ("simulated", 1, 1)


def test_private_addresses_are_refused_unless_allowed(url: str) -> None:
    asked = {"src": "192.168.0.7", "dst": DST}
    refused = httpx.post(f"{url}/predict_rtt", json=asked)
    assert refused.status_code == 422
    (problem,) = refused.json()["detail"]
    assert problem["loc"] == ["body", "src"]
    assert "private or special" in problem["msg"]
    allowed = httpx.post(f"{url}/predict_rtt", json={**asked, "allow_private": True})
    assert allowed.status_code == 200
    too_far = httpx.post(f"{url}/sample_ips", json={"src": SRC, "target_rtt_ms": 1e9})
    assert too_far.status_code == 422


def test_a_batch_has_the_answers_of_its_queries_in_order(url: str) -> None:
    queries = [{"src": SRC, "dst": f"198.51.101.{at}"} for at in range(20)]
    answers = httpx.post(f"{url}/predict_rtt/batch", json={"queries": queries}).json()["answers"]
    assert [answer["dst"] for answer in answers] == [query["dst"] for query in queries]
    single = httpx.post(f"{url}/predict_rtt", json=queries[7]).json()
    assert answers[7]["median_ms"] == pytest.approx(single["median_ms"], rel=1e-3)


def test_none_of_200_requests_at_once_gets_the_answer_to_another(
    url: str, model: PingModel
) -> None:
    """Three times what may wait: some are refused with 503, the others are right, then all is well."""

    async def ask_all() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(limits=limits, timeout=60) as client:
            return await asyncio.gather(
                *(
                    client.post(f"{url}/predict_rtt", json={"src": SRC, "dst": f"198.51.101.{at}"})
                    for at in range(200)
                )
            )

    responses = asyncio.run(ask_all())
    assert {response.status_code for response in responses} == {200, 503}
    right = {at: r.json() for at, r in enumerate(responses) if r.status_code == 200}
    assert len(right) >= 20
    for at, answer in right.items():
        assert answer["dst"] == f"198.51.101.{at}"
        expected = model.predict_rtt(SRC, answer["dst"]).mean_ms
        assert answer["mean_ms"] == pytest.approx(expected, rel=1e-3)
    refused = next(response for response in responses if response.status_code == 503)
    assert refused.headers["retry-after"] == "1"
    assert "busy" in refused.json()["detail"][0]["msg"]
    assert httpx.post(f"{url}/predict_rtt", json=PLAIN).status_code == 200


BAD: list[tuple[str, Any, list[Any]]] = [
    ("predict_rtt", {"src": "1.2.3.400", "dst": DST}, ["src"]),
    ("predict_rtt", {"src": SRC}, ["dst"]),
    ("predict_rtt", {"src": SRC, "dst": "2001:db9::1"}, ["dst"]),
    ("predict_rtt", {**PLAIN, "time": -1}, ["time"]),
    ("predict_rtt", {**PLAIN, "time": 1e18}, ["time"]),
    ("predict_rtt", {**PLAIN, "time": True}, ["time"]),
    ("predict_rtt", {**PLAIN, "time": math.nan}, ["time"]),
    ("predict_rtt", {**PLAIN, "more": 1}, ["more"]),
    ("predict_rtt", {**PLAIN, "context": [EARLIER[0], {**EARLIER[0], "rtt_ms": -1}]}, ["context", 1, "rtt_ms"]),
    ("predict_rtt", {**PLAIN, "context": [{**EARLIER[0], "rtt_ms": math.inf}]}, ["context", 0, "rtt_ms"]),
    ("predict_rtt", {**PLAIN, "context": [{**EARLIER[0], "dst": "::1"}]}, ["context", 0, "dst"]),
    ("predict_rtt", {**PLAIN, "context": [EARLIER[0]] * 1001}, ["context"]),
    ("sample_ips", {"src": SRC, "target_rtt_ms": 0}, ["target_rtt_ms"]),
    ("sample_ips", {"src": SRC, "target_rtt_ms": 20, "n": 257}, ["n"]),
    ("sample_ips", {"src": SRC, "target_rtt_ms": 20, "seed": 2**40}, ["seed"]),
    ("complete_ip", {"prefix": "193.0.2.1/25"}, ["prefix"]),
    ("complete_ip", {"prefix": "193.0", "k": 0}, ["k"]),
    ("complete_ip", {"prefix": "193.0", "field": "both"}, ["field"]),
    ("predict_rtt/batch", {"queries": [PLAIN, {**PLAIN, "src": "x"}]}, ["queries", 1, "src"]),
    ("predict_rtt/batch", {"queries": [PLAIN] * 65}, ["queries"]),
    ("predict_rtt/batch", {"queries": []}, ["queries"]),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "where"), BAD)
def test_what_is_wrong_is_named_by_its_field(
    url: str, path: str, body: Any, where: list[Any]
) -> None:
    response = httpx.post(
        f"{url}/{path}",
        content=json.dumps(body),  # with NaN and Infinity, which httpx would not send
        headers={"content-type": "application/json"},
    )
    assert response.status_code == 422
    assert ["body", *where] in [item["loc"] for item in response.json()["detail"]]
    assert all(item["msg"] for item in response.json()["detail"])


@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        ("POST", "/predict_rtt", b'{"src": ', 422),
        ("POST", "/predict_rtt", b"\xff\xfe", 422),
        ("POST", "/predict_rtt", b"[" * 100_000, 400),
        ("POST", "/predict_rtt", b"", 422),
        ("POST", "/predict_rtt", b" " * (1 << 20) + b"{}", 413),
        ("GET", "/predict_rtt", b"", 405),
        ("GET", "/nothing", b"", 404),
        ("GET", "/page/../ready.py", b"", 404),
        ("GET", "/page/" + "a" * 5000, b"", 404),
        ("GET", "//predict_rtt", b"", 404),
    ],
)
def test_whatever_comes_in_is_answered_in_one_shape_without_a_trace(
    url: str, method: str, path: str, content: bytes, status: int
) -> None:
    response = httpx.request(
        method, url + path, content=content, headers={"content-type": "application/json"}
    )
    assert response.status_code == status
    (item, *_) = response.json()["detail"]
    assert set(item) == {"loc", "msg", "type"}
    assert "Traceback" not in response.text
    assert len(response.text) < 1000
    assert response.headers["content-security-policy"].startswith("default-src 'self'")


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (None, "Content-Type is missing"),
        ("", "Content-Type is missing"),
        (
            "application/x-www-form-urlencoded",
            "Content-Type is 'application/x-www-form-urlencoded'",
        ),
        ("text/plain;application/json", "Content-Type is 'text/plain;application/json'"),
    ],
)
def test_a_body_that_is_not_declared_as_json_is_refused_in_words(
    url: str, given: str | None, found: str
) -> None:
    """It was once read as text, and "should be a valid dictionary" was all that a user heard."""
    headers = {} if given is None else {"Content-Type": given}
    refused = httpx.post(f"{url}/predict_rtt", content=json.dumps(PLAIN), headers=headers)
    assert refused.status_code == 415
    (item,) = refused.json()["detail"]
    assert item["loc"] == ["header", "content-type"]
    assert item["msg"] == f"POST /predict_rtt: {found}: expected application/json"


@pytest.mark.parametrize("given", ["application/JSON; charset=utf-8", "application/x.y+json"])
def test_json_goes_by_many_names(url: str, given: str) -> None:
    asked = httpx.post(
        f"{url}/predict_rtt", content=json.dumps(PLAIN), headers={"Content-Type": given}
    )
    assert asked.status_code == 200


def test_a_body_without_a_length_is_cut_off_at_the_limit(url: str) -> None:
    response = httpx.post(f"{url}/predict_rtt", content=(b" " * 65536 for _ in range(40)))
    assert response.status_code == 413


def test_every_example_of_the_description_works(url: str) -> None:
    description = httpx.get(f"{url}/openapi.json").json()
    schemas = description["components"]["schemas"]
    asked = 0
    for path, methods in description["paths"].items():
        if "post" not in methods:
            continue
        content = methods["post"]["requestBody"]["content"]
        if "application/json" not in content:  # a file of measurements
            assert path == "/context"
            continue
        schema = content["application/json"]["schema"]
        for example in schemas[schema["$ref"].split("/")[-1]]["examples"]:
            assert httpx.post(url + path, json=example, timeout=60).status_code == 200, path
            asked += 1
    assert asked == 6


def test_the_model_is_described(url: str) -> None:
    about = httpx.get(f"{url}/model").json()
    assert about["model"]["context"] == 64
    assert about["limits"]["queue"] == 64
    assert about["card"]["evaluation"] is None
    assert about["card"]["data"]["what"].startswith("pings of a simulated Internet")


def test_it_says_warming_up_then_ready_and_stops_cleanly(
    exported: Path, compile_cache: Path
) -> None:
    port = free_port()
    with serving(exported, compile_cache, port, "--json", wait=False) as (process, url):
        for _ in range(300):
            try:
                early = httpx.get(f"{url}/health")
                break
            except httpx.TransportError:
                time.sleep(0.05)
        assert early.status_code == 503
        assert early.json() == {"status": "warming up"}
        assert httpx.post(f"{url}/predict_rtt", json=PLAIN).status_code == 503
        until_ready(process, url)
        taken = subprocess.run(
            [sys.executable, "cli.py", "serve", "--model", str(exported), "--port", str(port)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert taken.returncode == 1
        assert taken.stderr.startswith(f"error: 127.0.0.1 port {port}: cannot listen there")
        assert len(taken.stderr.splitlines()) == 1
        process.send_signal(signal.SIGTERM)
        printed, errors = process.communicate(timeout=30)
        assert process.returncode == 0
        assert json.loads(printed) == {"url": url, "model": str(exported)}
        assert "Traceback" not in errors
        assert f"ready: {url}" in errors


def test_past_the_time_limit_the_service_answers_504_and_continues(
    exported: Path, compile_cache: Path
) -> None:
    with serving(exported, compile_cache, free_port(), "--timeout", "0.1") as (_, url):
        slow = {"queries": [{"src": SRC, "target_rtt_ms": 20, "n": 256}] * 64}
        response = httpx.post(f"{url}/sample_ips/batch", json=slow, timeout=60)
        assert response.status_code == 504
        assert "0.1 s" in response.json()["detail"][0]["msg"]
        for _ in range(100):
            if httpx.post(f"{url}/predict_rtt", json=PLAIN).status_code == 200:
                return
        raise AssertionError("no answer after a time-out")
