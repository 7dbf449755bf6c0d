"""The little of protobuf's wire format that is written and looked at by hand.

https://protobuf.dev/programming-guides/encoding/
"""

from collections.abc import Iterable, Sequence
from itertools import repeat

from google.protobuf.message import DecodeError

from mixer.telemetry.intake_pb2 import Header
from mixer.telemetry.v1.access_record_pb2 import AccessRecord

SHORT = 128  # a length below it is one byte
MAX_NUMBERS = 16_384  # of a field, whose encoded form is remembered


def tag(field: str) -> bytes:
    """What stands before the length of a record's field whose value is text or a message."""
    return length(AccessRecord.DESCRIPTOR.fields_by_name[field].number << 3 | 2)


def length(size: int) -> bytes:
    """A length as a varint."""
    out = bytearray()
    while size >= SHORT:
        out.append(size & 127 | 128)
        size >>= 7
    out.append(size)
    return bytes(out)


SHORT_TEXT = 512  # bytes; of shorter text the length's bytes are looked up
_LENGTHS = tuple(length(size) for size in range(SHORT_TEXT))


def prefixed(size: int) -> bytes:
    """A length as a varint, looked up where it is short."""
    return _LENGTHS[size] if size < SHORT_TEXT else length(size)


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


def joined(parts: Iterable[bytes | Iterable[bytes]], count: int) -> list[bytes]:
    """Of each of `count` records its pieces, in the order of the parts. A part is a piece for each record, or the piece
    that all of them have: such ones are joined first, and only once where they stand side by side."""
    columns: list[Iterable[bytes]] = []
    constant = b""
    for part in parts:
        if isinstance(part, bytes):
            constant += part
            continue
        if constant:
            columns.append(repeat(constant, count))
            constant = b""
        columns.append(part)
    if constant or not columns:
        columns.append(repeat(constant, count))
    return list(map(b"".join, zip(*columns, strict=True)))


class Text:
    """A field of text, encoded; b"" where there is none."""

    def __init__(self, field: str) -> None:
        self._start = start = tag(field)
        self.starts = [b"", *(start + size for size in _LENGTHS[1:])]
        """What stands before a text, by its size in bytes: 0 to 511."""

    def __call__(self, value: str) -> bytes:
        return self.of(value.encode())

    def of(self, data: bytes) -> bytes:
        size = len(data)
        return (self.starts[size] if size < SHORT_TEXT else self._start + length(size)) + data

    def column(self, values: Sequence[str]) -> list[bytes]:
        """Of each value."""
        data = utf8(values)
        starts = self.starts
        if max(map(len, data)) < SHORT_TEXT:
            return [starts[len(each)] + each for each in data]
        return list(map(self.of, data))


def utf8(values: Sequence[str]) -> list[bytes]:
    """Of each value; at once, which takes a third of the time."""
    found = "\n".join(values).encode().split(b"\n")
    return found if len(found) == len(values) else [value.encode() for value in values]


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
