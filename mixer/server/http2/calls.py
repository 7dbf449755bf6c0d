"""The calls of one connection, from their headers to their end."""

import asyncio
from collections import OrderedDict
from functools import partial
from typing import Any, Protocol, cast

import grpc

from mixer.server.answering import Begin, Received, StatusError
from mixer.server.front import Pending
from mixer.server.http2 import frames, requests
from mixer.server.http2.backlog import Backlog, Complete, Queue
from mixer.server.http2.frames import WINDOW, ConnectionFault
from mixer.server.http2.requests import MALFORMED, Request, Route, Shed
from mixer.server.http2.streams import Body, Stream
from mixer.server.http2.turns import Turns
from mixer.server.http2.writer import Writer
from mixer.tracing.tracer import Span, Tracer

MAX_STREAMS = 1024  # calls of a connection that are open at once
RECEIVE_WINDOW = 16 * 1024 * 1024  # bytes that a peer may send before what came is used
MAX_PARTIAL = 16 * 1024 * 1024  # bytes of unary messages that are not complete

_CANCELLED: int = grpc.StatusCode.CANCELLED.value[0]
_MAX_EARLY = 1024  # streams ended before the peer had sent all, that are remembered

_STOPPING = StatusError(grpc.StatusCode.UNAVAILABLE, "the server is shutting down")
_LATE = StatusError(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline of the call passed before its answer")
_BUSY = StatusError(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many bytes of messages that are not complete")

Waiting = Pending[bytes] | asyncio.Task[Any]


class Owner(Protocol):
    """What the connections of a front share."""

    loop: asyncio.AbstractEventLoop
    backlog: Backlog
    is_stopping: bool  # calls are refused
    tracer: Tracer | None
    turns: Turns

    def ended(self) -> None:
        """A call that was waited for has an end."""

    def wake_at(self, end: float) -> None:
        """Call `expire` then, by the loop's clock."""


class Calls:
    """See the module. `open`: calls that are not complete (`Request`, `Body`), that are begun and waited for
    (`Waiting`), both (`Stream`), or complete and not begun (None); by the number of their stream."""

    def __init__(self, owner: Owner, writer: Writer) -> None:
        self.open: dict[int, Request | Body | Stream | Waiting | None] = {}
        self.complete = 0  # calls that are not begun yet
        self.used = 0  # bytes that the peer is to be told it may send again
        self.last = 0  # stream that the peer began
        self.queue = Queue()  # of complete calls that wait for their turn
        self.flush = writer.flush
        self._owner = owner
        self._writer = writer
        self._complete: Complete = {}
        self._gave_up = False  # the peer has, some that are complete
        self._ends: dict[int, float] = {}  # of calls that are waited for
        self._early: OrderedDict[int, None] = OrderedDict()
        self._tracer = owner.tracer
        self._spans: dict[int, Span] = {}  # of calls that are traced
        self._partial = 0
        self._held = 0  # bytes of streams that nobody has read yet

    # What comes in

    def ask(self, number: int, request: Request) -> None:
        """A new stream. Raises `ConnectionFault`."""
        if not number & 1:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "a client's streams have odd numbers")
        self.last = number
        if len(self.open) + self._writer.waiting >= MAX_STREAMS:
            self.reset(number, frames.REFUSED_STREAM)
        elif (route := request.route) is None:
            self.open[number] = request
            if request is MALFORMED:
                self.reset(number, frames.PROTOCOL_ERROR)
            elif not request.body:
                self._refuse(number, request.refusal)
        elif route.serve is None:
            self.open[number] = request
        else:
            self.open[number] = stream = Stream(self, number, request, self._owner.turns)
            stream.start(self._owner.loop)

    def add(self, number: int, request: Request, message: bytes) -> None:
        """A unary call is complete."""
        route = cast(Route, request.route)
        self.open[number] = None
        if self._tracer is not None and request.trace:
            span = self._tracer.begin(route.name, request.trace)
            if span is not None:
                self._spans[number] = span
        if (calls := self._complete.get(route)) is None:
            self._complete[route] = calls = ([], [])
        calls[0].append(number)
        calls[1].append((message, request.timeout))
        self.complete += 1

    def receive(self, number: int, data: bytes, size: int, is_end: bool) -> None:
        """Data of a call; `size` with their padding. Raises `ConnectionFault`."""
        target = self.open.get(number)
        self.used += size
        if not isinstance(target, Request | Body | Stream):
            if self.is_idle(number):
                raise ConnectionFault(frames.PROTOCOL_ERROR, "data on a stream that was not begun")
            if number not in self._early:
                raise ConnectionFault(frames.STREAM_CLOSED, "data on a stream that has ended")
            if is_end:
                del self._early[number]
        elif isinstance(target, Stream):
            self.used -= len(data)  # until it is read
            self._held += len(data)
            if not target.receive(data, is_end):
                raise ConnectionFault(
                    frames.FLOW_CONTROL_ERROR, "more data than the stream's window had room for"
                )
        elif isinstance(target, Body) or target.route is not None:
            self._receive_unary(number, target, data, is_end)
        elif is_end:  # of what is no call of gRPC
            self.open[number] = None
            self._writer.tell(number, target.refusal, target.body)
            self._leave(number)

    def _receive_unary(self, number: int, target: Request | Body, data: bytes, is_end: bool) -> None:
        if isinstance(target, Request):
            self.open[number] = target = Body(target)
        self._partial += len(data)
        try:
            message = target.receive(data, is_end)
            if message is None and self._partial > MAX_PARTIAL:
                raise _BUSY
        except StatusError as error:
            self._partial -= target.size
            if is_end:
                self.open[number] = None
            self._fail(number, error)
            return
        if message is not None:
            self._partial -= target.size
            self.add(number, target.request, message)

    def end(self, number: int) -> None:
        """Trailers: the peer has sent all. Raises `ConnectionFault`."""
        if number in self.open or number not in self._early:
            self.receive(number, b"", 0, True)
        else:
            del self._early[number]

    def is_idle(self, number: int) -> bool:
        """Whether the peer has not begun the stream."""
        return number > self.last or not number & 1

    def is_receiving(self, number: int) -> bool:
        """Whether more of it is expected, or at least borne."""
        return number in self._early or isinstance(self.open.get(number), Request | Body | Stream)

    def give_room(self) -> None:
        """Let the peer send as much again as was used. Raises `ConnectionFault`."""
        if self.used >= RECEIVE_WINDOW // 4:
            if self.used + self._held > RECEIVE_WINDOW + WINDOW:
                raise ConnectionFault(frames.FLOW_CONTROL_ERROR, "more data than the window had room for")
            self._writer.out.append(frames.window_update(0, self.used))
            self.used = 0

    # Calls that are complete

    def begin(self) -> None:
        """Begin them."""
        if self._gave_up:
            complete = self.take()
        else:
            complete, self._complete, self.complete = self._complete, {}, 0
        for route, (numbers, received) in complete.items():
            self.begin_these(route, numbers, received)

    def take(self) -> Complete:
        """Those that are wanted, by their method: whoever takes them begins or refuses them."""
        complete, self._complete, self.complete = self._complete, {}, 0
        if self._gave_up:
            self._gave_up = False
            complete = {route: self._wanted(route, *calls) for route, calls in complete.items()}
            complete = {route: calls for route, calls in complete.items() if calls[0]}
        return complete

    def _wanted(
        self, route: Route, numbers: list[int], received: list[Received]
    ) -> tuple[list[int], list[Received]]:
        """Without those that the peer gave up in the same breath."""
        wanted = [pair for pair in zip(numbers, received, strict=True) if pair[0] in self.open]
        if (gone := len(numbers) - len(wanted)) and route.gave_up is not None:
            route.gave_up(gone)
        return [number for number, _ in wanted], [call for _, call in wanted]

    def is_wanted(self, number: int) -> bool:
        return number in self.open

    def begin_these(
        self, route: Route, numbers: list[int], received: list[Received], waited: float = 0.0
    ) -> None:
        """`waited`: seconds that the first of them did."""
        if self._owner.is_stopping:
            for number in numbers:
                self._fail(number, _STOPPING)
            return
        begin = cast(Begin, route.begin)
        begun = begin(received) if not waited else begin(received, waited)
        pop, respond = self.open.pop, self._writer.respond if self._tracer is None else self._respond
        for number, (_, timeout), answer in zip(numbers, received, begun, strict=True):
            pop(number)
            if type(answer) is bytes:
                respond(number, answer)
            elif isinstance(answer, StatusError):
                self._fail(number, answer)
            else:
                self._wait(number, cast(Any, answer), timeout)

    def refuse(self, route: Route, numbers: list[int], reason: str) -> None:
        """Refuse calls that are complete."""
        for number in numbers:
            self.open.pop(number, None)
        refusal = cast(Shed, route.shed)(reason, len(numbers))
        if self._spans:
            for number in numbers:
                self._trace(number, None, refusal.error.code.value[0], refusal.error.details)
        self._writer.refuse_all([number.to_bytes(4, "big") for number in numbers], refusal.block)

    def refuse_unread(self, route: Route, streams: list[bytes], reason: str) -> None:
        """Refuse calls that are no streams here yet; `streams`: their numbers' bytes."""
        self.last = int.from_bytes(streams[-1], "big")
        self._writer.refuse_all(streams, cast(Shed, route.shed)(reason, len(streams)).block)

    def _cancel(self, waiting: Waiting) -> None:
        """A task of this turn of the loop has its first step before, in which it takes note of the call."""
        if isinstance(waiting, asyncio.Task):
            self._owner.loop.call_soon(waiting.cancel)
        else:
            waiting.cancel()

    def _wait(self, number: int, answer: Any, timeout: float | None) -> None:
        if timeout is not None:
            self._ends[number] = end = self._owner.loop.time() + timeout
            self._owner.wake_at(end)
        if isinstance(answer, Pending):
            self.open[number] = answer
            answer.then(partial(self._done, number))
        else:
            self.open[number] = self._owner.loop.create_task(self._await(number, answer))

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
        if self.open.pop(number, None) is None:
            return  # nobody is there to hear it
        if isinstance(result, bytes):
            self._respond(number, result)
        else:
            self._fail(number, result if isinstance(result, StatusError) else _STOPPING)
        self._writer.flush_soon()

    def expire(self, now: float) -> float | None:
        """End the calls whose time is over; answers when that of the next one is."""
        left = None
        for number, end in list(self._ends.items()):
            if end <= now:
                del self._ends[number]
                if (target := self.open.get(number)) is not None:
                    self._fail(number, _LATE)
                    self._cancel(cast(Waiting, target))
            elif left is None or end < left:
                left = end
        self._writer.flush_soon()
        return left

    # What streams use

    def credit(self, number: int, size: int, is_complete: bool) -> None:
        """So many bytes of a stream have been read. `is_complete`: no more will come."""
        self._held -= size
        self.used += size
        if not is_complete:
            self._writer.out.append(frames.window_update(number, size))
        self.give_room()
        self._writer.flush_soon()

    def begin_answer(self, number: int) -> None:
        self._writer.begin(number)

    def send(self, number: int, message: bytes) -> None:
        self._writer.send(number, message)
        self._writer.flush_soon()

    def finish(self, number: int, error: StatusError | None, is_begun: bool) -> None:
        """End the answer of a stream. Without `error` it has one message, if none was sent before."""
        if number not in self.open:
            return
        if is_begun:
            self._writer.finish(
                number, requests.OK if error is None else requests.ended(error.code, error.details)
            )
            self._leave(number)
        elif error is None:
            self._writer.respond(number, b"")
            self._leave(number)
        else:
            self._fail(number, error)
        self._writer.flush_soon()

    # Ends

    def _respond(self, number: int, answer: bytes) -> None:
        self._writer.respond(number, answer)
        if self._spans:
            self._trace(number, answer)

    def _trace(self, number: int, answer: bytes | None, code: int = 0, details: str = "") -> None:
        """The end of a call."""
        if self._tracer is not None and (span := self._spans.pop(number, None)) is not None:
            self._tracer.end(span, answer, code, details)

    def _fail(self, number: int, error: StatusError) -> None:
        if self._spans:
            self._trace(number, None, error.code.value[0], error.details)
        self._refuse(number, requests.failed(error.code, error.details))

    def _refuse(self, number: int, block: bytes) -> None:
        self._writer.refuse(number, block)
        self._leave(number)

    def _leave(self, number: int) -> None:
        """Its answer is out. What the peer still sends is of no use."""
        target = self.open.pop(number, None)
        waits = self._writer.waits(number)
        if not waits:
            self._writer.drop(number)
        if isinstance(target, Stream):
            self._held -= target.unread
            self.used += target.unread
            target.unread = 0
        if isinstance(target, Request | Body) or (isinstance(target, Stream) and not target.is_complete):
            self._forget(number)
            if not waits:
                self._writer.out.append(frames.rst_stream(number, frames.NO_ERROR))

    def _forget(self, number: int) -> None:
        """The peer may send more on this stream before it hears that it has ended."""
        if len(self._early) >= _MAX_EARLY:
            self._early.popitem(last=False)
        self._early[number] = None

    def reset(self, number: int, code: int) -> None:
        """End a stream for a fault of the peer's."""
        self.give_up(number)
        self._forget(number)
        self._writer.out.append(frames.rst_stream(number, code))

    def give_up(self, number: int) -> None:
        """The peer does not want the answer any more."""
        self._gave_up |= number in self.open and self.open[number] is None
        target = self.open.pop(number, None)
        if self._spans:
            self._trace(number, None, _CANCELLED)
        self._early.pop(number, None)
        self._writer.drop(number)
        if isinstance(target, Body):
            self._partial -= target.size
        elif isinstance(target, Stream):
            self._held -= target.unread
            self.used += target.unread
            target.unread = 0
            target.cancel()
        elif target is not None and not isinstance(target, Request):
            self._cancel(target)

    def give_up_all(self) -> None:
        for number in list(self.open):
            self.give_up(number)

    # The end of the front

    def waited_for(self) -> list[Waiting]:
        return [each for each in self.open.values() if isinstance(each, Pending | asyncio.Task)]

    def streams(self) -> list[Stream]:
        return [each for each in self.open.values() if isinstance(each, Stream)]
