"""One attribute of many log records at a time.

A column has the KeyValues that log records have at one place, all of one name. What a KeyValue tells is looked up by
its bytes. Where a name has more values than are remembered (`Memory`), those that are as Envoy writes them, a name and
a text each of less than 126 bytes, are taken over with a few operations on the whole column; others are read one by
one. Every column raises `MalformedError` for a KeyValue of another name, and for what `attributes` refuses.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import repeat
from operator import itemgetter
from typing import Any, Generic, TypeVar

import orjson

from mixer.telemetry.attributes import Attribute, MalformedError, Value, pair, span_of, teller, text_of
from mixer.telemetry.record import SCHEMA_FIELDS, encoded
from mixer.telemetry.wire import length, prefixed

_MAX_KNOWN = 16_384  # of all columns, about 8 MB
_VALUES = 256  # of one
_ANEW = 1_000_000  # values that found no room in their columns, until all is learnt anew
_MAX_DATA = 256  # bytes of a KeyValue that is remembered
_FEW = 4
_SHORT = 125  # bytes of a text: its length, and that of the message around it, are one byte
NANOS = 1_000_000_000

T = TypeVar("T")
Parts = tuple[Iterable[bytes], ...]


class Memory:
    """What is remembered of many columns: bounded, and the first that comes."""

    def __init__(self) -> None:
        self._columns: dict[int, Column[Any]] = {}
        self._count = 0
        self._missed = 0

    def remember(self, column: "Column[T]", data: bytes, made: T) -> None:
        if len(column) >= _VALUES:
            column.full = True
            # What there is not is told by a text of no length, or of one: it comes among many others.
            if len(data) > column.head + 1 or len(column) >= 2 * _VALUES:
                return
        if len(data) > _MAX_DATA:
            return
        if self._count >= _MAX_KNOWN:
            self._forget()
        column[data] = made
        self._count += 1
        self._columns[id(column)] = column

    def missed(self, count: int) -> None:
        self._missed += count
        if self._missed >= _ANEW:
            self._forget()

    def _forget(self) -> None:
        """Others may come again and again now."""
        for column in self._columns.values():
            column.clear()
            column.full = False
        self._columns.clear()
        self._count = self._missed = 0


class _Heads(dict[int, bytes]):
    """What stands before a text, by the length of its KeyValue, for texts of `least` to `most` bytes."""

    def __init__(self, start: bytes, least: int, most: int) -> None:
        super().__init__()
        self._start = start
        self._least = least
        self._most = most

    def __missing__(self, size: int) -> bytes:
        text = size - len(self._start) - 4
        if not self._least <= text <= self._most:
            return self._start + b"      "  # longer than what it is compared with
        head = self[size] = self._start + b"\x12%c\x0a%c" % (text + 2, text)
        return head


class Column(dict[bytes, T], Generic[T]):
    """What KeyValues of one name tell, by their bytes."""

    least, most = 2, _SHORT  # bytes of a text that is taken over; `-` says that there is none

    def __init__(self, name: str, memory: Memory, make: Callable[[Value], T], absent: T) -> None:
        super().__init__()
        start = name.encode()
        start = b"\x0a%b%b" % (length(len(start)), start)
        self.name = name
        self.full = False
        self.head = len(start) + 4  # bytes before a text
        self._heads = _Heads(start, self.least, self.most)
        self.value = itemgetter(slice(self.head - 4, None))  # all but the name
        self._front = itemgetter(slice(self.head))
        self._text = itemgetter(slice(self.head, None))
        self._sized = itemgetter(slice(self.head - 1, None))  # with its length before it
        self._memory = memory
        self._make = make
        self._absent = absent

    def __missing__(self, data: bytes) -> T:
        name, found = pair(data)
        if name != self.name:
            raise MalformedError("another attribute is in this place")
        if found is None:
            made = self._absent
        elif isinstance(found, bytes):
            raise MalformedError("expected text, a number or a boolean")
        else:
            made = self._make(found)
        self._memory.remember(self, data, made)
        return made

    def read(self, column: Sequence[bytes]) -> Any:
        """What each tells, in their order, in the form that a kind of columns has for it."""
        return self.look_up(column)

    def look_up(self, column: Sequence[bytes]) -> list[T]:
        return list(map(self.__getitem__, column))

    def fits(self, column: Sequence[bytes]) -> bool:
        """Whether all are as Envoy writes them. Of few it is not worth while to find that out."""
        return len(column) > _FEW and list(map(self._front, column)) == list(
            map(self._heads.__getitem__, map(len, column))
        )

    def ascii(self, data: bytes) -> bool:
        """Whether this one is, and is no text of other than ASCII."""
        return data[: self.head] == self._heads[len(data)] and data.isascii()


class Pieces(Column[bytes]):
    """Encoded fields. What is read are parts, one behind the other, of what each tells."""

    def read(self, column: Sequence[bytes]) -> Parts:
        if not self.full:
            return (self.look_up(column),)
        self._memory.missed(len(column))
        return self.many(column)

    def many(self, column: Sequence[bytes]) -> Parts:
        """Of a column that has other values all the time. Parts may be made when they are asked for, once."""
        return (self.look_up(column),)


class Told(Column[tuple[Attribute, ...]]):
    """Attributes."""

    def __init__(self, name: str, memory: Memory) -> None:
        super().__init__(name, memory, teller(name), ())


class Fields(Pieces):
    """Encoded fields, of names that a column has no faster way for."""

    def __init__(self, name: str, memory: Memory) -> None:
        tell = teller(name)
        super().__init__(
            name, memory, lambda found: encoded({each.field: each.value for each in tell(found)}), b""
        )


class Text(Pieces):
    """A field of text. `clean`: what a record may have of it."""

    def __init__(
        self, name: str, memory: Memory, field: str, clean: Callable[[str], str] | None = None
    ) -> None:
        start = self._start = tag_of(field)

        def make(found: Value) -> bytes:
            text = text_of(found)
            data = (clean(text) if clean else text).encode()
            return start + prefixed(len(data)) + data if data else b""

        super().__init__(name, memory, make, b"")
        self._cleans = clean is not None

    def many(self, column: Sequence[bytes]) -> Parts:
        if self._cleans:
            return (self.look_up(column),)
        if self.fits(column) and b"".join(column).isascii():
            return repeat(self._start, len(column)), map(self._sized, column)
        start, at, usual = self._start, self.head - 1, self.ascii
        return ([start + data[at:] if usual(data) else self[data] for data in column],)


class Entry(Pieces):
    """An entry of a map. `clean`: the value that a record may have, None: none; where only values with a slash may have
    to be changed, `paths`."""

    def __init__(
        self,
        name: str,
        memory: Memory,
        field: str,
        key: str,
        clean: Callable[[str], str | None] | None = None,
        *,
        paths: bool = False,
    ) -> None:
        data = key.encode()
        self._tag = tag_of(field)
        self._key = b"\x0a%b%b\x12" % (prefixed(len(data)), data)
        self._starts: dict[int, bytes] = {}

        def make(found: Value) -> bytes:
            text = text_of(found)
            cleaned = clean(text) if clean else text
            if cleaned is None:
                return b""
            value = cleaned.encode()
            return self._start(len(value)) + prefixed(len(value)) + value

        super().__init__(name, memory, make, b"")
        self._takes = clean is None or paths
        self._paths = paths and clean is not None

    def _start(self, size: int) -> bytes:
        return self._tag + prefixed(len(self._key) + len(prefixed(size)) + size) + self._key

    def many(self, column: Sequence[bytes]) -> Parts:
        if not self._takes:
            return (self.look_up(column),)
        starts, usual, paths = self._starts, self.ascii, self._paths
        for size in set(map(len, column)) - starts.keys():
            if 0 <= size - self.head <= _SHORT:
                starts[size] = self._start(size - self.head)
        values = list(map(self._sized, column))
        if self.fits(column) and b"".join(column).isascii() and not (paths and b"/" in b"".join(values)):
            return map(starts.__getitem__, map(len, column)), values
        return (
            [
                starts[len(data)] + value if usual(data) and not (paths and b"/" in value) else self[data]
                for data, value in zip(column, values, strict=True)
            ],
        )


class Path(Pieces):
    """A path with its query. `clean`: the query that a record may have."""

    def __init__(self, name: str, memory: Memory, clean: Callable[[str], str] | None) -> None:
        path_tag, query_tag = tag_of("url_path"), tag_of("url_query")

        def divided(text: bytes) -> bytes:
            path, _, query = text.partition(b"?")
            if query and clean:
                query = clean(query.decode()).encode()
            made = path_tag + prefixed(len(path)) + path if path else b""
            return made + query_tag + prefixed(len(query)) + query if query else made

        super().__init__(name, memory, lambda found: divided(text_of(found).encode()), b"")
        self._divided = divided

    def many(self, column: Sequence[bytes]) -> Parts:
        at, divided, usual = self.head, self._divided, self.ascii
        if self.fits(column) and b"".join(column).isascii():
            return (map(divided, map(self._text, column)),)
        return ([divided(data[at:]) if usual(data) else self[data] for data in column],)


class Values(Column[int], ABC):
    """Numbers, and how they are encoded."""

    def read(self, column: Sequence[bytes]) -> list[int]:
        if not self.full:
            return self.look_up(column)
        self._memory.missed(len(column))
        return self.many(column)

    @abstractmethod
    def many(self, column: Sequence[bytes]) -> list[int]:
        """Of a column that has other values all the time."""

    @abstractmethod
    def fields(self, values: Sequence[int]) -> Parts:
        """Encoded; in parts, as `Pieces.read` has them."""


class Number(Values):
    """A field that is a whole number; 0: absent."""

    least = 1

    def __init__(self, name: str, memory: Memory, field: str) -> None:
        descriptor = SCHEMA_FIELDS[field]
        tell = teller(name)
        self.most = (
            9 if descriptor.cpp_type == descriptor.CPPTYPE_UINT32 else 19
        )  # digits that never are too many
        self._tag = length(descriptor.number << 3)
        super().__init__(name, memory, lambda found: sum(each.value for each in tell(found)), 0)

    def many(self, column: Sequence[bytes]) -> list[int]:
        if self.fits(column):
            values = _whole(b",".join(map(self._text, column)), len(column))
            if values is not None:
                return values
        at, usual = self.head, self.ascii
        return [
            int(digits) if (digits := data[at:]).isdigit() and usual(data) else self[data] for data in column
        ]

    def fields(self, values: Sequence[int]) -> Parts:
        low, high = _tables()
        tag, most = self._tag, max(values)
        if most < _HALF and min(values):
            return repeat(tag, len(values)), map(high.__getitem__, values)
        return (
            [
                (tag + high[value] if value else b"")
                if value < _HALF
                else tag + low[value & _LOW] + high[value >> _BITS]
                if value < _HALF * _HALF
                else tag + length(value)
                for value in values
            ],
        )


class Span(Values):
    """A field that is a span, in nanoseconds; -1: absent."""

    least, most = 3, 14  # digits and a unit of two letters: at most 1e9 seconds

    def __init__(self, name: str, memory: Memory, field: str) -> None:
        self._tag = tag_of(field)

        def make(found: Value) -> int:
            span = span_of(name, found)
            return -1 if span is None else span.seconds * NANOS + span.nanos

        super().__init__(name, memory, make, -1)

    def many(self, column: Sequence[bytes]) -> list[int]:
        if self.fits(column):
            joined = b",".join(map(self._text, column)) + b","
            if joined.count(b"ns,") == len(column):
                values = _whole(joined.replace(b"ns,", b",")[:-1], len(column))
                if values is not None:
                    return values
        at, usual = self.head, self.ascii
        return [
            int(digits)
            if data.endswith(b"ns") and (digits := data[at:-2]).isdigit() and usual(data)
            else self[data]
            for data in column
        ]

    def fields(self, values: Sequence[int]) -> Parts:
        low, high = _tables()
        three, four = self._tag + b"\x04\x10", self._tag + b"\x05\x10"  # bytes of a number of nanoseconds
        least, most = min(values), max(values)
        if least >= _HALF and most < _HALF * _HALF:
            return (
                [four if value >= _FOUR else three for value in values],
                [low[value & _LOW] for value in values],
                [high[value >> _BITS] for value in values],
            )
        return (list(map(self._field, values)),)

    def _field(self, value: int) -> bytes:
        if value < 0:
            return b""
        seconds, nanos = divmod(value, NANOS)
        span = (b"\x08" + length(seconds) if seconds else b"") + (b"\x10" + length(nanos) if nanos else b"")
        return self._tag + prefixed(len(span)) + span


def text(column: Column[Any], data: bytes) -> str:
    """The text of one of the column's KeyValues, empty where there is none."""
    if column.ascii(data):
        return data[column.head :].decode()
    found = pair(data)[1]
    return "" if found is None else text_of(found)


def _whole(joined: bytes, count: int) -> list[int] | None:
    """So many numbers with commas between them; None where they are other than JSON has them."""
    if joined.count(b",") != count - 1 or not joined.replace(b",", b"").isdigit():
        return None
    try:
        values: list[int] = orjson.loads(b"[%b]" % joined)
    except orjson.JSONDecodeError:
        return None
    return values


def tag_of(field: str) -> bytes:
    """What stands before the length of a record's field whose value is text or a message."""
    number: int = SCHEMA_FIELDS[field].number
    return length(number << 3 | 2)


# A number below 2^28 as a varint: its lower half, looked up, and its upper one.
_BITS = 14
_HALF = 1 << _BITS
_LOW = _HALF - 1
_FOUR = 1 << 21  # from here on it takes four bytes


def varint(value: int) -> bytes:
    low, high = _tables()
    if value < _HALF:
        return high[value]
    if value < _HALF * _HALF:
        return low[value & _LOW] + high[value >> _BITS]
    if value < _HALF * _HALF * _HALF:
        return low[value & _LOW] + low[value >> _BITS & _LOW] + high[value >> 2 * _BITS]
    return length(value)


@cache
def _tables() -> tuple[list[bytes], list[bytes]]:
    """1.2 MB, where log records are read."""
    low = [bytes((half & 127 | 128, half >> 7 | 128)) for half in range(_HALF)]
    return low, list(map(length, range(_HALF)))
