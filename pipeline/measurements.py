"""The canonical measurement table: its columns, and what else a row may contain.

    msm_id               int64                  RIPE Atlas measurement id
    event_time           timestamp[us, UTC]     when the ping was sent
    src_addr, dst_addr   string                 IPv4 or IPv6, both of one family
    ip_version           int64                  4 or 6
    rtt                  double                 ms; negative: the probe got no answer
    size                 int64                  payload bytes
    packet_error_count   int64                  packets sent - packets received
    prb_id               int64, optional        RIPE Atlas probe id

`ingest` adds `source_file` and `source_row` (line or record number, from 1), so that every later
reject and ledger entry can name the place in the user's own file. `simulate --out` marks its file with the
key `pinglm.simulated` in the metadata of Parquet, so that a model trained on it can say so.
"""

from __future__ import annotations

import pyarrow as pa

ORIGIN = (
    pa.field("source_file", pa.dictionary(pa.int32(), pa.string())),
    pa.field("source_row", pa.int64()),
)

SCHEMA = pa.schema(
    [
        pa.field("msm_id", pa.int64()),
        pa.field("event_time", pa.timestamp("us", tz="UTC")),
        pa.field("src_addr", pa.string()),
        pa.field("dst_addr", pa.string()),
        pa.field("ip_version", pa.int64()),
        pa.field("rtt", pa.float64()),
        pa.field("size", pa.int64()),
        pa.field("packet_error_count", pa.int64()),
    ]
)
"""The required columns, in order."""

PRB_ID = pa.field("prb_id", pa.int64())
INGESTED_SCHEMA = pa.schema([*SCHEMA, PRB_ID, *ORIGIN])
"""What `ingest` writes."""

SIMULATED = b"pinglm.simulated"
"""A key in the metadata of a Parquet file whose rows `simulate` made up."""

REJECTED_SCHEMA = pa.schema(
    [
        pa.field("file", pa.string()),  # as the user named it, or relative to the folder named
        pa.field("row", pa.int64()),  # line of NDJSON, record of other JSON, row of Parquet; from 1
        pa.field("reason", pa.string()),  # in snake_case, the same as in the ledger
        pa.field("record", pa.string()),  # the row as text; null if it was merely skipped
    ]
)
"""Every file under DIR/rejected."""
