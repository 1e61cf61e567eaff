"""One result: which row it becomes, or which reason speaks against it."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from stores.measurements.atlas_result import REASONS, Row, make_parser

PING: dict[str, Any] = {
    "af": 4,
    "avg": 20.0,
    "dst_addr": "8.8.8.8",
    "dst_name": "dns.example",
    "dup": 0,
    "from": "9.9.9.9",
    "fw": 5020,
    "lts": 12,
    "max": 30.0,
    "min": 10.0,
    "msm_id": 1001,
    "msm_name": "Ping",
    "prb_id": 42,
    "proto": "ICMP",
    "rcvd": 3,
    "result": [{"rtt": 10.0}, {"rtt": 32.0, "ttl": 50}, {"rtt": 18.0, "srcaddr": "10.0.0.2"}],
    "sent": 3,
    "size": 64,
    "src_addr": "192.168.1.2",
    "step": None,
    "timestamp": 1_600_000_000,
    "type": "ping",
}
DNS6 = "2001:4860:4860::8888"
QUAD6 = "2620:fe::fe"


def parse(changes: dict[str, Any] | None = None, drop: tuple[str, ...] = (), **options: Any) -> Any:
    record = {key: value for key, value in (PING | (changes or {})).items() if key not in drop}
    return make_parser(**options)(json.dumps(record).encode())


def row(changes: dict[str, Any] | None = None, drop: tuple[str, ...] = (), **options: Any) -> Row:
    outcome = parse(changes, drop, **options)
    assert isinstance(outcome, tuple), outcome
    return outcome


def test_a_usual_ping_becomes_a_row() -> None:
    assert row() == (1001, 1_600_000_000, "9.9.9.9", "8.8.8.8", 4, 20.0, 64, 0, 42)


@pytest.mark.parametrize(("statistic", "rtt"), [("mean", 20.0), ("min", 10.0), ("median", 18.0)])
def test_the_statistic_is_taken_over_the_packets(statistic: str, rtt: float) -> None:
    assert row(statistic=statistic)[5] == rtt
    assert row({"avg": 999.0}, statistic=statistic)[5] == rtt


def test_the_median_of_an_even_count_lies_halfway() -> None:
    assert row({"result": [{"rtt": 4}, {"rtt": 1}, {"x": "*"}]}, statistic="median")[5] == 2.5


def test_late_duplicates_do_not_count() -> None:
    packets = [{"dup": 1, "rtt": 900.0}, {"rtt": 12.0}, {"dup": 1, "rtt": 901.0, "ttl": 9}]
    changes = {"result": packets, "sent": 3, "rcvd": 1, "dup": 2}
    for statistic in ("mean", "min", "median"):
        assert row(changes, statistic=statistic)[5] == 12.0
    assert row(changes)[7] == 2
    assert row(changes, drop=("sent", "rcvd"))[7] == 0


def test_only_late_duplicates_are_a_failure() -> None:
    late = {"result": [{"x": "*"}, {"dup": 1, "rtt": 1635.4}], "avg": -1, "rcvd": 0, "sent": 1}
    assert row(late)[5:8] == (-1.0, 64, 1)


@pytest.mark.parametrize(
    ("packets", "lost"),
    [
        ([{"x": "*"}, {"x": "*"}, {"x": "*"}], 3),
        ([{"error": "connect failed: Network is unreachable"}], 1),
        ([], 0),
    ],
)
def test_no_answer_is_a_failure_never_an_rtt(packets: list[Any], lost: int) -> None:
    changes = {"result": packets, "avg": -1, "min": -1, "max": -1}
    assert row(changes | {"rcvd": 0, "sent": 3})[5:8] == (-1.0, 64, 3)
    assert row(changes, drop=("rcvd", "sent"))[5:8] == (-1.0, 64, lost)


def test_lost_and_answered_packets_mix() -> None:
    packets = [{"x": "*"}, {"rtt": 7.0}, {"error": "sendto failed: Permission denied"}]
    assert row({"result": packets, "rcvd": 1})[5:8] == (7.0, 64, 2)
    assert row({"result": packets}, drop=("sent", "rcvd"))[7] == 2


def test_more_received_than_sent_is_not_a_negative_count() -> None:
    assert row({"sent": 0, "rcvd": 3})[7] == 0


@pytest.mark.parametrize("rtt", [0, 0.0, "12.5", 16_500.25])
def test_unusual_rtts_are_accepted(rtt: Any) -> None:
    assert row({"result": [{"rtt": rtt}]})[5] == float(rtt)


@pytest.mark.parametrize("rtt", [-3.0, -1, "fast", True, [1], 10**400])
def test_what_is_not_an_rtt_is_rejected(rtt: Any) -> None:
    assert parse({"result": [{"rtt": 5.0}, {"rtt": rtt}]}) in ("bad_rtt", "bad_json")


@pytest.mark.parametrize(
    ("source", "allow_private", "reported", "own", "expected"),
    [
        ("from", False, "9.9.9.9", "1.1.1.1", "9.9.9.9"),
        ("src_addr", False, "9.9.9.9", "1.1.1.1", "1.1.1.1"),
        ("from", False, "", "1.1.1.1", "1.1.1.1"),
        ("from", False, "10.0.0.1", "1.1.1.1", "1.1.1.1"),
        ("from", False, "100.64.3.4", "192.168.1.2", "no_public_source"),
        ("from", False, None, "", "no_public_source"),
        ("from", False, "192.0.2.7", "169.254.1.1", "no_public_source"),
        ("src_addr", False, "9.9.9.9", "192.168.1.2", "9.9.9.9"),
        ("src_addr", True, "9.9.9.9", "192.168.1.2", "192.168.1.2"),
        ("from", True, "10.0.0.1", "1.1.1.1", "10.0.0.1"),
        ("from", True, "nonsense", "192.168.1.2", "192.168.1.2"),
        ("from", True, "nonsense", "", "no_public_source"),
        ("from", False, QUAD6, "1.1.1.1", "1.1.1.1"),
        ("from", False, QUAD6, "192.168.1.2", "family_mismatch"),
    ],
)
def test_the_source_is_the_first_usable_address(
    source: str, allow_private: bool, reported: Any, own: Any, expected: str
) -> None:
    outcome = parse({"from": reported, "src_addr": own}, source=source, allow_private=allow_private)
    assert (outcome if isinstance(outcome, str) else outcome[2]) == expected


def test_unique_local_and_mapped_addresses_are_not_global() -> None:
    for address in ("fd80::1", "fe80::1", "::ffff:8.8.8.8", "2001:db8::1", "ff02::1", "::"):
        changes = {"af": 6, "dst_addr": DNS6, "from": address, "src_addr": ""}
        assert parse(changes) == "no_public_source", address
        assert row(changes, allow_private=True)[4] == 6
    assert parse({"af": 6, "dst_addr": DNS6, "from": "fe80::1%eth0"}) == "no_public_source"


def test_addresses_are_written_in_canonical_form() -> None:
    changes = {"af": 6, "dst_addr": "2001:4860:4860:0:0:0:0:8888", "from": "2620:FE:0::FE"}
    assert row(changes)[2:5] == (QUAD6, DNS6, 6)


@pytest.mark.parametrize("where", ["addr", "dst_name", "name"])
def test_an_old_name_of_the_destination_is_accepted(where: str) -> None:
    changes = {"dst_name": "dns.example", where: "8.8.4.4"}
    assert row(changes, drop=("dst_addr", "af"))[3:5] == ("8.8.4.4", 4)


def test_a_private_destination_is_accepted() -> None:
    assert row({"dst_addr": "10.0.0.1"})[3] == "10.0.0.1"


def test_failed_dns_has_no_destination() -> None:
    failed = {"result": [{"error": "name resolution failed"}], "size": 0, "src_addr": ""}
    assert parse(failed, drop=("dst_addr", "af")) == "no_destination"


@pytest.mark.parametrize("af", [6, "6", 5, "four"])
def test_a_family_that_contradicts_the_addresses_is_rejected(af: Any) -> None:
    assert parse({"af": af}) == "family_mismatch"
    assert row({"af": "4"})[4] == 4


def test_numbers_may_be_strings() -> None:
    digits = {
        "msm_id": "1001", "prb_id": "42", "timestamp": "1600000000", "sent": "3", "rcvd": "2",
        "size": "64", "af": "4",
    }  # fmt: skip
    assert row(digits) == (1001, 1_600_000_000, "9.9.9.9", "8.8.8.8", 4, 20.0, 64, 1, 42)


def test_firmware_without_packets_is_read_from_its_summary() -> None:
    old = {"avg": "58.042", "min": "57.876", "src_addr": "9.9.9.10", "fw": 0}
    drop = ("result", "from", "af", "size", "dst_name")
    assert row(old, drop)[2:8] == ("9.9.9.10", "8.8.8.8", 4, 58.042, 0, 0)
    assert row(old, drop, statistic="min")[5] == 57.876
    assert row(old, drop, statistic="median")[5] == 58.042
    assert row(old | {"rcvd": 0, "avg": 5.0}, drop)[5] == -1.0
    assert row(old | {"avg": -1}, drop)[5] == -1.0
    assert parse(old, (*drop, "avg")) == "no_rtt"
    assert parse(old | {"avg": -7}, drop) == "bad_rtt"


def test_firmware_4400_calls_the_source_srcaddr() -> None:
    assert row({"srcaddr": "9.9.9.11"}, drop=("src_addr", "from"))[2] == "9.9.9.11"


def test_all_but_four_keys_and_the_addresses_are_optional() -> None:
    needed = ("type", "msm_id", "prb_id", "timestamp", "from", "dst_addr", "result")
    assert row(drop=tuple(PING.keys() - set(needed)))[5:8] == (20.0, 0, 0)


@pytest.mark.parametrize("key", ["type", "msm_id", "prb_id", "timestamp"])
def test_a_missing_key_is_named(key: str) -> None:
    assert parse(drop=(key,)) == f"missing_{key}"
    assert parse({key: None}) == f"missing_{key}"


@pytest.mark.parametrize("value", [-1, 4_102_444_800, 1_600_000_000_000, "soon", 1.5, True, {}, []])
def test_a_timestamp_out_of_range_is_rejected(value: Any) -> None:
    assert parse({"timestamp": value}) == "bad_timestamp"


@pytest.mark.parametrize("value", [-1, "x", 1 << 63, 10**30, 0.5, True, {}])
def test_an_id_that_is_not_an_integer_is_rejected(value: Any) -> None:
    assert parse({"msm_id": value}) == "missing_msm_id"
    assert parse({"prb_id": value}) == "missing_prb_id"


@pytest.mark.parametrize("result", [[{"hop": 1, "result": []}], {"abuf": "AA"}, "text", 3, None])
def test_other_types_are_told_apart(result: Any) -> None:
    assert parse({"type": "traceroute", "result": result}) == "other_type"
    assert parse({"type": 7, "result": result}) == "other_type"


@pytest.mark.parametrize("result", [{"rtt": 5}, "text", 3, [5], [["rtt"]]])
def test_a_ping_without_a_list_of_packets_is_rejected(result: Any) -> None:
    assert parse({"result": result}) == "bad_result"


@pytest.mark.parametrize(
    "text", [b'{"prb_id": }', b'{"prb_id": 1', b'{"rtt": NaN}', b'{"a": "\xff"}', b"[]", b""]
)
def test_text_that_is_not_an_object_is_bad_json(text: bytes) -> None:
    assert make_parser()(text) in ("bad_json", "missing_type")
    assert make_parser()(text) in REASONS


def test_rows_are_finite_and_reasons_are_listed() -> None:
    odd: list[Any] = [None, -1, 0, 1.5, "", "x", "4", [], {}, [{}], [{"rtt": None}], True, 1e300]
    for key in PING:
        for value in odd:
            outcome = parse({key: value})
            if isinstance(outcome, str):
                assert outcome in REASONS
            else:
                assert math.isfinite(outcome[5])
                assert outcome[5] == -1.0 or outcome[5] >= 0
                assert outcome[7] >= 0
                assert outcome[6] >= 0


@pytest.mark.parametrize(
    "text", ["1_0", "1_0.5", "\u0661\u0662", "0x10", "nan", "inf", "1e", ".", "", "1 0"]
)
def test_an_rtt_that_only_python_would_read_is_bad(text: str) -> None:
    assert parse({"result": [{"rtt": text}]}) == "bad_rtt"
    summary = {"avg": text, "rcvd": 1}
    assert parse(summary, ("result",)) == "bad_rtt"


@pytest.mark.parametrize(
    ("text", "rtt"),
    [("12", 12), (" 1.5 ", 1.5), ("1e2", 100), ("+0.5", 0.5), (".5", 0.5), ("3.", 3)],
)
def test_an_rtt_may_be_any_number_in_a_string(text: str, rtt: float) -> None:
    assert row({"result": [{"rtt": text}]})[5] == rtt


def test_an_integer_in_a_string_is_not_truncated() -> None:
    assert row({"msm_id": "0" * 30 + "17"})[0] == 17
    assert row({"prb_id": "0" * 30})[8] == 0
    assert row({"msm_id": str(2**63 - 1)})[0] == 2**63 - 1
    for digits in (str(2**63), "1" + "0" * 40, "9" * 5000):
        assert parse({"msm_id": digits}) == "missing_msm_id"
