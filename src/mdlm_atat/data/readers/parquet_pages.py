"""The sizes of the pages of a Parquet file, from their headers. Arrow unpacks a page as a whole, and does not say
before how large that is."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, NamedTuple

HEADER_BYTES = 1 << 14
LONGEST_HEADER = 1 << 24  # as in Arrow
_TYPE, _UNPACKED, _PACKED, _OF_DATA, _OF_DICTIONARY, _OF_DATA_2 = 1, 2, 3, 5, 7, 8  # fields of a header
_DICTIONARY = 2  # a type of page


class Page(NamedTuple):
    """A page of a column."""

    is_dictionary: bool
    packed: int
    """Bytes in the file."""
    unpacked: int
    """Bytes that Arrow holds."""
    num_values: int
    """Those of lists one by one, nulls among them."""


def pages(file: io.BufferedIOBase, start: int, num_bytes: int) -> Iterator[Page]:
    """Yield the pages of a chunk of a column, which is so many bytes long from `start` on. Raises ValueError where
    there are none."""
    end = start + num_bytes
    while start < end:
        header, length = _header(file, start)
        kind = header[_TYPE]
        about = header.get(_OF_DICTIONARY) or header.get(_OF_DATA) or header.get(_OF_DATA_2) or {}
        page = Page(kind == _DICTIONARY, header[_PACKED], header[_UNPACKED], about.get(1, 0))
        if page.packed < 0 or page.unpacked < 0:
            raise ValueError("a page of less than no bytes")
        yield page
        start += length + page.packed


def _header(file: io.BufferedIOBase, start: int) -> tuple[dict[int, Any], int]:
    """The header of the page that begins at `start`, by the numbers of its fields, and its length in bytes."""
    num_bytes = HEADER_BYTES
    while True:
        file.seek(start)
        compact = _Compact(file.read(num_bytes))
        try:
            header = compact.struct()
        except IndexError as error:
            if len(compact.data) < num_bytes or num_bytes >= LONGEST_HEADER:
                raise ValueError("the header of a page does not end") from error
            num_bytes *= 8
            continue
        if not all(isinstance(header.get(field), int) for field in (_TYPE, _UNPACKED, _PACKED)):
            raise ValueError("the header of a page is none")
        return header, compact.at


class _Compact:
    """Reads a struct in Thrift's compact protocol, in which these headers are written."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """The fields by their numbers. Raises IndexError where the data ends before it does, ValueError where they are
        something else."""
        if depth > 8:
            raise ValueError("the header of a page is none")
        fields: dict[int, Any] = {}
        field = 0
        while byte := self._byte():
            field = field + (byte >> 4) if byte >> 4 else self._number()
            fields[field] = self._value(byte & 15, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        match kind:
            case 1 | 2:  # true, false
                return kind == 1
            case 3:
                return self._byte()
            case 4 | 5 | 6:  # of 16, 32 and 64 bits
                return self._number()
            case 7:
                return self._skip(8)
            case 8:
                return self._skip(self._varint())
            case 12:
                return self.struct(depth + 1)
            case _:  # lists, sets and maps: no header has any
                raise ValueError("the header of a page is none")

    def _byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def _varint(self) -> int:
        number = shift = 0
        while (byte := self._byte()) & 128:
            number |= (byte & 127) << shift
            shift += 7
            if shift > 63:
                raise ValueError("the header of a page is none")
        return number | byte << shift

    def _number(self) -> int:
        number = self._varint()
        return number >> 1 if not number & 1 else -(number >> 1) - 1

    def _skip(self, num_bytes: int) -> None:
        self.at += num_bytes
        if self.at > len(self.data):
            raise IndexError
