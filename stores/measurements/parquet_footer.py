"""Whether the footer of a Parquet file marks a column as encrypted.

PyArrow opens such a file where the footer itself is plain, and then ends the whole process (`std::terminate`)
as soon as it is asked about that column. So the mark is looked for here first, in Thrift's compact protocol.
"""

from __future__ import annotations

from typing import Any

ROW_GROUPS, COLUMNS, CRYPTO_METADATA = 4, 1, 8
"""Numbers of fields: in FileMetaData, RowGroup and ColumnChunk."""
_TAIL = 8  # length of the footer, and "PAR1"
_BOOLEANS, _BYTE, _DOUBLE, _BINARY, _LISTS, _MAP, _STRUCT = (1, 2), 3, 7, 8, (9, 10), 11, 12


def has_encrypted_column(source: Any) -> bool:
    """Of a binary file with `read` and `seek` that PyArrow has opened, so its footer is well-formed."""
    end = source.seek(0, 2)
    source.seek(end - _TAIL)
    length = int.from_bytes(source.read(_TAIL)[:4], "little")
    source.seek(end - _TAIL - length)
    return _Footer(source.read(length)).marked((ROW_GROUPS, COLUMNS, CRYPTO_METADATA))


class _Footer:
    """Walks through a struct and passes over all but the fields on a path."""

    def __init__(self, data: bytes):
        self._data = data
        self._at = 0

    def marked(self, path: tuple[int, ...]) -> bool:
        """Whether the struct here has the field that `path` leads to; all but the last are lists of structs."""
        number = 0
        while header := self._byte():
            kind = header & 15
            number = number + (header >> 4) if header >> 4 else self._signed()
            if number != path[0]:
                self._skip(kind)
            elif len(path) == 1:
                return True
            else:
                size, _ = self._list()
                if any(self.marked(path[1:]) for _ in range(size)):
                    return True
        return False

    def _skip(self, kind: int) -> None:
        if kind in _BOOLEANS:
            return
        if kind == _BYTE:
            self._at += 1
        elif kind == _DOUBLE:
            self._at += 8
        elif kind == _BINARY:
            size = self._number()
            self._at += size
        elif kind in _LISTS:
            size, of = self._list()
            for _ in range(size):
                self._skip_item(of)
        elif kind == _MAP:
            size = self._number()
            kinds = self._byte() if size else 0
            for _ in range(size):
                self._skip_item(kinds >> 4)
                self._skip_item(kinds & 15)
        elif kind == _STRUCT:
            while header := self._byte():
                if not header >> 4:
                    self._number()
                self._skip(header & 15)
        else:
            self._number()

    def _skip_item(self, kind: int) -> None:
        """Unlike as a field, a boolean takes a byte as an item."""
        self._skip(_BYTE if kind in _BOOLEANS else kind)

    def _list(self) -> tuple[int, int]:
        """Number and kind of the items of the list here."""
        header = self._byte()
        size = header >> 4
        return (self._number() if size == 15 else size), header & 15

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _number(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def _signed(self) -> int:
        value = self._number()
        return (value >> 1) ^ -(value & 1)
