"""The wire format of protocol buffers: fields of a message as spans of the file, nothing copied, nothing trusted.

Knows nothing about ONNX. Source: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator

from edgelm.errors import ModelError

Buffer = bytes | mmap.mmap | memoryview

# Bounds the Python objects made of a hostile file, whatever its size, to about 130 MB. A decoder of 100 layers traced
# node by node has about 600,000 fields; one built of fused operators has 20,000.
MAX_FIELDS = 1_000_000
MAX_STRING_BYTES = 1 << 16
_STRING_BYTES_PER_FIELD = 64  # a longer string counts as several fields

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

_VARINT_FIRST = frozenset((VARINT, BYTES))

Field = tuple[int, int, int]


def key(number: int, wire_type: int) -> int:
    """What stands before a field: its number and how it is written. A known number with another type is not known."""
    return number << 3 | wire_type


class WireReader:
    """Walks the messages of one buffer.

    Every method raises ModelError, with ``what`` and the byte, when the buffer is malformed or over a bound; ``kind``
    says in it what the buffer should have been.
    """

    def __init__(self, data: Buffer, *, what: str, kind: str = "ONNX file") -> None:
        self._data = data
        self._what = what
        self._kind = kind
        self._fields_left = MAX_FIELDS

    def fault(self, reason: str, position: int) -> ModelError:
        """The error for a buffer that cannot be read at ``position``."""
        return ModelError(f"{self._what}: not a valid {self._kind}: {reason} at byte {position}")

    def fields(self, position: int, end: int) -> Iterator[Field]:
        """The fields of the message in ``[position, end)``: (key, value, 0) of a number, (key, start, stop) else.

        A number comes as it is written, unsigned in 64 bits.
        """
        data = self._data
        while position < end:
            # Nearly all keys, lengths and numbers take one byte, and this loop is most of the time of opening.
            self._fields_left -= 1
            if self._fields_left < 0:
                raise self._too_many(position)
            field = data[position]
            if field < 128:
                position += 1
            else:
                field, position = self._varint(position, end)
            # Some parsers cut a key to 32 bits, and would take an unknown field for one that matters.
            if field < 8 or field >> 32:
                raise self.fault(f"field number {field >> 3}", position)
            wire_type = field & 7
            if wire_type in _VARINT_FIRST:
                value = data[position] if position < end else 128
                if value < 128:
                    position += 1
                else:
                    value, position = self._varint(position, end)
                if wire_type == VARINT:
                    yield field, value, 0
                    continue
                stop = position + value
            elif wire_type == FIXED32:
                stop = position + 4
            elif wire_type == FIXED64:
                stop = position + 8
            else:
                raise self.fault(f"wire type {wire_type}", position)
            if stop > end:
                raise self.fault(f"a field of {stop - position} bytes runs past the end of its message", position)
            yield field, position, stop
            position = stop

    def text(self, start: int, stop: int) -> str:
        """A string field."""
        length = stop - start
        if length > MAX_STRING_BYTES:
            raise self.fault(f"a string of {length} bytes, more than the {MAX_STRING_BYTES} allowed", start)
        if length >= _STRING_BYTES_PER_FIELD:
            self._spend(length // _STRING_BYTES_PER_FIELD, start)
        try:
            return str(self._data[start:stop], "utf-8")
        except UnicodeDecodeError:
            raise self.fault("a string that is not UTF-8", start) from None

    def varints(self, start: int, stop: int) -> Iterator[int]:
        """The numbers of a packed field."""
        while start < stop:
            self._spend(1, start)
            value, start = self._varint(start, stop)
            yield value

    def _spend(self, fields: int, position: int) -> None:
        self._fields_left -= fields
        if self._fields_left < 0:
            raise self._too_many(position)

    def _too_many(self, position: int) -> ModelError:
        return self.fault(f"more than the {MAX_FIELDS} fields allowed", position)

    def _varint(self, position: int, end: int) -> tuple[int, int]:
        value = 0
        for index, at in enumerate(range(position, min(position + 10, end))):
            byte = self._data[at]
            value |= (byte & 127) << (7 * index)
            if byte < 128:
                return value & 0xFFFF_FFFF_FFFF_FFFF, at + 1
        raise self.fault("a number cut short or longer than 10 bytes", position)


def signed(value: int) -> int:
    """An unsigned 64-bit number as the int64 it stands for."""
    return value - (1 << 64) if value >> 63 else value
