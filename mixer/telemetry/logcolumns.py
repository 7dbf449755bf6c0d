"""Kinds of columns, by what their fields are: how values are read, and encoded as a record has them (`keyvalues`)."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence

import orjson

from mixer.telemetry.attributes import Attribute, Value, span_of, teller, text_of
from mixer.telemetry.keyvalues import SHORT_TEXT, Column, Memory
from mixer.telemetry.record import SCHEMA_FIELDS, encoded
from mixer.telemetry.redaction import Redaction
from mixer.telemetry.varints import MAX, varints
from mixer.telemetry.wire import alike, joined, length, prefixed, tag

NANOS = 1_000_000_000

_KNOWN = 256  # encoded numbers of a column

Parts = tuple[bytes | Iterable[bytes], ...]
"""Of some records, parts of what is to stand behind each other in each: see `wire.joined`."""


class Pieces(Column[bytes]):
    """Encoded fields. What is read are parts, one behind the other, of what each tells."""

    def read(self, column: Sequence[bytes]) -> Parts:
        if column[0] in self and alike(column):
            return (self[column[0]],)
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
        start = self._start = tag(field)

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
            return self._start, map(self._sized, column)
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
        self._tag = tag(field)
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
            if 0 <= size - self.head <= SHORT_TEXT:
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
    """A path with its query."""

    def __init__(self, name: str, memory: Memory, redaction: Redaction) -> None:
        path_tag, query_tag = tag("url_path"), tag("url_query")

        def divided(text: bytes, harmless: bool = False) -> bytes:
            path, _, query = text.partition(b"?")
            if query and not harmless:
                query = redaction.query(query.decode()).encode()
            made = path_tag + prefixed(len(path)) + path if path else b""
            return made + query_tag + prefixed(len(query)) + query if query else made

        super().__init__(name, memory, lambda found: divided(text_of(found).encode()), b"")
        self._divided = divided
        self._is_harmless = redaction.is_harmless

    def many(self, column: Sequence[bytes]) -> Parts:
        at, divided, usual = self.head, self._divided, self.ascii
        if self.fits(column) and b"".join(column).isascii():
            texts = list(map(self._text, column))
            harmless = self._is_harmless(b"\n".join(texts).decode())
            return ([divided(text, harmless) for text in texts],)
        return ([divided(data[at:]) if usual(data) else self[data] for data in column],)


class Values(Column[int], ABC):
    """Numbers, and how they are encoded."""

    def __init__(self, name: str, memory: Memory, make: Callable[[Value], int], absent: int) -> None:
        super().__init__(name, memory, make, absent)
        self._known: dict[int, bytes] = {}

    def read(self, column: Sequence[bytes]) -> list[int]:
        if column[0] in self and alike(column):
            return [self[column[0]]] * len(column)
        if not self.full:
            return self.look_up(column)
        self._memory.missed(len(column))
        return self.many(column)

    def encode(self, values: Sequence[int]) -> Parts:
        """Encoded; in parts, as `Pieces.read` has them."""
        known = self._known
        if values[0] in known and alike(values):
            return (known[values[0]],)
        if self.full:
            return self.fields(values)
        try:
            return (list(map(known.__getitem__, values)),)
        except KeyError:  # as many as a column has before it is full
            if len(known) > _KNOWN:
                known.clear()
            known.update(zip(values, joined(self.fields(values), len(values)), strict=True))
            return (list(map(known.__getitem__, values)),)

    @abstractmethod
    def many(self, column: Sequence[bytes]) -> list[int]:
        """Of a column that has other values all the time."""

    @abstractmethod
    def fields(self, values: Sequence[int]) -> Parts:
        """`encode`, of a column that has other values all the time."""


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
        if min(values) and max(values) < MAX:
            return self._tag, varints(values)[1]
        return ([self._tag + length(value) if value else b"" for value in values],)


class Span(Values):
    """A field that is a span, in nanoseconds; -1: absent."""

    least, most = 3, 14  # digits and a unit of two letters: at most 1e9 seconds

    def __init__(self, name: str, memory: Memory, field: str) -> None:
        self._tag = tag(field)

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
        if min(values) > 0 and max(values) < NANOS:  # nearly always
            size, nanos = varints(values)
            return self._tag + prefixed(1 + size) + b"\x10", nanos
        odd = [place for place, value in enumerate(values) if not 0 < value < NANOS]
        size, nanos = varints([min(max(value, 0), NANOS - 1) for value in values])
        start = self._tag + prefixed(1 + size) + b"\x10"
        fields = [start + each for each in nanos]
        for place in odd:
            fields[place] = self._field(values[place])
        return (fields,)

    def _field(self, value: int) -> bytes:
        if value < 0:
            return b""
        seconds, nanos = divmod(value, NANOS)
        span = (b"\x08" + length(seconds) if seconds else b"") + (b"\x10" + length(nanos) if nanos else b"")
        return self._tag + prefixed(len(span)) + span


def _whole(joined: bytes, count: int) -> list[int] | None:
    """So many numbers with commas between them; None where they are other than JSON has them."""
    if joined.count(b",") != count - 1 or not joined.replace(b",", b"").isdigit():
        return None
    try:
        values: list[int] = orjson.loads(b"[%b]" % joined)
    except orjson.JSONDecodeError:
        return None
    return values
