"""What a connection writes: answers, as few bytes and as few writes as they need."""

import asyncio
from collections.abc import Callable, Sequence

from mixer.server.http2 import frames, requests
from mixer.server.http2.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    MAX_FRAME,
    MAX_WINDOW,
    WINDOW,
    ConnectionFault,
    frame,
)
from mixer.server.http2.header_blocks import EMPTY_TABLE, NEWEST, SECOND, STATUS_200

_BEGIN_KNOWN = STATUS_200 + SECOND  # content-type came into the table before grpc-status


class _Held:
    """Of a stream that waits for the peer's flow-control windows (RFC 9113, section 5.2)."""

    __slots__ = ("data", "tail", "window")

    def __init__(self, window: int) -> None:
        self.window = window
        self.data = b""
        self.tail = b""  # the frame that ends the stream


class Writer:
    """Gathers frames, and writes those of one turn of the loop at once."""

    def __init__(self, write: Callable[[bytes], None], loop: asyncio.AbstractEventLoop) -> None:
        self.out: list[bytes] = []
        self._write = write
        self._loop = loop
        self._flush_is_due = False
        self._begins, self._ok = requests.BEGIN_ADDED, requests.OK_ADDED
        self._window = WINDOW
        self._initial = WINDOW  # of a stream
        self._most = min(WINDOW, MAX_FRAME)  # bytes of a frame on a stream that has sent nothing yet
        self._held: dict[int, _Held] = {}

    def flush(self) -> None:
        if out := self.out:
            self._write(out[0] if len(out) == 1 else b"".join(out))
            out.clear()

    def flush_soon(self) -> None:
        if not self._flush_is_due:
            self._flush_is_due = True
            self._loop.call_soon(self._flush_due)

    def _flush_due(self) -> None:
        self._flush_is_due = False
        self.flush()

    # Answers

    def respond(self, number: int, message: bytes) -> None:
        """A whole answer of one message."""
        size = len(message) + 5
        if size > self._most or size > self._window or number in self._held:
            self.begin(number)
            self._send(
                number, _prefixed(message), frame(HEADERS, END_HEADERS | END_STREAM, number, requests.OK)
            )
            return
        self._window -= size
        stream = number.to_bytes(4, "big")
        begins, ok = self._begins, self._ok
        self.out.append(
            b"\0\0%c\1\4%b%b%b\0\0%b\0%b%b\0\0%c\1\5%b%b"
            % (
                *(len(begins), stream, begins),
                *(size.to_bytes(3, "big"), stream, (size - 5).to_bytes(4, "big"), message),
                *(len(ok), stream, ok),
            )
        )
        if begins is not _BEGIN_KNOWN:
            if begins is requests.BEGIN_ADDED:  # the peer's table has both fields from now on
                self._begins, self._ok = _BEGIN_KNOWN, NEWEST
            else:
                self._begins = requests.BEGIN

    def refuse(self, number: int, block: bytes) -> None:
        """An answer that is a header block alone."""
        self.drop(number)
        self.out.append(frame(HEADERS, END_HEADERS | END_STREAM, number, self._prefix() + block))

    def refuse_all(self, streams: Sequence[bytes], block: bytes) -> None:
        """The same, to each of many; `streams`: the bytes of their numbers."""
        if self._held or self._begins.startswith(EMPTY_TABLE):
            for stream in streams:
                self.refuse(int.from_bytes(stream, "big"), block)
            return
        head = b"%b%c%c" % (len(block).to_bytes(3, "big"), HEADERS, END_HEADERS | END_STREAM)
        self.out += (head, (block + head).join(streams), block)

    def tell(self, number: int, block: bytes, body: bytes) -> None:
        """An answer that is none of gRPC."""
        self.out.append(frame(HEADERS, END_HEADERS, number, self._prefix() + block))
        self._send(number, body, frame(DATA, END_STREAM, number))

    def begin(self, number: int) -> None:
        """An answer, of messages to be sent."""
        self.out.append(frame(HEADERS, END_HEADERS, number, self._prefix() + requests.BEGIN))

    def send(self, number: int, message: bytes) -> None:
        self._send(number, _prefixed(message), b"")

    def finish(self, number: int, trailers: bytes) -> None:
        """The end of an answer that was begun."""
        self._send(number, b"", frame(HEADERS, END_HEADERS | END_STREAM, number, self._prefix() + trailers))

    def forget_table(self) -> None:
        """The peer keeps a smaller table for us than we fill."""
        self._begins, self._ok = EMPTY_TABLE + requests.BEGIN, requests.OK

    def _prefix(self) -> bytes:
        """What the next header block must begin with."""
        if self._begins.startswith(EMPTY_TABLE):
            self._begins = requests.BEGIN
            return EMPTY_TABLE
        return b""

    # Flow control

    @property
    def waiting(self) -> int:
        """Streams of which something waits for a window, or may."""
        return len(self._held)

    @property
    def is_done(self) -> bool:
        """Nothing waits for a window."""
        return not any(held.data or held.tail for held in self._held.values())

    def waits(self, number: int) -> bool:
        """Whether something of a stream waits for a window."""
        held = self._held.get(number)
        return held is not None and bool(held.data or held.tail)

    def drop(self, number: int) -> None:
        self._held.pop(number, None)

    def set_initial(self, size: int) -> None:
        """The window of each stream, by the peer's settings."""
        change = size - self._initial
        self._initial = size
        self._most = min(size, MAX_FRAME)
        for held in self._held.values():
            held.window += change
        self._pump_all()

    def widen(self, size: int) -> None:
        self._window += size
        if self._window > MAX_WINDOW:
            raise ConnectionFault(frames.FLOW_CONTROL_ERROR, "the window of the connection is too large")
        self._pump_all()

    def widen_stream(self, number: int, size: int) -> bool:
        """Whether that is allowed."""
        held = self._of(number)
        held.window += size
        if held.window > MAX_WINDOW:
            return False
        self._pump(number, held)
        return True

    def _send(self, number: int, data: bytes, tail: bytes) -> None:
        held = self._of(number)
        held.data += data
        held.tail += tail
        self._pump(number, held)

    def _of(self, number: int) -> _Held:
        held = self._held.get(number)
        if held is None:
            held = self._held[number] = _Held(self._initial)
        return held

    def _pump_all(self) -> None:
        for number, held in list(self._held.items()):
            self._pump(number, held)

    def _pump(self, number: int, held: _Held) -> None:
        data, at = held.data, 0
        while at < len(data) and (room := min(held.window, self._window, MAX_FRAME)) > 0:
            piece = data[at : at + room]
            at += len(piece)
            held.window -= len(piece)
            self._window -= len(piece)
            self.out.append(frame(DATA, 0, number, piece))
        held.data = data[at:] if at else data
        if not held.data and held.tail:
            self.out.append(held.tail)
            del self._held[number]


def _prefixed(message: bytes) -> bytes:
    return b"\0%b%b" % (len(message).to_bytes(4, "big"), message)
