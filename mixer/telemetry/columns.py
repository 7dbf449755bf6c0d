"""The entries of one access-log message, column by column (see proto/mixer/telemetry/intake.proto).

A column has the values that entries have of one field, in order. As long as it has as many as there are entries, or
none, that is all there is to it. Where some entries have the field and others do not, and for fields that may have
several values, the entries are parsed again with a mark after each: an entry's value is what stands before its mark.

Without marks, columns are shifted where one entry has a field twice and another of the same message has it not, which
protobuf allows and Envoy does not write. To find that out, each entry has to be parsed for itself: 4.6 µs where all of
reading takes 11.3. It is not done, for who sends such a message mixes values of its own alone.
"""

from collections.abc import Sequence
from operator import attrgetter
from secrets import randbits, token_hex
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.unknown_fields import UnknownFieldSet

from mixer.errors import RequestError
from mixer.telemetry.wire import length

# Values that no entry has by chance, nor can be made to have by who does not know this process's memory.
_MARKS: dict[int, Any] = {
    FieldDescriptor.TYPE_STRING: token_hex(16),
    FieldDescriptor.TYPE_BYTES: token_hex(16).encode(),
    FieldDescriptor.TYPE_INT32: -(1 << 30) - randbits(30),
    FieldDescriptor.TYPE_INT64: -(1 << 62) - randbits(62),
    FieldDescriptor.TYPE_UINT64: (1 << 63) + randbits(63),
}
_EMPTY: dict[int, Any] = {FieldDescriptor.TYPE_STRING: "", FieldDescriptor.TYPE_BYTES: b""}
# A record has fields of its own from this number on. What is unknown in common properties it has unread
# (`intake.Passed`), so there it would say what this process says, or be no record that can be parsed.
_OWN = 1000
_NOT_ENVOYS = "an entry of an access-log message is none that Envoy writes"
_SHORT = 2048  # bytes; of shorter entries the length's bytes are looked up
_LENGTHS = [b"\x0a" + length(size) for size in range(_SHORT)]


class Part:
    """Fields of one submessage of the entries. `path`: where it is; `lists`: those that may have several values."""

    def __init__(self, kind: Any, path: str, fields: Sequence[str], lists: Sequence[str] = ()) -> None:
        where = f"log_entry.{path}".rstrip(".")
        self.path = path
        self.find = attrgetter(where)
        descriptor = kind.DESCRIPTOR
        for name in where.split("."):
            descriptor = descriptor.fields_by_name[name].message_type
        types = [descriptor.fields_by_name[name].type for name in fields]
        self._columns = [
            (name, _MARKS[type_], _EMPTY.get(type_, 0), name in lists)
            for name, type_ in zip(fields, types, strict=True)
        ]
        get = attrgetter(*fields)
        self._read = get if len(fields) > 1 else lambda part: (get(part),)

    def columns(self, table: "Table") -> list[Sequence[Any]]:
        """A column for each field: values, or of lists tuples of them. Raises `RequestError` for entries that are made
        to have our marks."""
        marked, count = table.marked.get(self.path, ()), table.count
        found: list[Sequence[Any]] = []
        for (name, mark, empty, is_list), values in zip(
            self._columns, self._read(self.find(table.parsed)), strict=True
        ):
            size = len(values)
            if not size:
                found.append([() if is_list else empty] * count)
            elif name not in marked:
                if size != count or is_list:
                    table.mark(self, name, mark)
                    return self.columns(table)
                found.append(values[:])
            elif is_list:
                found.append(_lists(values[:], mark, count))
            else:
                found.append(_values(values[:], mark, empty, count))
        return found


class Reader:
    """Reads the messages of one stream: where its entries are unlike each other shows soon, and stays so."""

    def __init__(self, kind: Any) -> None:
        self.kind = kind
        self.marked: dict[str, frozenset[str]] = {}  # fields, by the path of their part
        self.mark = b""
        self._marks = kind()

    def add(self, part: Part, name: str, mark: Any) -> None:
        """From now on, parse entries with a mark of this field after each."""
        known = self.marked.get(part.path, frozenset())
        if name in known:  # another table of the stream was first
            return
        self.marked = {**self.marked, part.path: known | {name}}
        getattr(part.find(self._marks), name).append(mark)
        self.mark = self._marks.log_entry.SerializeToString()


class Table:
    """The columns of some entries. Raises protobuf's `DecodeError` where one is none, and `RequestError` for one that
    Envoy does not write."""

    def __init__(self, reader: Reader, entries: Sequence[bytes]) -> None:
        self.count = len(entries)
        self.entries = entries
        self._reader = reader
        self._parse()
        unknown = UnknownFieldSet(self.parsed.log_entry.common_properties)
        if any(unknown[number].field_number >= _OWN for number in range(len(unknown))):
            raise RequestError(_NOT_ENVOYS)

    def mark(self, part: Part, name: str, mark: Any) -> None:
        self._reader.add(part, name, mark)
        self._parse()

    def _parse(self) -> None:
        reader = self._reader
        self.marked = reader.marked  # stays, also where another table adds a mark
        self.parsed = reader.kind.FromString(repeated(self.entries, reader.mark))


def repeated(messages: Sequence[bytes], behind: bytes = b"") -> bytes:
    """Messages as the values of a repeated field with the number 1, with more of each message `behind` it."""
    more = len(behind)
    pieces: list[bytes] = [behind] * (3 * len(messages))
    pieces[0::3] = [
        _LENGTHS[size] if (size := len(message) + more) < _SHORT else b"\x0a" + length(size)
        for message in messages
    ]
    pieces[1::3] = messages
    return b"".join(pieces)


def _values(values: list[Any], mark: Any, empty: Any, count: int) -> Sequence[Any]:
    """Of each entry the value before its mark, the last one as protobuf has it."""
    _check(values, mark, count)
    if len(values) == count:
        return [empty] * count
    if len(values) == 2 * count and values[1::2].count(mark) == count:
        return values[::2]
    found = []
    last = empty
    for value in values:
        if value == mark:
            found.append(last)
            last = empty
        else:
            last = value
    return found


def _lists(values: list[Any], mark: Any, count: int) -> Sequence[tuple[Any, ...]]:
    """Of each entry the values before its mark."""
    _check(values, mark, count)
    if len(values) == count:
        return [()] * count
    if len(values) == 2 * count and values[1::2].count(mark) == count:
        return list(zip(values[::2], strict=True))
    found = []
    some: list[Any] = []
    for value in values:
        if value == mark:
            found.append(tuple(some))
            some = []
        else:
            some.append(value)
    return found


def _check(values: list[Any], mark: Any, count: int) -> None:
    if values.count(mark) != count:
        raise RequestError(_NOT_ENVOYS)
