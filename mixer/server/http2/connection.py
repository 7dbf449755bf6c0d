"""One HTTP/2 connection: frames in, answers out.

What comes in is bounded: of messages that are not complete a connection holds `MAX_PARTIAL` bytes, of streams that
their handler does not read `RECEIVE_WINDOW`; and nothing more is read from a peer that does not read its answers.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Protocol, cast

from mixer.server.http2 import calls, frames
from mixer.server.http2.alike import alike
from mixer.server.http2.backlog import TOGETHER, patience, reason_of
from mixer.server.http2.calls import MAX_STREAMS, RECEIVE_WINDOW, Calls
from mixer.server.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEAD,
    HEADERS,
    MAX_FRAME,
    MAX_WINDOW,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW,
    WINDOW_UPDATE,
    ConnectionFault,
    frame,
    read_head,
    unpadded,
)
from mixer.server.http2.header_blocks import MAX_LIST, TABLE_SIZE, Decoder, Field
from mixer.server.http2.requests import Request
from mixer.server.http2.streams import STREAM_WINDOW
from mixer.server.http2.writer import Writer

GREETING = 10.0  # seconds that a peer has to say that it speaks HTTP/2
STUCK = 60.0  # seconds without a byte read of the answers that wait
HOLD = 0.5  # seconds that answers wait for a peer that is to leave, which has to read the earlier ones first

_SETTINGS = frames.settings(
    {
        frames.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
        frames.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
        frames.MAX_HEADER_LIST_SIZE: MAX_LIST,
    }
) + frames.window_update(0, RECEIVE_WINDOW - WINDOW)
_SETTINGS_ACK = frame(SETTINGS, ACK, 0)
# Of the PING whose answer says that all before it has been read. Envoy resets what it begins between an answer and a
# GOAWAY that it reads at once: a Quota that follows a Check, say (1.40: the connection counts a protocol error).
_CLEAR = b"leaving\2"
_LEAVING = b"leaving\0"  # of the PING whose answer says that GOAWAY has been read
_LEAVE = frames.goaway(MAX_WINDOW, frames.NO_ERROR) + frame(PING, 0, 0, _LEAVING)
# What the peer had begun by then may follow that answer, which Envoy writes first; it is here before the next one.
_LAST = b"leaving\1"


class Owner(calls.Owner, Protocol):
    """What connections share."""

    read_request: Callable[[list[Field]], Request]

    def opened(self, connection: "Connection") -> None: ...

    def closed(self, connection: "Connection") -> None: ...

    def left(self) -> None:
        """A peer begins nothing new any more, as it was asked to."""


class Connection(asyncio.Protocol):
    """See the module."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._decoder = Decoder(owner.read_request)
        self._transport: asyncio.Transport
        self._rest = b""  # of a frame that is not complete
        self._greeted = False
        self._is_connected = False  # the peer has read our settings
        self._is_closing = False
        self._is_leaving = False
        self._has_left = False  # the peer has read that it is to begin nothing new here
        self._held: list[bytes] | None = None  # answers that are to follow GOAWAY
        self._hold: asyncio.TimerHandle | None = None
        self._guard: asyncio.TimerHandle | None = None  # of the greeting; of a peer that does not read
        self._continued: tuple[int, int, bytearray] | None = None  # stream, flags, and block so far
        self._backlog = owner.backlog
        self._writer = Writer(self._write, owner.loop)
        self.calls = Calls(owner, self._writer)

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if (sock := transport.get_extra_info("socket")) is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # who vanished is noticed
        self._guard = self._owner.loop.call_later(GREETING, self._transport.abort)
        self._transport.write(_SETTINGS)
        self._owner.opened(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._is_closing = True
        for timer in (self._guard, self._hold):
            if timer is not None:
                timer.cancel()
        self.calls.give_up_all()
        self._backlog.forget(self.calls)
        self._rest = b""
        self._owner.closed(self)

    def pause_writing(self) -> None:
        self._backlog.hold(self.calls)
        self._transport.pause_reading()
        self._guard = self._owner.loop.call_later(STUCK, self._transport.abort)

    def resume_writing(self) -> None:
        if self._guard is not None:
            self._guard.cancel()
        self._backlog.release(self.calls)
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self._is_closing:
            return
        if self._rest:
            data = self._rest + data
        try:
            if not self._greeted:
                if len(data) < len(PREFACE) + HEAD and PREFACE.startswith(data[: len(PREFACE)]):
                    self._rest = data
                    return
                data = self._greet(data)
            used = self._take(data)
        except ConnectionFault as fault:
            self._end(fault.code, str(fault))
            return
        self._rest = data[used:] if used else data
        if self.calls.complete:
            self._backlog.begin(self.calls)
        if self._backlog.is_behind:
            self._backlog.write(self.calls)
        else:
            self._writer.flush()

    def _greet(self, data: bytes) -> bytes:
        if not data.startswith(PREFACE) or data[len(PREFACE) + 3] != SETTINGS:
            raise ConnectionFault(
                frames.PROTOCOL_ERROR, "expected HTTP/2 without an upgrade (prior knowledge)"
            )
        self._greeted = True
        if self._guard is not None:
            self._guard.cancel()
        return data[len(PREFACE) :]

    # Frames in

    def _take(self, data: bytes) -> int:
        """Take in whole frames; answers how many bytes those have. Raises `ConnectionFault`."""
        at, size = 0, len(data)
        calls, known = self.calls, self._decoder.known
        asked = calls.open.get
        backlog = self._backlog
        refused_below = backlog.refused_below(calls) if backlog.is_behind else 0.0
        while size - at >= HEAD:
            high, low, kind, flags, number = read_head(data, at)
            length = high << 8 | low
            if length > MAX_FRAME:
                raise ConnectionFault(frames.FRAME_SIZE_ERROR, f"a frame of more than {MAX_FRAME} bytes")
            number &= MAX_WINDOW
            start = at + HEAD
            end = start + length
            if end > size:
                break
            at = end
            if kind == DATA and flags == END_STREAM:  # a whole message, as most are
                request = asked(number)
                if (
                    type(request) is Request
                    and request.route is not None
                    and length > 4
                    and not data[start]
                    and int.from_bytes(data[start + 1 : start + 5], "big") == length - 5
                ):
                    calls.used += length
                    calls.add(number, request, data[start + 5 : end])
                else:
                    self._data(number, flags, data[start:end])
            elif kind == HEADERS and flags == END_HEADERS and self._continued is None and number > calls.last:
                if refused_below:
                    if (past := self._refuse(data, start - HEAD, refused_below)) >= end:
                        at = past
                        continue
                    refused_below = 0.0  # until more wait
                block = data[start:end]
                request = known(block)
                if request is None:
                    request = self._decoder.read(block)
                calls.ask(number, request)
            else:
                self._other(kind, flags, number, data[start:end])
            if calls.complete >= TOGETHER:
                backlog.begin(calls)
                refused_below = backlog.refused_below(calls) if backlog.is_behind else 0.0
        calls.give_room()
        return at

    def _refuse(self, data: bytes, at: int, below: float) -> int:
        """Refuse the calls that lie there, if the first is to be refused, and as far as they are alike; answers where
        that ends. A peer that sends too much must not stop the others by what its refusals cost."""
        high, low = read_head(data, at)[:2]
        start = at + HEAD
        block = data[start : start + (high << 8 | low)]
        request = self._decoder.known(block)
        if request is None or (route := request.route) is None or route.shed is None:
            return at
        calls = self.calls
        if patience(request.timeout) >= below:
            return at
        streams, end = alike(data, at, block, calls.last)
        if streams:
            calls.used += end - at - len(streams) * (2 * HEAD + len(block))
            calls.refuse_unread(route, streams, reason_of(below))
        return end

    def _other(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if self._continued is not None and kind != CONTINUATION:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "a header block was not continued")
        if kind in _OF_STREAMS and not number:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "a frame of a stream without one")
        if kind in _OF_CONNECTION and number:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "a frame of the connection on a stream")
        if (size := _SIZES.get(kind)) is not None and len(payload) != size:
            raise ConnectionFault(
                frames.FRAME_SIZE_ERROR, f"a frame of type {kind} with another size than {size}"
            )
        if (take := _TAKE.get(kind)) is not None:
            take(self, number, flags, payload)

    def _continuation(self, number: int, flags: int, payload: bytes) -> None:
        if self._continued is None or self._continued[0] != number:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "a header block is continued that was not begun")
        _, first, block = self._continued
        block += payload
        self._header_block(number, first | flags, block)

    def _ping(self, number: int, flags: int, payload: bytes) -> None:
        if not flags & ACK:
            self._writer.out.append(frame(PING, ACK, number, payload))
        elif payload == _CLEAR and self._is_leaving:
            self._tell_to_leave()
        elif payload == _LEAVING and self._is_leaving:
            self._writer.out.append(frame(PING, 0, 0, _LAST))
        elif payload == _LAST and self._is_leaving:
            self._has_left = True
            self._owner.left()

    def _rst_stream(self, number: int, flags: int, payload: bytes) -> None:
        if self.calls.is_idle(number):
            raise ConnectionFault(frames.PROTOCOL_ERROR, "a stream is reset that was not begun")
        self.calls.give_up(number)

    def _push_promise(self, number: int, flags: int, payload: bytes) -> None:
        raise ConnectionFault(frames.PROTOCOL_ERROR, "a client cannot push")

    def _data(self, number: int, flags: int, payload: bytes) -> None:
        data = unpadded(flags & ~frames.HAS_PRIORITY, payload)
        self.calls.receive(number, data, len(payload), bool(flags & END_STREAM))

    def _headers(self, number: int, flags: int, payload: bytes) -> None:
        self._header_block(number, flags, bytearray(unpadded(flags, payload)))

    def _header_block(self, number: int, flags: int, block: bytearray) -> None:
        if not flags & END_HEADERS:
            if len(block) > MAX_LIST:
                raise ConnectionFault(frames.ENHANCE_YOUR_CALM, f"headers of more than {MAX_LIST} bytes")
            self._continued = (number, flags, block)
            return
        self._continued = None
        request = self._decoder.read(bytes(block))
        calls = self.calls
        if number > calls.last:
            calls.ask(number, request)
        elif not calls.is_receiving(number):
            raise ConnectionFault(frames.STREAM_CLOSED, "headers on a stream that has ended")
        elif not flags & END_STREAM:
            calls.reset(number, frames.PROTOCOL_ERROR)  # trailers end a stream
            return
        if flags & END_STREAM and calls.is_receiving(number):
            calls.end(number)

    def _settings(self, number: int, flags: int, payload: bytes) -> None:
        if flags & ACK:
            if payload:
                raise ConnectionFault(frames.FRAME_SIZE_ERROR, "an acknowledgement of settings with some")
            if not self._is_connected and self._is_leaving:
                self._clear_the_way()
            self._is_connected = True
            return
        self._writer.out.append(_SETTINGS_ACK)  # and then what waited for wider windows
        for key, value in frames.read_settings(payload):
            if key == frames.HEADER_TABLE_SIZE and value < TABLE_SIZE:
                self._writer.forget_table()
            elif key == frames.ENABLE_PUSH and value > 1:
                raise ConnectionFault(frames.PROTOCOL_ERROR, "SETTINGS_ENABLE_PUSH is neither 0 nor 1")
            elif key == frames.INITIAL_WINDOW_SIZE:
                if value > MAX_WINDOW:
                    raise ConnectionFault(
                        frames.FLOW_CONTROL_ERROR, "SETTINGS_INITIAL_WINDOW_SIZE is too large"
                    )
                self._writer.set_initial(value)
            elif key == frames.MAX_FRAME_SIZE and not MAX_FRAME <= value < 1 << 24:
                raise ConnectionFault(frames.PROTOCOL_ERROR, "SETTINGS_MAX_FRAME_SIZE is out of its bounds")

    def _window_update(self, number: int, flags: int, payload: bytes) -> None:
        size = int.from_bytes(payload, "big") & MAX_WINDOW
        if not number:
            if not size:
                raise ConnectionFault(frames.PROTOCOL_ERROR, "a window is updated by nothing")
            self._writer.widen(size)
        elif number in self.calls.open or self._writer.waits(number):
            if not size:
                self.calls.reset(number, frames.PROTOCOL_ERROR)
            elif not self._writer.widen_stream(number, size):
                self.calls.reset(number, frames.FLOW_CONTROL_ERROR)
        elif self.calls.is_idle(number):
            raise ConnectionFault(frames.PROTOCOL_ERROR, "a window of a stream that was not begun")

    # Out

    def _write(self, data: bytes) -> None:
        if self._held is not None:
            self._held.append(data)
        elif not self._is_closing:
            self._transport.write(data)

    def _end(self, code: int, text: str) -> None:
        """Say why, after what was to be written, and close."""
        self._tell_to_leave()
        self._writer.out.append(frames.goaway(self.calls.last, code, text))
        self._writer.flush()
        self._is_closing = True
        self._transport.close()

    def leave(self) -> None:
        """Ask the peer to begin nothing new here, while all that it sends before it hears of that is answered (RFC
        9113, section 6.8: what a client begins as the connection closes would be lost)."""
        if not self._is_leaving:
            self._is_leaving = True
            # grpc's clients wait a second and more before they connect anew, if they hear it while they connect.
            if self._is_connected:
                self._clear_the_way()

    def _clear_the_way(self) -> None:
        """Nothing is to be written between here and GOAWAY, which is to be the first that the peer reads then."""
        self._writer.out.append(frame(PING, 0, 0, _CLEAR))
        self._writer.flush()
        self._held = []
        self._hold = self._owner.loop.call_later(HOLD, self._tell_to_leave)

    def _tell_to_leave(self) -> None:
        if (held := self._held) is not None:
            self._held = None
            self._write(b"".join((_LEAVE, *held)))

    @property
    def is_over(self) -> bool:
        """Nothing is open, and the peer begins nothing new."""
        return self._has_left and self.is_idle

    @property
    def is_idle(self) -> bool:
        """Nothing is open, and every answer is written."""
        return not self.calls.open and self._writer.is_done and self._held is None

    def close(self) -> None:
        """Say goodbye; what was written still goes out."""
        if not self._is_closing:
            self._end(frames.NO_ERROR, "")

    def abort(self) -> None:
        self._transport.abort()


_OF_STREAMS = frozenset((DATA, HEADERS, PRIORITY, RST_STREAM, PUSH_PROMISE, CONTINUATION))
_OF_CONNECTION = frozenset((SETTINGS, PING, GOAWAY))
_SIZES = {PRIORITY: 5, RST_STREAM: 4, PING: 8, WINDOW_UPDATE: 4}
_TAKE: dict[int, Callable[[Connection, int, int, bytes], None]] = {
    DATA: Connection._data,
    HEADERS: Connection._headers,
    RST_STREAM: Connection._rst_stream,
    SETTINGS: Connection._settings,
    PUSH_PROMISE: Connection._push_promise,
    PING: Connection._ping,
    WINDOW_UPDATE: Connection._window_update,
    CONTINUATION: Connection._continuation,
}
