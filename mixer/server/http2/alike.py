"""Calls that lie one behind the other and differ in their messages alone, found at a tenth of the price of reading."""

from functools import lru_cache
from struct import Struct

from mixer.server.http2.frames import DATA, END_HEADERS, END_STREAM, HEADERS, MAX_FRAME

_MAX_STREAM = b"\x7f\xff\xff\xff"
_WHOLE = bytes((DATA, END_STREAM))


@lru_cache(maxsize=256)
def _layout(size: int) -> Struct:
    """Of HEADERS with a block of this size, and the head of DATA behind: size, type and flags of the one, its stream,
    the block; size of the other in 16 and 8 bits, type and flags, stream."""
    return Struct(f">5s4s{size}sHB2s4s")


def alike(data: bytes, at: int, block: bytes, last: int) -> tuple[list[bytes], int]:
    """The streams of whole calls that lie there, each of them a HEADERS frame with this block and one of DATA; and
    where they end. `last`: the stream before, as numbers must rise; they are answered as bytes."""
    layout = _layout(len(block))
    unpack, step = layout.unpack_from, layout.size
    head = b"%b%c%c" % (len(block).to_bytes(3, "big"), HEADERS, END_HEADERS)
    before = last.to_bytes(4, "big")
    most = MAX_FRAME >> 8
    streams: list[bytes] = []
    size = len(data)
    while size - at >= step:
        here, stream, this, high, low, kind, same = unpack(data, at)
        if this != block or here != head or kind != _WHOLE or same != stream or high >= most:
            break
        end = at + step + (high << 8 | low)
        if end > size or not before < stream <= _MAX_STREAM or not stream[3] & 1:
            break
        streams.append(stream)
        before = stream
        at = end
    return streams, at
