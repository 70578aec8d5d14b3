"""Read and write protobuf's wire encoding, as far as ONNX files need it.

Source: https://protobuf.dev/programming-guides/encoding/. What the fields mean is the model file's
business. Values are views into the file: weights are never copied.
"""

from __future__ import annotations

from collections.abc import Iterator

Value = int | memoryview

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


def read_fields(message: memoryview) -> Iterator[tuple[int, Value, int]]:
    """Yield (field number, value, offset behind it) of `message`; fixed-width fields as bytes.

    Raises:
        ValueError: no message, or a truncated one.
        IndexError: it ends within a number.
    """
    position, end = 0, len(message)
    while position < end:
        tag, position = _read_varint(message, position)
        number, wire_type = tag >> 3, tag & 7
        if number == 0:
            raise ValueError(f"field number 0 at byte {position}")
        if wire_type == _LENGTH:
            size, position = _read_varint(message, position)
        elif wire_type == _VARINT:
            integer, position = _read_varint(message, position)
            yield number, integer, position
            continue
        elif wire_type in (_FIXED64, _FIXED32):
            size = 8 if wire_type == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire_type} at byte {position}")
        behind = position + size
        if behind > end:
            raise ValueError(f"truncated: {behind - end:,} bytes are missing")
        yield number, message[position:behind], behind
        position = behind


def read_parts(message: memoryview) -> dict[int, list[memoryview]]:
    """Return every field of `message` that is no number, by field number."""
    found: dict[int, list[memoryview]] = {}
    for number, value, _ in read_fields(message):
        if isinstance(value, memoryview):
            found.setdefault(number, []).append(value)
    return found


def last(parts: dict[int, list[memoryview]], number: int) -> memoryview:
    """Return the field that counts where only one should be; empty if there is none."""
    return parts[number][-1] if number in parts else memoryview(b"")


def text(value: memoryview) -> str:
    """Return a string field.

    Raises:
        ValueError: not UTF-8.
    """
    return str(value, "utf-8")


def integers(value: Value) -> list[int]:
    """Return the numbers of one occurrence of a repeated field: a single one, or packed ones."""
    if isinstance(value, int):
        return [value]
    values, position = [], 0
    while position < len(value):
        found, position = _read_varint(value, position)
        values.append(found)
    return values


def length_field(number: int, payload: bytes) -> bytes:
    """Return field `number` of a message, with `payload` behind its length."""
    return _write_varint(number << 3 | _LENGTH) + _write_varint(len(payload)) + payload


def number_field(number: int, value: int) -> bytes:
    """Return field `number` of a message, holding the integer `value` (not negative)."""
    return _write_varint(number << 3 | _VARINT) + _write_varint(value)


def _read_varint(message: memoryview, position: int) -> tuple[int, int]:
    value = message[position]
    if value < 0x80:  # nearly all are one byte
        return value, position + 1
    value &= 0x7F
    for shift in range(7, 70, 7):
        position += 1
        byte = message[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position + 1
    raise ValueError(f"endless number at byte {position}")


def _write_varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
