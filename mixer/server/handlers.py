"""gRPC handlers around methods: parsing, counting, and errors as status. Both fronts use the same."""

import asyncio
import contextlib
import math
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeAlias, cast

import grpc
import structlog
from google.protobuf.message import DecodeError, Message
from grpc import aio

from mixer import config
from mixer.errors import CallError, MixerError
from mixer.log import Throttle
from mixer.metrics import Metrics
from mixer.server.answering import OVERLOAD, Answering, StatusError, malformed, status_of
from mixer.server.front import ClientStream, Methods, Unary
from mixer.server.status import code_of
from mixer.tracing.tracer import Tracer

log = structlog.get_logger()

CANCELLED: int = grpc.StatusCode.CANCELLED.value[0]
_NO_DEADLINE = 1e6  # seconds; grpc gives a huge number where the caller set none
_QUIET_LOG = 10.0  # seconds between two lines that say so
QUIET = 0.1  # seconds; with no call begun for this long a front that drains closes, and ends a stream that is quiet
# A stream that is to end for its age ends in a pause: what its caller sends before it hears of the end is lost. GAP:
# seconds without a message that are one (behind an Envoy with 1,000 requests/s and a busy machine, 61 ends lost none of
# 15,000 records; 10 ms lost 25, 2 ms 100). LATE: how much longer, in ages, a stream is waited for that makes none.
GAP, LATE = 0.025, 1.0
_JITTER = 0.1
_AFTER_END = 0.01  # seconds; a stream that its client cancelled may seem ended first, and cancelled only then

Context: TypeAlias = "aio.ServicerContext[Any, Any]"  # generic only to the type checker
AnyHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Handler = Callable[[Any, Context], Coroutine[Any, Any, Any]]


class Handlers:
    """Handlers of one front, and what is in flight on it."""

    def __init__(
        self,
        methods: Methods,
        metrics: Metrics,
        tracer: Tracer | None = None,
        overload: config.Overload = config.Overload(),  # noqa: B008 (frozen)
    ) -> None:
        self._methods = methods
        self.overload = overload
        self._tracer = tracer  # of unary calls
        self._metrics = metrics
        self._throttle = Throttle(_QUIET_LOG)
        self._random = random.Random()  # noqa: S311 (spreads ends)
        # Handlers that wait for a message, and what they wait for; and those whose wait `drain` has ended.
        self._reads: dict[asyncio.Task[Any], Coroutine[Any, Any, Any]] = {}
        self._quiet: set[asyncio.Task[Any]] = set()
        self._draining = False
        self.waiting = 0  # unary calls
        self._moves = 0  # unary calls begun, streams ended
        self._streams = 0
        self._idle = asyncio.Event()  # see `drain`

    def by_service(self, kinds: tuple[type, ...] = (Unary, ClientStream)) -> dict[str, dict[str, AnyHandler]]:
        """Service name to grpcio's handlers by method name, for methods of these kinds. Messages are parsed here,
        so that no front's own wording or code for a malformed one shows."""
        services: dict[str, dict[str, AnyHandler]] = {}
        for method in self._methods:
            if not isinstance(method, kinds):
                continue
            handler = (
                grpc.unary_unary_rpc_method_handler(self._unary(method))
                if isinstance(method, Unary)
                else grpc.stream_unary_rpc_method_handler(self.stream(method))
            )
            services.setdefault(method.service, {})[method.name] = handler
        return services

    def unary(self, method: Unary) -> "Answering":
        return Answering(self, method, self._metrics)

    def begun(self, calls: int) -> None:
        self._moves += calls

    def enter(self) -> None:
        """A call waits for its answer."""
        self.waiting += 1

    def leave(self) -> None:
        self.waiting -= 1
        if self._draining and not self.waiting:
            self._idle.set()

    def overloaded(self, name: str, reason: str) -> None:
        """See `answering.Owner`."""
        if (held := self._throttle(reason)) is not None:
            log.warning("overloaded", method=name, reason=reason, held_back=held)

    def _unary(self, method: Unary) -> Handler:
        answering = self.unary(method)

        async def handle(data: bytes, context: Context) -> bytes:
            left = context.time_remaining()
            if left is not None and left <= 0:  # it has waited for the loop all its time
                late = answering.shed("late", 1)
                await context.abort(late.code, late.details)
            (answer,) = answering.begin(((data, None if left is None or left > _NO_DEADLINE else left),))
            try:
                if isinstance(answer, StatusError):
                    raise answer.with_traceback(None)  # it may be that of other calls, too
                return answer if isinstance(answer, bytes) else await answer
            except StatusError as error:
                await context.abort(error.code, error.details)

        return handle if self._tracer is None else _traced(self._tracer, method, handle)

    def stream(self, method: ClientStream) -> Handler:
        """What a front calls for a client-streaming method, with a context of grpc.aio or its like."""
        calls = self._metrics.calls
        in_flight = self._metrics.calls_in_flight.labels(method.name)

        async def handle(_: object, context: Context) -> bytes:
            in_flight.inc()
            self._streams += 1
            try:
                await method.call(_Messages(self, method, context))
            except Exception as error:
                failure = self.failure(method.name, error)
                await context.abort(failure.code, failure.details)
            except asyncio.CancelledError:
                calls.labels(method.name, "CANCELLED").inc()
                raise
            finally:
                in_flight.dec()
                self._streams -= 1
                self._moves += 1
            calls.labels(method.name, "OK").inc()
            return b""

        return handle

    async def messages(self, method: ClientStream, context: Context) -> AsyncIterator[Message]:
        """A stream's messages; ends with it, when it is too old, or when the front drains and nothing more comes."""
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        parse, read = method.request.FromString, context.read
        age = (method.max_age or math.inf) * self._random.uniform(1 - _JITTER, 1 + _JITTER)
        since, any_yet = time.monotonic(), False
        while True:
            if self._draining:
                data = await self._last_message(read(), QUIET)
            elif any_yet and (old := time.monotonic() - since) > age:
                data = await self._last_message(read(), GAP) if old < age * (1 + LATE) else None
                if data is None:
                    self._metrics.streams_aged.labels(method.name).inc()
                    return
            else:
                # Not in a task of its own, which costs more than the reading.
                self._reads[task] = waiting = read()
                try:
                    data = await waiting
                except asyncio.CancelledError:
                    if task in self._quiet and not task.uncancel():
                        return
                    raise
                finally:
                    del self._reads[task]
                    self._quiet.discard(task)
            if data is None:
                return
            if data is aio.EOF:  # type: ignore[attr-defined]
                await asyncio.sleep(_AFTER_END)
                return
            yield _parse(parse, data)
            any_yet = True

    def is_ready(self, context: Context) -> bool:
        """Whether a stream's next message is known to be here. grpc.aio does not tell."""
        return not self._draining and getattr(context, "is_ready", False)

    async def _last_message(self, read: Coroutine[Any, Any, Any], within: float) -> Any:
        """What is read within so many seconds, else None."""
        reading = asyncio.ensure_future(read)
        try:
            await asyncio.wait({reading}, timeout=within)
            return reading.result() if reading.done() else None
        finally:
            reading.cancel()

    async def drain(self, timeout: float) -> bool:
        """Wait for a moment without a unary call (`QUIET`), `timeout` seconds at most. From now on, end each stream
        once it is quiet. Answers whether all is done: no call and no stream is open, and all answers are written."""
        self._draining = True
        if self._reads:
            before = dict(self._reads)
            await asyncio.sleep(QUIET)
            for task, read in before.items():
                if self._reads.get(task) is read:
                    self._quiet.add(task)
                    task.cancel()
        end = time.monotonic() + timeout
        while (left := end - time.monotonic()) > 0:
            if self.waiting:
                self._idle.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._idle.wait(), left)
            moves = self._moves
            await asyncio.sleep(QUIET)  # the last answers are written, and calls that lie on the wire begin
            if not self.waiting and self._moves == moves:
                return not self._streams
        return False

    def failure(self, name: str, error: Exception) -> StatusError:
        if isinstance(error, DecodeError):
            error = malformed()
        if isinstance(error, StatusError):
            failure = error
        elif isinstance(error, CallError) and error.reason == OVERLOAD:
            failure = StatusError(status_of(self.overload), str(error))
            self._metrics.calls_shed.labels(name, "backend").inc()
            self.overloaded(name, "backend")
        elif isinstance(error, MixerError):
            failure = StatusError(code_of(error), str(error))
        else:
            failure = StatusError(grpc.StatusCode.INTERNAL, "internal error; the log has it")
            log.error("call_failed", method=name, exc_info=error)
        self._metrics.calls.labels(name, failure.code.name).inc()
        return failure


class _Messages:
    """See `front.Messages`."""

    def __init__(self, handlers: Handlers, method: ClientStream, context: Context) -> None:
        self._handlers = handlers
        self._context = context
        self._messages = handlers.messages(method, context)

    @property
    def is_ready(self) -> bool:
        return self._handlers.is_ready(self._context)

    def __aiter__(self) -> AsyncIterator[Message]:
        return self._messages


def _traced(tracer: Tracer, method: Unary, handle: Handler) -> Handler:
    name = f"{method.service}/{method.name}"

    async def traced(data: bytes, context: Context) -> bytes:
        span = tracer.begin(name, context.invocation_metadata() or ())
        if span is None:
            return await handle(data, context)  # type: ignore[no-any-return]
        answer = None
        try:
            answer = await handle(data, context)
        except BaseException:
            code: Any = context.code()
            tracer.end(span, None, code.value[0] if code else CANCELLED, context.details() or "")
            raise
        tracer.end(span, answer)
        return answer  # type: ignore[no-any-return]

    return traced


def _parse(parse: Callable[[bytes], Any], data: bytes) -> Any:
    try:
        return parse(data)
    except DecodeError:
        raise malformed() from None
