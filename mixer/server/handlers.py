"""gRPC handlers around methods: parsing, counting, and errors as status. Both fronts use the same."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, NoReturn, TypeAlias

import grpc
import structlog
from google.protobuf.message import DecodeError, Message
from grpc import aio
from prometheus_client import Counter

from mixer.errors import MixerError, RequestError
from mixer.metrics import Metrics
from mixer.server.front import ClientStream, Methods, Unary
from mixer.server.status import code_of

log = structlog.get_logger()

_NO_DEADLINE = 1e6  # seconds; grpc gives a huge number where the caller set none
_QUIET = 0.1  # seconds; a stream with nothing to read for this long is ended when the front drains

Context: TypeAlias = "aio.ServicerContext[Any, Any]"  # generic only to the type checker
AnyHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Handler = Callable[[Any, Context], Coroutine[Any, Any, Any]]


class Handlers:
    """Handlers of one front, and what is in flight on it."""

    def __init__(self, methods: Methods, metrics: Metrics) -> None:
        self._methods = methods
        self._metrics = metrics
        self._reads: dict[object, asyncio.Task[Any]] = {}
        self._draining = False
        self._unary_calls = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def by_service(self) -> dict[str, dict[str, AnyHandler]]:
        """Service name to its handlers by method name. Messages are parsed here, so that no front's own
        wording or code for a malformed one shows."""
        services: dict[str, dict[str, AnyHandler]] = {}
        for method in self._methods:
            handler = (
                grpc.unary_unary_rpc_method_handler(self._unary(method))
                if isinstance(method, Unary)
                else grpc.stream_unary_rpc_method_handler(self._stream(method))
            )
            services.setdefault(method.service, {})[method.name] = handler
        return services

    def _counters(self, name: str) -> tuple[Counter, Any, Callable[[int], None]]:
        count = 0

        def add(change: int) -> None:
            nonlocal count
            count += change

        self._metrics.calls_in_flight.labels(name).set_function(lambda: count)
        return self._metrics.calls.labels(name, "OK"), self._metrics.call_seconds.labels(name), add

    def _unary(self, method: Unary) -> Handler:
        ok, seconds, in_flight = self._counters(method.name)
        parse, call = method.request.FromString, method.call
        idle = self._idle

        async def handle(data: bytes, context: Context) -> bytes:
            start = time.perf_counter()
            in_flight(1)
            if not self._unary_calls:
                idle.clear()
            self._unary_calls += 1
            try:
                left = context.time_remaining()
                answer = await call(
                    _parse(parse, data), None if left is None or left > _NO_DEADLINE else left
                )
            except Exception as error:
                await self._fail(method.name, error, context)
            except asyncio.CancelledError:
                self._metrics.calls.labels(method.name, "CANCELLED").inc()
                raise
            finally:
                in_flight(-1)
                self._unary_calls -= 1
                if not self._unary_calls:
                    idle.set()
                seconds.observe(time.perf_counter() - start)
            ok.inc()
            return answer

        return handle

    def _stream(self, method: ClientStream) -> Handler:
        ok, _, in_flight = self._counters(method.name)

        async def handle(_: object, context: Context) -> bytes:
            in_flight(1)
            try:
                await method.call(self._messages(method, context))
            except Exception as error:
                await self._fail(method.name, error, context)
            except asyncio.CancelledError:
                self._metrics.calls.labels(method.name, "CANCELLED").inc()
                raise
            finally:
                in_flight(-1)
            ok.inc()
            return b""

        return handle

    async def _messages(self, method: ClientStream, context: Context) -> AsyncIterator[Message]:
        """The stream's messages; ends with it, or when the front drains and nothing more comes."""
        key = object()
        try:
            while True:
                self._reads[key] = read = asyncio.ensure_future(context.read())
                if self._draining:
                    await asyncio.wait({read}, timeout=_QUIET)
                    if not read.done():
                        read.cancel()
                try:
                    data = await read
                except asyncio.CancelledError:
                    if self._draining:
                        return
                    raise
                if data is aio.EOF:  # type: ignore[attr-defined]
                    return
                yield _parse(method.request.FromString, data)
        finally:
            self._reads.pop(key, None)

    async def drain(self, timeout: float) -> None:
        """Wait for a moment without a unary call, `timeout` seconds at most. From now on, end each stream once it
        is quiet."""
        self._draining = True
        waiting = set(self._reads.values())
        if waiting:
            _, quiet = await asyncio.wait(waiting, timeout=_QUIET)
            for read in quiet:
                read.cancel()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), timeout)

    async def _fail(self, name: str, error: Exception, context: Context) -> NoReturn:
        if isinstance(error, aio.AbortError):
            raise error
        if isinstance(error, MixerError):
            code, details = code_of(error), str(error)
        else:
            code, details = grpc.StatusCode.INTERNAL, "internal error; the log has it"
            log.error("call_failed", method=name, exc_info=error)
        self._metrics.calls.labels(name, code.name).inc()
        await context.abort(code, details)


def _parse(parse: Callable[[bytes], Any], data: bytes) -> Any:
    try:
        return parse(data)
    except DecodeError:
        raise RequestError("the request is no valid protobuf message of this method") from None
