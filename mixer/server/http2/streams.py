"""Calls whose messages are not whole in one frame, or are several."""

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, NoReturn, cast

import grpc
from google.protobuf.message import Message
from grpc import aio

from mixer.server.answering import StatusError
from mixer.server.http2.frames import WINDOW
from mixer.server.http2.requests import TOO_LARGE, Request, Route, Serve, decompressed
from mixer.server.http2.turns import MESSAGE, TURN, Turns
from mixer.server.listening import MAX_MESSAGE

if TYPE_CHECKING:
    from mixer.server.http2.calls import Calls

_PREFIX = 5  # bytes before a message: whether it is compressed, and its size
STREAM_WINDOW = (
    MAX_MESSAGE + WINDOW
)  # bytes of a stream that wait to be read: the largest message, and some of the next

_CUT_OFF = StatusError(grpc.StatusCode.INTERNAL, "the call ended within a message")
_NO_MESSAGE = StatusError(grpc.StatusCode.INTERNAL, "the call ended without a message")
_SEVERAL = StatusError(grpc.StatusCode.INTERNAL, "the call has more than one message")
_LOST = StatusError(grpc.StatusCode.UNAVAILABLE, "the server is shutting down")


class Messages:
    """Splits what comes into messages. Raises `StatusError`."""

    def __init__(self, encoding: bytes) -> None:
        self._encoding = encoding
        self._buffer = bytearray()

    def __len__(self) -> int:
        """Bytes of a message that is not complete."""
        return len(self._buffer)

    def split(self, data: bytes) -> list[bytes]:
        buffer = self._buffer
        buffer += data
        found = []
        at = 0
        while len(buffer) - at >= _PREFIX:
            start = at + _PREFIX
            size = int.from_bytes(buffer[at + 1 : start], "big")
            if size > MAX_MESSAGE:
                raise TOO_LARGE
            if len(buffer) - start < size:
                break
            message = bytes(buffer[start : start + size])
            found.append(decompressed(self._encoding, message) if buffer[at] else message)
            at = start + size
        if at:
            del buffer[:at]
        return found


class Body:
    """The message of a unary call."""

    __slots__ = ("_message", "_messages", "request", "size")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.size = 0  # bytes so far
        self._messages = Messages(request.encoding)
        self._message: bytes | None = None

    def receive(self, data: bytes, is_end: bool) -> bytes | None:
        """The message, at the end of the call. Raises `StatusError`."""
        self.size += len(data)
        for message in self._messages.split(data):
            if self._message is not None:
                raise _SEVERAL
            self._message = message
        if not is_end:
            return None
        if self._messages:
            raise _CUT_OFF
        if self._message is None:
            raise _NO_MESSAGE
        return self._message


class Stream:
    """A call of several messages: what its handler reads from and writes to, as with a context of grpc.aio."""

    def __init__(self, calls: "Calls", number: int, request: Request, turns: Turns) -> None:
        self.number = number
        self.is_complete = False  # the client has sent all
        self.unread = 0  # bytes that the client was not told to send again
        self._calls = calls
        self._turns = turns
        self._serve_it = cast(Serve, cast(Route, request.route).serve)
        self._messages = Messages(request.encoding)
        self._read: deque[tuple[bytes, int]] = deque()
        self._error: StatusError | None = None
        self._arrived: asyncio.Future[None] | None = None
        self._is_begun = False  # the answer
        self._is_cancelled = False
        self._credit = 0
        self._granted = 0  # what messages may still count that are read in this turn
        self._task: asyncio.Task[None]

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._task = loop.create_task(self._serve())

    def cancel(self) -> None:
        """The client gave up."""
        self._is_cancelled = True
        self._task.cancel()

    def stop(self) -> "asyncio.Task[None]":
        """End it, and tell the client."""
        self._task.cancel()
        return self._task

    async def _serve(self) -> None:
        error: StatusError | None = None
        try:
            await self._serve_it(self)
        except StatusError as raised:
            error = raised
        except asyncio.CancelledError:
            error = _LOST
        if not self._is_cancelled:
            self._calls.finish(self.number, error, self._is_begun)

    def receive(self, data: bytes, is_end: bool) -> bool:
        """Take in what came; whether there was room for it."""
        self.unread += len(data)
        if self._error is not None:
            self._spend(len(data))
        else:
            before = len(self._messages)
            try:
                for message in self._messages.split(data):
                    self._read.append((message, 0))
                if is_end and self._messages:
                    raise _CUT_OFF
            except StatusError as error:
                self._error = error
            else:
                if self._read and (done := before + len(data) - len(self._messages)):
                    message, size = self._read.pop()
                    self._read.append((message, size + done))
        self.is_complete = is_end
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)
        return self.unread <= STREAM_WINDOW

    def _spend(self, size: int) -> None:
        """The client may send so much again."""
        self._credit += size
        if self._credit >= STREAM_WINDOW // 8:
            self._calls.credit(self.number, self._credit, self.is_complete)
            self.unread -= self._credit
            self._credit = 0

    # What a handler uses

    @property
    def is_ready(self) -> bool:
        """Whether the next message is here, and it is still this stream's turn: `read` answers it at once."""
        return self._granted > 0 and bool(self._read)

    async def read(self) -> Any:
        """The next message's bytes, or `grpc.aio.EOF`. Streams take turns (see `turns`)."""
        while not self._read:
            if self._error is not None:
                raise self._error
            if self.is_complete:
                return aio.EOF  # type: ignore[attr-defined]
            self._arrived = asyncio.get_running_loop().create_future()
            try:
                await self._arrived
            finally:
                self._arrived = None
        if self._granted <= 0:
            waiting = self._waiting()
            if not self._turns.take(waiting):
                await self._turns.wait(waiting)
            self._granted = waiting
        message, size = self._read.popleft()
        self._granted -= len(message) + MESSAGE
        if size:
            self._spend(size)
        return message

    def _waiting(self) -> int:
        """What the messages count that are read in one turn."""
        size = 0
        for message, _ in self._read:
            size += len(message) + MESSAGE
            if size >= TURN:
                break
        return size

    async def write(self, message: Message) -> None:
        if not self._is_begun:
            self._is_begun = True
            self._calls.begin_answer(self.number)
        self._calls.send(self.number, message.SerializeToString())

    async def abort(self, code: grpc.StatusCode, details: str = "") -> NoReturn:
        raise StatusError(code, details)
