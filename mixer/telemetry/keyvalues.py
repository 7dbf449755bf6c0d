"""KeyValues of one name: what they tell, by their bytes.

A column has those that log records have at one place. What a KeyValue tells is remembered. Where a name has more values
than that, what is as Envoy writes it, a name and a text each of less than 126 bytes, is taken over with a few
operations on the whole column (`logcolumns`). Every column raises `MalformedError` for a KeyValue of another name, and
for what `attributes` refuses.
"""

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, Generic, TypeVar

from mixer.telemetry.attributes import MalformedError, Value, pair, text_of
from mixer.telemetry.wire import length

SHORT_TEXT = 125  # bytes of a text: its length, and that of the message around it, are one byte
_MAX_KNOWN = 16_384  # of all columns, about 8 MB
_VALUES = 256  # of one
# Values that found no room in their columns, until all is learnt anew. After a twentieth of them that took 6 % of a
# record's time.
_ANEW = 20_000_000
_MAX_DATA = 256  # bytes of a KeyValue that is remembered
_FEW = 4  # values that are read one by one

T = TypeVar("T")


class Memory:
    """What is remembered of many columns: the first that comes, and no more than there is room for."""

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

    least, most = 2, SHORT_TEXT  # bytes of a text that is taken over; `-` says that there is none

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

    def text(self, data: bytes) -> str:
        """Of one of them, empty where there is none."""
        if self.ascii(data):
            return data[self.head :].decode()
        found = pair(data)[1]
        return "" if found is None else text_of(found)
