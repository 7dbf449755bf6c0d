"""The little of protobuf's wire format that is written and looked at by hand.

https://protobuf.dev/programming-guides/encoding/
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import TypeVar

from google.protobuf.message import DecodeError

from mixer.telemetry.intake_pb2 import Header
from mixer.telemetry.v1.access_record_pb2 import AccessRecord

SHORT = 128  # a length below it is one byte
MAX_NUMBERS = 16_384  # of a field, whose encoded form is remembered

T = TypeVar("T")
Column = bytes | Iterable[bytes]
"""A piece of some messages: the one that all of them have, or one for each, b"" where there is nothing to say."""


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


def joined(columns: Iterable[Column], count: int) -> list[bytes]:
    """Of each of `count` messages its pieces, in the order of the columns. What all of them have is joined first, once
    where such columns stand side by side."""
    pieces: list[Iterable[bytes]] = []
    of_all = b""
    for column in columns:
        if isinstance(column, bytes):
            of_all += column
            continue
        if of_all:
            pieces.append(repeat(of_all, count))
            of_all = b""
        pieces.append(column)
    if of_all or not pieces:
        pieces.append(repeat(of_all, count))
    return list(map(b"".join, zip(*pieces, strict=True)))


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


def alike(values: Sequence[object]) -> bool:
    """Whether there is one value only. To find out costs a fifth of looking them up."""
    first = values[0]
    return first == values[-1] and values.count(first) == len(values)


def mapped(make: Callable[[T], bytes], values: Sequence[T]) -> Column:
    """What is made of each value: of values that are alike, once."""
    return make(values[0]) if alike(values) else list(map(make, values))
