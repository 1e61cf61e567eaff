"""Parquet with encrypted columns, as PyArrow writes it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe


class Keys(pe.KmsClient):  # type: ignore[misc]
    """Keeps keys as they are: nobody is to decrypt anything."""

    def wrap_key(self, key: bytes, _: str) -> bytes:
        return key.hex().encode()


def write_encrypted(table: pa.Table, path: Path, column: str, plaintext_footer: bool) -> Path:
    """Write a table with one encrypted column. Most readers can open it if its footer is plain."""
    settings = pe.EncryptionConfiguration(
        footer_key="k", column_keys={"k": [column]}, plaintext_footer=plaintext_footer
    )
    factory = pe.CryptoFactory(lambda _: Keys())
    properties = factory.file_encryption_properties(pe.KmsConnectionConfig(), settings)
    with pq.ParquetWriter(path, table.schema, encryption_properties=properties) as writer:
        writer.write_table(table, row_group_size=max(len(table) // 3, 1))
    return path
