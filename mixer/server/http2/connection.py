"""One HTTP/2 connection: frames in, calls begun, answers out.

What comes in is bounded: of messages that are not complete a connection holds `MAX_PARTIAL` bytes, of streams that
their handler does not read `RECEIVE_WINDOW`; and nothing more is read from a peer that does not read its answers.
"""

import asyncio
from collections import OrderedDict
from functools import partial
from typing import Any, Protocol, cast

import grpc

from mixer.server.front import Pending
from mixer.server.handlers import Received, StatusError
from mixer.server.http2 import frames, requests
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
from mixer.server.http2.header_blocks import EMPTY_TABLE, MAX_LIST, NEWEST, SECOND, STATUS_200, TABLE_SIZE, Decoder
from mixer.server.http2.outgoing import Outgoing
from mixer.server.http2.requests import MALFORMED, Request, Route
from mixer.server.http2.streams import Body, Stream
from mixer.server.listening import MAX_MESSAGE

MAX_STREAMS = 1024  # calls of a connection that are open at once
RECEIVE_WINDOW = 16 * 1024 * 1024  # bytes that a peer may send before what came is used
STREAM_WINDOW = MAX_MESSAGE + WINDOW  # the same of one stream: the largest message, and some of the next
MAX_PARTIAL = 16 * 1024 * 1024  # bytes of unary messages that are not complete
GREETING = 10.0  # seconds that a peer has to say that it speaks HTTP/2
STUCK = 60.0  # seconds without a byte read of the answers that wait

_TOGETHER = 16  # calls begun at once; more make a call hardly cheaper, and the first wait longer for their answer
_TURN = 64  # calls begun before others have the loop: 6 ms at 100 µs each
_MAX_EARLY = 1024  # streams ended before the peer had sent all, that are remembered

_SETTINGS = frames.settings(
    {
        frames.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
        frames.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
        frames.MAX_HEADER_LIST_SIZE: MAX_LIST,
    }
) + frames.window_update(0, RECEIVE_WINDOW - WINDOW)
_SETTINGS_ACK = frame(SETTINGS, ACK, 0)

_STOPPING = StatusError(grpc.StatusCode.UNAVAILABLE, "the server is shutting down")
_LATE = StatusError(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline of the call passed before its answer")
_BUSY = StatusError(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many bytes of messages that are not complete")

Waiting = Pending[bytes] | asyncio.Task[Any]


class Owner(Protocol):
    """What connections share."""

    loop: asyncio.AbstractEventLoop
    is_stopping: bool  # calls are refused
    read_request: Any  # fields to `Request`

    def opened(self, connection: "Connection") -> None: ...

    def closed(self, connection: "Connection") -> None: ...

    def ended(self) -> None:
        """A call that was waited for has an end."""

    def wake_at(self, end: float) -> None:
        """Call `Connection.expire` then, by the loop's clock."""


class Connection(asyncio.Protocol):
    """See the module."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._decoder = Decoder(owner.read_request)
        self._transport: asyncio.Transport
        self._rest = b""  # of a frame that is not complete, or of what others have the loop for
        self._greeted = False
        self._is_closing = False
        self._is_paused = False  # the peer does not read
        self._has_turn = True  # False: what is in `_rest` waits for the next turn of the loop
        self._guard: asyncio.TimerHandle | None = None  # of the greeting; of a peer that does not read
        # Calls: asked for and not complete (`Request`, `Body`), or begun and waited for (`Waiting`, `Stream`).
        self._streams: dict[int, Request | Body | Stream | Waiting | None] = {}
        self._ends: dict[int, float] = {}  # of calls that are waited for
        self._early: OrderedDict[int, None] = OrderedDict()
        self._last = 0
        self._continued: tuple[int, int, bytearray] | None = None
        self._calls: dict[Route, tuple[list[int], list[Received]]] = {}
        self._waiting = 0  # of those
        self._partial = 0
        self._used = 0  # bytes that the peer is to be told it may send again
        self._held = 0  # bytes of streams that nobody has read yet
        self._out: list[bytes] = []
        self._flush_is_due = False
        self._outgoing = Outgoing(self._out)
        self._begins, self._ok = requests.BEGIN_ADDED, requests.OK_ADDED

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._owner.opened(self)
        self._guard = self._owner.loop.call_later(GREETING, self._transport.abort)
        self._transport.write(_SETTINGS)

    def connection_lost(self, error: Exception | None) -> None:
        self._is_closing = True
        if self._guard is not None:
            self._guard.cancel()
        for number in list(self._streams):
            self._give_up(number)
        self._rest = b""
        self._owner.closed(self)

    def pause_writing(self) -> None:
        self._is_paused = True
        self._transport.pause_reading()
        self._guard = self._owner.loop.call_later(STUCK, self._transport.abort)

    def resume_writing(self) -> None:
        self._is_paused = False
        if self._guard is not None:
            self._guard.cancel()
        if self._has_turn:
            self._go_on()

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
            self._begin()
            self._end(fault.code, str(fault))
            return
        self._rest = data[used:] if used else data
        self._begin()
        self._flush()

    def _greet(self, data: bytes) -> bytes:
        if not data.startswith(PREFACE) or data[len(PREFACE) + 3] != SETTINGS:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "expected HTTP/2 without an upgrade (prior knowledge)")
        self._greeted = True
        if self._guard is not None:
            self._guard.cancel()
        return data[len(PREFACE) :]

    # Frames in

    def _take(self, data: bytes) -> int:
        """Take in whole frames; answers how many bytes those have. Raises `ConnectionFault`."""
        at, size = 0, len(data)
        streams, known = self._streams, self._decoder.known
        begun = 0
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
                request = streams.get(number)
                if (
                    type(request) is Request
                    and length > 4
                    and not data[start]
                    and int.from_bytes(data[start + 1 : start + 5], "big") == length - 5
                ):
                    self._used += length
                    self._add_call(number, request, data[start + 5 : end])
                else:
                    self._data(number, flags, data[start:end])
            elif kind == HEADERS and flags == END_HEADERS and self._continued is None and number > self._last:
                block = data[start:end]
                request = known(block)
                if request is None:
                    request = self._decoder.read(block)
                self._ask(number, request)
            else:
                self._other(kind, flags, number, data[start:end])
            if self._waiting >= _TOGETHER:
                begun += self._begin()
                if begun >= _TURN and size - at >= HEAD:
                    self._pause_for_others()
                    break
        if self._used >= RECEIVE_WINDOW // 4:
            self._give_room()
        return at

    def _give_room(self) -> None:
        """The peer may send again as much as was used."""
        if self._used + self._held > RECEIVE_WINDOW:
            raise ConnectionFault(frames.FLOW_CONTROL_ERROR, "more data than the window had room for")
        self._out.append(frames.window_update(0, self._used))
        self._used = 0

    def _pause_for_others(self) -> None:
        self._has_turn = False
        self._transport.pause_reading()
        self._owner.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._has_turn = True
        if self._is_closing or self._is_paused:
            return
        self.data_received(b"")
        if self._has_turn and not self._is_paused and not self._transport.is_closing():
            self._transport.resume_reading()

    def _other(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if self._continued is not None and kind != CONTINUATION:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "a header block was not continued")
        if kind in _OF_STREAMS and not number:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "a frame of a stream without one")
        if kind in _OF_CONNECTION and number:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "a frame of the connection on a stream")
        if (size := _SIZES.get(kind)) is not None and len(payload) != size:
            raise ConnectionFault(frames.FRAME_SIZE_ERROR, f"a frame of type {kind} with another size than {size}")
        if kind == DATA:
            self._data(number, flags, payload)
        elif kind == HEADERS:
            self._headers(number, flags, bytearray(unpadded(flags, payload)))
        elif kind == CONTINUATION:
            if self._continued is None or self._continued[0] != number:
                raise ConnectionFault(frames.PROTOCOL_ERROR, "a header block is continued that was not begun")
            _, first, block = self._continued
            block += payload
            self._headers(number, first | flags, block)
        elif kind == SETTINGS:
            self._settings(flags, payload)
        elif kind == WINDOW_UPDATE:
            self._window_update(number, int.from_bytes(payload, "big") & MAX_WINDOW)
        elif kind == PING:
            if not flags & ACK:
                self._out.append(frame(PING, ACK, 0, payload))
        elif kind == RST_STREAM:
            if self._is_idle(number):
                raise ConnectionFault(frames.PROTOCOL_ERROR, "a stream is reset that was not begun")
            self._early.pop(number, None)
            self._give_up(number)
        elif kind == PUSH_PROMISE:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "a client cannot push")

    def _headers(self, number: int, flags: int, block: bytearray) -> None:
        if not flags & END_HEADERS:
            if len(block) > MAX_LIST:
                raise ConnectionFault(frames.ENHANCE_YOUR_CALM, f"headers of more than {MAX_LIST} bytes")
            self._continued = (number, flags, block)
            return
        self._continued = None
        request = self._decoder.read(bytes(block))
        if number > self._last:
            self._ask(number, request)
        elif number in self._early:
            pass
        elif type(target := self._streams.get(number)) in (Request, Body, Stream):
            if not flags & END_STREAM:  # trailers
                self._reset(number, frames.PROTOCOL_ERROR)
                return
        else:
            raise ConnectionFault(frames.STREAM_CLOSED, "headers on a stream that has ended")
        if flags & END_STREAM:
            self._early.pop(number, None)
            target = self._streams.get(number)
            if target is not None:
                self._received(number, target, b"", True)

    def _ask(self, number: int, request: Request) -> None:
        """A new stream."""
        if not number & 1:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "a client's streams have odd numbers")
        self._last = number
        if len(self._streams) >= MAX_STREAMS:
            self._reset(number, frames.REFUSED_STREAM)
        elif (route := request.route) is None:
            if request is MALFORMED:
                self._reset(number, frames.PROTOCOL_ERROR)
            else:
                self._streams[number] = request
                self._refuse(number, request.refusal)
        elif route.serve is None:
            self._streams[number] = request
        else:
            self._streams[number] = stream = Stream(self, number, request)
            stream.start(self._owner.loop)

    def _add_call(self, number: int, request: Request, message: bytes) -> None:
        """A unary call is complete."""
        route = cast(Route, request.route)
        self._streams[number] = None
        if (calls := self._calls.get(route)) is None:
            self._calls[route] = calls = ([], [])
        calls[0].append(number)
        calls[1].append((message, request.timeout))
        self._waiting += 1

    def _data(self, number: int, flags: int, payload: bytes) -> None:
        target = self._streams.get(number)
        if not isinstance(target, Request | Body | Stream):
            if self._is_idle(number):
                raise ConnectionFault(frames.PROTOCOL_ERROR, "data on a stream that was not begun")
            if number not in self._early:
                raise ConnectionFault(frames.STREAM_CLOSED, "data on a stream that has ended")
            self._used += len(payload)
            if flags & END_STREAM:
                del self._early[number]
            return
        data = unpadded(flags & ~frames.HAS_PRIORITY, payload)
        self._used += len(payload)
        self._received(number, target, data, bool(flags & END_STREAM))

    def _received(self, number: int, target: Any, data: bytes, is_end: bool) -> None:
        """Of a call that is not complete."""
        if isinstance(target, Stream):
            self._used -= len(data)  # until it is read
            self._held += len(data)
            if self._held > RECEIVE_WINDOW or not target.receive(data, is_end):
                raise ConnectionFault(frames.FLOW_CONTROL_ERROR, "more data than the window had room for")
            return
        if isinstance(target, Request):
            self._streams[number] = target = Body(target)
        self._partial += len(data)
        try:
            message = target.receive(data, is_end)
            if message is None and self._partial > MAX_PARTIAL:
                raise _BUSY
        except StatusError as error:
            self._partial -= target.size
            if is_end:
                self._streams[number] = None
            self.fail(number, error)
            return
        if message is not None:
            self._partial -= target.size
            self._add_call(number, target.request, message)

    def _settings(self, flags: int, payload: bytes) -> None:
        if flags & ACK:
            if payload:
                raise ConnectionFault(frames.FRAME_SIZE_ERROR, "an acknowledgement of settings with some")
            return
        for key, value in frames.read_settings(payload):
            if key == frames.HEADER_TABLE_SIZE and value < TABLE_SIZE:
                self._begins, self._ok = EMPTY_TABLE + requests.BEGIN, requests.OK
            elif key == frames.ENABLE_PUSH and value > 1:
                raise ConnectionFault(frames.PROTOCOL_ERROR, "SETTINGS_ENABLE_PUSH is neither 0 nor 1")
            elif key == frames.INITIAL_WINDOW_SIZE:
                if value > MAX_WINDOW:
                    raise ConnectionFault(frames.FLOW_CONTROL_ERROR, "SETTINGS_INITIAL_WINDOW_SIZE is too large")
                self._outgoing.set_initial(value)
            elif key == frames.MAX_FRAME_SIZE and not MAX_FRAME <= value < 1 << 24:
                raise ConnectionFault(frames.PROTOCOL_ERROR, "SETTINGS_MAX_FRAME_SIZE is out of its bounds")
        self._out.append(_SETTINGS_ACK)

    def _window_update(self, number: int, size: int) -> None:
        if not number:
            if not size:
                raise ConnectionFault(frames.PROTOCOL_ERROR, "a window is updated by nothing")
            self._outgoing.widen(size)
        elif number in self._streams or number in self._outgoing:
            if not size:
                self._reset(number, frames.PROTOCOL_ERROR)
            elif not self._outgoing.widen_stream(number, size):
                self._reset(number, frames.FLOW_CONTROL_ERROR)
        elif self._is_idle(number):
            raise ConnectionFault(frames.PROTOCOL_ERROR, "a window of a stream that was not begun")

    def _is_idle(self, number: int) -> bool:
        return number > self._last or not number & 1

    # Calls

    def _begin(self) -> int:
        """Begin the calls that are complete; answers how many."""
        if not (count := self._waiting):
            return 0
        calls, self._calls, self._waiting = self._calls, {}, 0
        for route, (numbers, received) in calls.items():
            if self._owner.is_stopping:
                for number in numbers:
                    self.fail(number, _STOPPING)
                continue
            begin = route.begin
            assert begin is not None
            streams = self._streams
            for number, (_, timeout), answer in zip(numbers, received, begin(received), strict=True):
                if streams.pop(number, self) is self:
                    self._begun_in_vain(answer)
                elif type(answer) is bytes:
                    self._respond(number, answer)
                elif isinstance(answer, StatusError):
                    self.fail(number, answer)
                else:
                    self._wait(number, cast(Any, answer), timeout)
        return count

    def _begun_in_vain(self, answer: Any) -> None:
        """The client gave the call up in the same breath."""
        if isinstance(answer, Pending):
            answer.then(lambda _: None)
            answer.cancel()
        elif not isinstance(answer, bytes | StatusError):
            self._owner.loop.create_task(answer).cancel()

    def _wait(self, number: int, answer: Any, timeout: float | None) -> None:
        if timeout is not None:
            loop = self._owner.loop
            self._ends[number] = end = loop.time() + timeout
            self._owner.wake_at(end)
        if isinstance(answer, Pending):
            self._streams[number] = answer
            answer.then(partial(self._done, number))
        else:
            self._streams[number] = self._owner.loop.create_task(self._await(number, answer))

    async def _await(self, number: int, answer: Any) -> None:
        result: bytes | BaseException
        try:
            result = await answer
        except (StatusError, asyncio.CancelledError) as error:
            result = error
        self._done(number, result)

    def _done(self, number: int, result: bytes | BaseException) -> None:
        """A call that was waited for has an end."""
        self._ends.pop(number, None)
        self._owner.ended()
        if self._is_closing or number not in self._streams:
            return  # nobody is there to hear it
        if isinstance(result, bytes):
            del self._streams[number]
            self._respond(number, result)
        else:
            self.fail(number, result if isinstance(result, StatusError) else _STOPPING)
        self.flush_soon()

    def fail(self, number: int, error: StatusError) -> None:
        """End a call with a status."""
        self._refuse(number, requests.failed(error.code, error.details))

    def _refuse(self, number: int, block: bytes) -> None:
        """End a call by a header block alone."""
        self._out.append(frame(HEADERS, END_HEADERS | END_STREAM, number, self._prefix() + block))
        self._leave(number)

    def _leave(self, number: int) -> None:
        """Its answer is out. What the peer still sends is of no use."""
        target = self._streams.pop(number, None)
        waits = self._outgoing.waits(number)
        if not waits:
            self._outgoing.drop(number)
        if isinstance(target, Stream):
            self._held -= target.unread
            self._used += target.unread
        if isinstance(target, Request | Body) or (isinstance(target, Stream) and not target.is_complete):
            self._forget(number)
            if not waits:
                self._out.append(frames.rst_stream(number, frames.NO_ERROR))

    def _forget(self, number: int) -> None:
        """The peer may send more on this stream before it hears that it has ended."""
        if len(self._early) >= _MAX_EARLY:
            self._early.popitem(last=False)
        self._early[number] = None

    def _reset(self, number: int, code: int) -> None:
        self._give_up(number)
        self._forget(number)
        self._out.append(frames.rst_stream(number, code))

    def _give_up(self, number: int) -> None:
        """Nobody wants the answer any more."""
        target = self._streams.pop(number, None)
        self._outgoing.drop(number)
        if isinstance(target, Body):
            self._partial -= target.size
        elif isinstance(target, Stream):
            self._held -= target.unread
            self._used += target.unread
            target.cancel()
        elif target is not None and not isinstance(target, Request):
            target.cancel()

    def expire(self, now: float) -> float | None:
        """End the calls whose time is over; answers when that of the next one is."""
        left = None
        for number, end in list(self._ends.items()):
            if end <= now:
                del self._ends[number]
                target = self._streams.get(number)
                if target is not None:
                    self.fail(number, _LATE)
                    cast(Waiting, target).cancel()
            elif left is None or end < left:
                left = end
        self._flush()
        return left

    # Streams

    def credit(self, number: int, size: int, is_complete: bool) -> None:
        """So many bytes of a stream have been read. `is_complete`: no more will come."""
        self._held -= size
        self._used += size
        if not is_complete:
            self._out.append(frames.window_update(number, size))
        if self._used >= RECEIVE_WINDOW // 4:
            self._give_room()
        self.flush_soon()

    def begin_answer(self, number: int) -> None:
        """Of several messages."""
        block = self._prefix() + requests.BEGIN
        self._out.append(frame(HEADERS, END_HEADERS, number, block))

    def send(self, number: int, message: bytes) -> None:
        self._outgoing.send(number, _prefixed(message), b"")
        self.flush_soon()

    def finish(self, number: int, error: StatusError | None, is_begun: bool) -> None:
        """End the answer of a stream. Without `error` it has one message, if none was sent before."""
        if number not in self._streams:
            return
        if error is None and not is_begun:
            self._respond(number, b"")
            self._leave(number)
        elif not is_begun:
            self.fail(number, cast(StatusError, error))
        else:
            trailers = requests.OK if error is None else requests.ended(error.code, error.details)
            tail = frame(HEADERS, END_HEADERS | END_STREAM, number, self._prefix() + trailers)
            self._outgoing.send(number, b"", tail)
            self._leave(number)
        self.flush_soon()

    # Frames out

    def _prefix(self) -> bytes:
        """What the next header block must begin with: the peer has a table for us that is not ours."""
        if self._begins.startswith(EMPTY_TABLE):
            self._begins = requests.BEGIN
            return EMPTY_TABLE
        return b""

    def _respond(self, number: int, message: bytes) -> None:
        """The answer of a unary call."""
        size = len(message) + 5
        if not self._outgoing.take(number, size):
            self._out.append(frame(HEADERS, END_HEADERS, number, self._prefix() + requests.BEGIN))
            tail = frame(HEADERS, END_HEADERS | END_STREAM, number, requests.OK)
            self._outgoing.send(number, _prefixed(message), tail)
            return
        stream = number.to_bytes(4, "big")
        begins, ok = self._begins, self._ok
        self._out.append(
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

    def flush_soon(self) -> None:
        if not self._flush_is_due:
            self._flush_is_due = True
            self._owner.loop.call_soon(self._flush_due)

    def _flush_due(self) -> None:
        self._flush_is_due = False
        self._flush()

    def _flush(self) -> None:
        out = self._out
        if out:
            if not self._is_closing:
                self._transport.write(out[0] if len(out) == 1 else b"".join(out))
            out.clear()

    def _end(self, code: int, text: str) -> None:
        """End the connection for a fault of the peer's."""
        self._out.append(frames.goaway(self._last, code, text))
        self._flush()
        self._is_closing = True
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def close(self) -> None:
        """Say goodbye; what was written still goes out."""
        if not self._is_closing:
            self._end(frames.NO_ERROR, "")

    @property
    def peer(self) -> Any:
        return self._transport.get_extra_info("peername")

    @property
    def is_idle(self) -> bool:
        return not self._streams

    def waited_for(self) -> list[Waiting]:
        return [each for each in self._streams.values() if isinstance(each, Pending | asyncio.Task)]

    def open_streams(self) -> list[Stream]:
        return [each for each in self._streams.values() if isinstance(each, Stream)]


_OF_STREAMS = frozenset((DATA, HEADERS, PRIORITY, RST_STREAM, PUSH_PROMISE, CONTINUATION))
_OF_CONNECTION = frozenset((SETTINGS, PING, GOAWAY))
_SIZES = {PRIORITY: 5, RST_STREAM: 4, PING: 8, WINDOW_UPDATE: 4}
_BEGIN_KNOWN = STATUS_200 + SECOND  # content-type came before grpc-status


def _prefixed(message: bytes) -> bytes:
    return b"\0%b%b" % (len(message).to_bytes(4, "big"), message)
