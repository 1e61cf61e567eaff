"""RIPE Atlas results in JSON as the rows of RIPE's BigQuery table, as its exports write them."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

PACKET = pa.struct(
    [
        ("timeout", pa.bool_()),
        ("error", pa.bool_()),
        ("error_message", pa.string()),
        ("rtt", pa.float64()),
        ("reply_src_addr", pa.string()),
        ("ttl", pa.int64()),
        ("dup", pa.int64()),
    ]
)
NESTINGS = ("plain", "element", "item")


def pings_type(nesting: str) -> pa.DataType:
    """The type of `pings`: an array of structs, or as BigQuery writes one without list types."""
    if nesting == "plain":
        return pa.list_(PACKET)
    return pa.struct([("list", pa.list_(pa.struct([(nesting, PACKET)])))])


def _packet(packet: dict[str, Any]) -> dict[str, Any]:
    return {
        "timeout": packet.get("x") == "*",
        "error": "error" in packet,
        "error_message": packet.get("error"),
        "rtt": packet.get("rtt"),
        "reply_src_addr": packet.get("src_addr"),
        "ttl": packet.get("ttl"),
        "dup": packet.get("dup"),
    }


def _address(text: str | None, packed: bool) -> str | bytes | None:
    return ip_address(text).packed if packed and text else text


def bigquery_table(
    results: list[dict[str, Any]], nesting: str = "plain", packed: bool = False
) -> pa.Table:
    """The table of some results; addresses are bytes if `packed`."""
    pings: list[Any] = [[_packet(p) for p in result.get("result") or []] for result in results]
    if nesting != "plain":
        pings = [{"list": [{nesting: packet} for packet in row]} for row in pings]
    address = pa.binary() if packed else pa.string()

    def integers(name: str) -> pa.Array:
        return pa.array([result.get(name) for result in results], pa.int64())

    def addresses(name: str) -> pa.Array:
        return pa.array([_address(result.get(name), packed) for result in results], address)

    seconds = [result.get("timestamp") for result in results]
    times = [None if second is None else second * 1_000_000 + 250_000 for second in seconds]
    return pa.table(
        {
            "af": integers("af"),
            "prb_id": integers("prb_id"),
            "msm_id": integers("msm_id"),
            "group_id": integers("group_id"),
            "src_addr": addresses("src_addr"),
            "dst_addr": addresses("dst_addr"),
            "synth_addr": addresses("from"),
            "start_time": pa.array(times, pa.timestamp("us", "UTC")),
            "size": integers("size"),
            "packets_sent": integers("sent"),
            "packets_received": integers("rcvd"),
            "avg": pa.array([result.get("avg") for result in results], pa.float64()),
            "min": pa.array([result.get("min") for result in results], pa.float64()),
            "pings": pa.array(pings, pings_type(nesting)),
        }
    )


def write_bigquery(path: Path, results: list[dict[str, Any]], **shape: Any) -> Path:
    """Write the table of some results to a file."""
    pq.write_table(bigquery_table(results, **shape), path)
    return path
