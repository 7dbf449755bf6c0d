"""HPACK header blocks (RFC 7541): reading those of a peer, and writing the few that answers have.

The library `hpack` gives the static table and the Huffman code. Its decoder takes 60 µs for the headers of a call as
Envoy sends them, twice what a whole decision does; this one about 10, and nothing for a block that was seen before.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

from hpack.exceptions import HPACKError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from mixer.server.http2.frames import COMPRESSION_ERROR, ENHANCE_YOUR_CALM, ConnectionFault

Field = tuple[bytes, bytes]

TABLE_SIZE = 4096  # bytes of a peer's dynamic table, HTTP/2's default
MAX_LIST = 16384  # bytes of a call's headers, as RFC 9113 counts them in SETTINGS_MAX_HEADER_LIST_SIZE
_ENTRY = 32  # bytes that an entry counts beyond its own
_REMEMBERED = 256  # blocks of a connection
_STATIC: tuple[Field, ...] = tuple(HeaderTable.STATIC_TABLE)


class Decoder:
    """Reads the blocks of one connection, in their order. `make`: what is made of the fields of one.

    A block that only refers to the table as it stands makes the same each time, for as long as the table stands: it
    is remembered by its bytes.
    """

    def __init__(self, make: Callable[[list[Field]], Any]) -> None:
        self._make = make
        self._dynamic: deque[Field] = deque()  # the newest first
        self._size = 0
        self._limit = TABLE_SIZE
        self._remembered: dict[bytes, Any] = {}
        self.known = self._remembered.get

    def read(self, block: bytes) -> Any:
        """What is made of a block. Raises `ConnectionFault`: the table cannot be known any more."""
        try:
            fields, changed = self._fields(block)
        except (IndexError, HPACKError):
            raise ConnectionFault(COMPRESSION_ERROR, "a header block that cannot be decoded") from None
        made = self._make(fields)
        if changed:
            self._remembered.clear()
        elif len(self._remembered) < _REMEMBERED:
            self._remembered[block] = made
        return made

    def _fields(self, block: bytes) -> tuple[list[Field], bool]:
        fields: list[Field] = []
        changed = False
        total = at = 0
        end = len(block)
        while at < end:
            first = block[at]
            if first & 0x80:  # indexed
                index, at = _integer(block, at, 0x7F)
                field = self._at(index)
            elif first & 0x40:  # literal, and added to the table
                field, at = self._literal(block, at, 0x3F)
                self._add(field)
                changed = True
            elif first & 0x20:
                if fields:
                    raise HPACKError
                self._limit, at = _integer(block, at, 0x1F)
                if self._limit > TABLE_SIZE:
                    raise HPACKError
                self._shrink(self._limit)
                changed = True
                continue
            else:  # literal
                field, at = self._literal(block, at, 0x0F)
            total += len(field[0]) + len(field[1]) + _ENTRY
            if total > MAX_LIST:
                raise ConnectionFault(ENHANCE_YOUR_CALM, f"headers of more than {MAX_LIST} bytes")
            fields.append(field)
        return fields, changed

    def _at(self, index: int) -> Field:
        if index <= len(_STATIC):
            if not index:
                raise IndexError
            return _STATIC[index - 1]
        return self._dynamic[index - len(_STATIC) - 1]

    def _literal(self, block: bytes, at: int, mask: int) -> tuple[Field, int]:
        index, at = _integer(block, at, mask)
        if index:
            name = self._at(index)[0]
        else:
            name, at = _string(block, at)
        value, at = _string(block, at)
        return (name, value), at

    def _add(self, field: Field) -> None:
        size = len(field[0]) + len(field[1]) + _ENTRY
        self._shrink(self._limit - size)
        if size <= self._limit:
            self._dynamic.appendleft(field)
            self._size += size

    def _shrink(self, size: int) -> None:
        while self._dynamic and self._size > size:
            name, value = self._dynamic.pop()
            self._size -= len(name) + len(value) + _ENTRY


def _integer(block: bytes, at: int, mask: int) -> tuple[int, int]:
    """Section 5.1; and where what follows begins."""
    value = block[at] & mask
    at += 1
    if value < mask:
        return value, at
    shift = 0
    while True:
        more = block[at]
        at += 1
        value += (more & 0x7F) << shift
        if not more & 0x80:
            return value, at
        shift += 7
        if shift > 21:  # none that is needed here is as long
            raise HPACKError


def _string(block: bytes, at: int) -> tuple[bytes, int]:
    """Section 5.2; and where what follows begins."""
    is_huffman = block[at] & 0x80
    size, at = _integer(block, at, 0x7F)
    end = at + size
    if end > len(block):
        raise IndexError
    text = block[at:end]
    return (decode_huffman(text) or b"") if is_huffman else text, end


def literal(name: bytes, value: bytes) -> bytes:
    """A field that changes no table."""
    return b"\x00" + _encoded(name) + _encoded(value)


def added(name: bytes, value: bytes) -> bytes:
    """A field that the peer's table gets, where `NEWEST` refers to it until there is another."""
    return b"\x40" + _encoded(name) + _encoded(value)


def _encoded(text: bytes) -> bytes:
    size = len(text)
    if size < 0x7F:
        return bytes((size,)) + text
    size -= 0x7F
    head = bytearray(b"\x7f")
    while size >= 0x80:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head) + text


STATUS_200 = b"\x88"  # of the static table
NEWEST, SECOND = b"\xbe", b"\xbf"  # of the dynamic table
EMPTY_TABLE = b"\x20"  # from now on, the table has no entries
