"""The little of protobuf's wire format that is written and looked at by hand.

https://protobuf.dev/programming-guides/encoding/
"""

from collections.abc import Callable

from google.protobuf.message import DecodeError

from mixer.telemetry.intake_pb2 import Header
from mixer.telemetry.v1.access_record_pb2 import AccessRecord

SHORT = 128  # a length below it is one byte
MAX_NUMBERS = 16_384  # of a field, whose encoded form is remembered


def tag(field: str) -> bytes:
    """What stands before the length of a record's field whose value is text or a message."""
    number = AccessRecord.DESCRIPTOR.fields_by_name[field].number << 3 | 2
    return bytes((number & 127 | 128, number >> 7))


def length(size: int) -> bytes:
    """A length as a varint."""
    out = bytearray()
    while size >= SHORT:
        out.append(size & 127 | 128)
        size >>= 7
    out.append(size)
    return bytes(out)


_LENGTHS = tuple(length(size) for size in range(512))


def prefixed(size: int) -> bytes:
    """A length as a varint, looked up where it is short."""
    return _LENGTHS[size] if size < 512 else length(size)


def header(entry: bytes) -> tuple[bytes, bytes, bytes] | None:
    """Of an entry of a map from text to text: its name in lower case, its value, and the entry made sound.

    None for one that protobuf would refuse.
    """
    # Nearly all are as Envoy writes them: a name and a value, both short and in ASCII, and nothing else.
    size = len(entry)
    if size > 3 and entry[0] == 0x0A and entry[1] < SHORT and (end := entry[1] + 2) + 1 < size:
        value_size = entry[end + 1]
        if entry[end] == 0x12 and value_size < SHORT and end + 2 + value_size == size and entry.isascii():
            return entry[2:end].lower(), entry[end + 2 :], entry
    try:
        parsed = Header.FromString(entry)
    except DecodeError:
        return None
    return (
        parsed.key.lower().encode(),
        parsed.value.encode(),
        Header(key=parsed.key, value=parsed.value).SerializeToString(),
    )


def text(field: str) -> Callable[[str], bytes]:
    """A function that encodes a field of text; b"" where there is none."""
    start = tag(field)
    starts = [start + size for size in _LENGTHS]

    def encoded(value: str) -> bytes:
        data = value.encode()
        size = len(data)
        if not size:
            return b""
        return (starts[size] if size < 512 else start + length(size)) + data

    return encoded


class Numbers(dict[int, bytes]):
    """A field's encoded numbers, as many as are remembered at a time; b"" for zero."""

    def __init__(self, field: str) -> None:
        super().__init__({0: b""})
        number = AccessRecord.DESCRIPTOR.fields_by_name[field].number << 3
        self._tag = length(number)

    def __missing__(self, value: int) -> bytes:
        if len(self) >= MAX_NUMBERS:
            self.clear()
            self[0] = b""
        made = self[value] = self._tag + length(value)
        return made
