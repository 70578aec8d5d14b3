"""Read and write protobuf's wire encoding, as far as ONNX files need it.

Source: https://protobuf.dev/programming-guides/encoding/. What the fields mean is the model file's
business. Parts are views into the file: weights are never copied.
"""

from __future__ import annotations

from collections.abc import Iterator

MAX_FIELDS = 100_000  # and numbers in lists, of a message with all those within
MAX_TEXT_BYTES = 512  # of names, which errors repeat
_MAX_FIELD_NUMBER = (1 << 29) - 1  # other readers drop higher bits, and find another field
_VARINT, _LENGTH = 0, 2
EMPTY = memoryview(b"")
_SIZES = {_VARINT: None, _LENGTH: None, 1: 8, 5: 4}  # bytes by wire type; None: a varint says


class Message:
    """The fields of one message by number; a field that should occur once counts as last given.

    within: the message that holds it, whose limits are then its own too. Where there is no whole
    message, or one beyond the limits, ValueError, or IndexError if it ends within a number.
    """

    def __init__(self, data: memoryview, within: Message | None = None) -> None:
        self.data = data
        self.fields: dict[int, list[int | memoryview]] = {}
        self._left: Iterator[int] = within._left if within else iter(range(MAX_FIELDS))
        for number, value, _, _ in read_fields(data):
            self._count_one()
            self.fields.setdefault(number, []).append(value)

    def parts(self, number: int) -> list[memoryview]:
        """Return each occurrence of a field of bytes."""
        return [v for v in self.fields.get(number, ()) if isinstance(v, memoryview)]

    def part(self, number: int) -> memoryview:
        """Return a field of bytes, empty if there is none."""
        found = self.fields.get(number, ())
        return next((v for v in reversed(found) if isinstance(v, memoryview)), EMPTY)

    def messages(self, number: int) -> list[Message]:
        """Return each occurrence of a field of messages."""
        return [Message(part, self) for part in self.parts(number)]

    def message(self, number: int) -> Message:
        """Return a field of messages, empty if there is none."""
        return Message(self.part(number), self)

    def texts(self, number: int) -> tuple[str, ...]:
        """Return each occurrence of a string field."""
        return tuple(map(_decode, self.parts(number))) if number in self.fields else ()

    def text(self, number: int) -> str:
        """Return a string field, empty if there is none."""
        return _decode(self.part(number))

    def integers(self, number: int) -> tuple[int, ...]:
        """Return the values of a repeated field of int64, packed or one by one."""
        if number not in self.fields:
            return ()
        values: list[int] = []
        for found in self.fields[number]:
            if isinstance(found, int):
                values.append(_signed(found))
                continue
            position = 0
            while position < len(found):
                self._count_one()
                value, position = _read_varint(found, position)
                values.append(_signed(value))
        return tuple(values)

    def integer(self, number: int) -> int:
        """Return an integer field, 0 if there is none."""
        return next((v for v in reversed(self.fields.get(number, ())) if isinstance(v, int)), 0)

    def _count_one(self) -> None:
        if next(self._left, None) is None:
            raise ValueError(f"more than {MAX_FIELDS:,} fields")


def read_fields(data: memoryview) -> Iterator[tuple[int, int | memoryview, int, int]]:
    """Yield (number, value, start, end) of each field; fixed-width values as their bytes."""
    start, n_bytes = 0, len(data)
    while start < n_bytes:
        tag, end = _read_varint(data, start)
        number, wire_type = tag >> 3, tag & 7
        if not 0 < number <= _MAX_FIELD_NUMBER or wire_type not in _SIZES:
            raise ValueError(f"field {number} of wire type {wire_type} at byte {start}")
        size = _SIZES[wire_type]
        if size is None:
            size, end = _read_varint(data, end)
        value: int | memoryview = size
        if wire_type != _VARINT:
            value, end = data[end : end + size], end + size
        if end > n_bytes:
            raise ValueError(f"truncated: {end - n_bytes:,} bytes are missing")
        yield number, value, start, end
        start = end


def field(number: int, value: int | bytes) -> bytes:
    """Return a field of a message: an integer (not negative), or bytes behind their length."""
    if isinstance(value, int):
        return _write_varint(number << 3 | _VARINT) + _write_varint(value)
    return _write_varint(number << 3 | _LENGTH) + _write_varint(len(value)) + value


def _decode(text: memoryview) -> str:
    if len(text) > MAX_TEXT_BYTES:
        raise ValueError(f"a name of {len(text):,} bytes")
    return str(text, "utf-8")


def _read_varint(data: memoryview, position: int) -> tuple[int, int]:
    value = data[position]
    if value < 0x80:  # nearly all are one byte
        return value, position + 1
    value &= 0x7F
    for shift in range(7, 70, 7):
        position += 1
        byte = data[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position + 1
    raise ValueError(f"endless number at byte {position}")


def _signed(value: int) -> int:
    """Return the int64 that a varint stands for: a negative one has all of its 64 bits."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def _write_varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
