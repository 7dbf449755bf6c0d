"""The listener of the asyncio front; see the package."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, cast

from google.protobuf.message import Message
from grpc import aio
from grpc_health.v1.health_pb2 import DESCRIPTOR as HEALTH
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2 import DESCRIPTOR as REFLECTION
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest

from mixer import config
from mixer.metrics import Metrics
from mixer.server.answering import Answering
from mixer.server.front import ClientStream, Methods, Unary
from mixer.server.handlers import QUIET, Handlers
from mixer.server.health import Health
from mixer.server.http2.backlog import Backlog
from mixer.server.http2.connection import Connection
from mixer.server.http2.requests import Refusal, Route, Serve, failed, reader
from mixer.server.http2.streams import Stream
from mixer.server.http2.turns import Turns
from mixer.server.listening import Kept, PlainListener
from mixer.tracing.tracer import Tracer

if TYPE_CHECKING:
    from mixer.server.secured import TlsListener

_GRACE = 0.1  # seconds
_ANSWER = 1.0  # seconds in which a client without a call says that it has heard it is to leave


class AsyncioFront:
    """See `Front`."""

    def __init__(
        self,
        settings: config.Listener,
        methods: Methods,
        metrics: Metrics,
        *,
        kept: Kept = None,
        tracer: Tracer | None = None,
        name: str = "check",
    ) -> None:
        """`name`: of the listener in the metrics. Raises `StartError` for certificates that cannot be used."""
        self.address = settings.address
        self.tracer = tracer
        self._listener = _listener(name, settings, lambda: Connection(self), metrics, kept)
        self.is_stopping = False
        self._handlers = Handlers(methods, metrics, overload=settings.overload)
        self._calls_waiting = metrics.calls_waiting.labels(name)
        self._methods = methods
        self._connections: set[Connection] = set()
        self._is_leaving = False  # clients are asked to go on elsewhere
        self._moved = asyncio.Event()  # a connection has begun or ended; or a call, while clients leave
        self._wake: asyncio.TimerHandle | None = None
        self._wakes_at = 0.0  # uvloop's own handle does not say it of a moment that has passed

    async def start(self) -> None:
        self.loop = asyncio.get_running_loop()
        handlers = self._handlers
        self.backlog = backlog = Backlog(self.loop, handlers.overload.max_in_flight, lambda: handlers.waiting)
        self._calls_waiting.set_function(lambda: backlog.waiting)
        self.turns = Turns(self.loop)
        services = {method.service for method in self._methods}
        self._health = Health(services)
        await self._health.start()
        self.read_request = reader(self._routes(sorted(services)))
        await self._listener.start()
        self.address = self._listener.address

    def _routes(self, services: list[str]) -> dict[bytes, Route]:
        routes = {}
        for method in self._methods:
            path = f"/{method.service}/{method.name}".encode()
            if isinstance(method, Unary):
                routes[path] = _unary(path[1:].decode(), self._handlers.unary(method))
            else:
                routes[path] = Route(serve=self._client_stream(method))
        health = HEALTH.services_by_name["Health"].full_name
        routes[f"/{health}/Check".encode()] = Route(serve=self._guarded("Health/Check", self._check_health))
        routes[f"/{health}/Watch".encode()] = Route(serve=self._guarded("Health/Watch", self._watch_health))
        aio_reflection: Any = reflection.aio  # type: ignore[attr-defined]  # not in its stubs
        servicer = aio_reflection.ReflectionServicer((*services, health, reflection.SERVICE_NAME))

        async def reflect(stream: Stream) -> None:
            async for answer in servicer.ServerReflectionInfo(
                _parsed(ServerReflectionRequest, stream), stream
            ):
                await stream.write(answer)

        name = REFLECTION.services_by_name["ServerReflection"].full_name
        routes[f"/{name}/ServerReflectionInfo".encode()] = Route(
            serve=self._guarded("ServerReflectionInfo", reflect)
        )
        return routes

    def _client_stream(self, method: ClientStream) -> Serve:
        handle = self._handlers.stream(method)

        async def serve(stream: Stream) -> None:
            await handle(None, cast(Any, stream))

        return serve

    def _guarded(self, name: str, serve: Serve) -> Serve:
        """What is not of our methods fails as they do: no stream is left without an end."""

        async def guarded(stream: Stream) -> None:
            try:
                await serve(stream)
            except Exception as error:
                raise self._handlers.failure(name, error) from None

        return guarded

    async def _check_health(self, stream: Stream) -> None:
        async for request in _parsed(HealthCheckRequest, stream):
            await stream.write(await self._health.Check(request, stream))
            return

    async def _watch_health(self, stream: Stream) -> None:
        async for request in _parsed(HealthCheckRequest, stream):
            await self._health.Watch(request, stream)
            return

    # What connections share

    def opened(self, connection: Connection) -> None:
        self._connections.add(connection)
        if self._is_leaving:
            connection.leave()
            self._moved.set()

    def closed(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._moved.set()

    def left(self) -> None:
        self._moved.set()

    def ended(self) -> None:
        if self._is_leaving:
            self._moved.set()

    def wake_at(self, end: float) -> None:
        if self._wake is None or end < self._wakes_at:
            if self._wake is not None:
                self._wake.cancel()
            self._wake, self._wakes_at = self.loop.call_at(end, self._expire), end

    def _expire(self) -> None:
        self._wake = None
        now = self.loop.time()
        for connection in list(self._connections):
            if (end := connection.calls.expire(now)) is not None:
                self.wake_at(end)

    # The end

    async def hand_over(self, timeout: float) -> None:
        end = self.loop.time() + timeout
        self._listener.pass_on()
        self._ask_to_leave()
        # Whoever comes is asked, too; until nobody comes any more.
        while self._connections and self.loop.time() < end:
            await self._until(self._all_have_left, end)
            await self._until(lambda: bool(self._connections), min(end, self.loop.time() + QUIET))

    async def drain(self, timeout: float) -> None:
        end = self.loop.time() + timeout
        await self._health.drain()
        await self._handlers.drain(timeout / 2)
        await self._listener.close()  # before clients are asked to leave: they would come back to it
        self._ask_to_leave()
        mute = min(end, self.loop.time() + _ANSWER)
        await self._until(self._all_have_left, mute)
        for connection in list(self._connections):
            if connection.is_idle:
                connection.close()
        await self._until(self._all_have_left, end)
        self.is_stopping = True
        late = [stream.stop() for connection in self._connections for stream in connection.calls.streams()]
        for connection in self._connections:
            for waiting in connection.calls.waited_for():
                waiting.cancel()
        if late:
            await asyncio.wait(late)
        last = max(end, self.loop.time() + _GRACE)  # for what was cancelled, and for bytes that are written
        await self._until(self._has_ended_all, last)
        for connection in list(self._connections):
            connection.close()
        await self._until(lambda: not self._connections, last)
        for connection in list(self._connections):
            connection.abort()
        if self._wake is not None:
            self._wake.cancel()

    def _ask_to_leave(self) -> None:
        self._is_leaving = True
        for connection in self._connections:
            connection.leave()

    def _has_ended_all(self) -> bool:
        return not self.backlog.waiting and not any(c.calls.waited_for() for c in self._connections)

    def _all_have_left(self) -> bool:
        for connection in list(self._connections):
            if connection.is_over:
                connection.close()
        return not self._connections

    async def _until(self, condition: Any, end: float) -> None:
        """Wait for it until `end`, by the loop's clock."""
        while not condition() and (left := end - self.loop.time()) > 0:
            self._moved.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._moved.wait(), left)


def _listener(
    name: str, settings: config.Listener, made: Callable[[], Connection], metrics: Metrics, kept: Kept
) -> "PlainListener | TlsListener":
    if (tls := settings.tls) is None:
        return PlainListener(settings.address, made, kept)
    from mixer.server.secured import TlsListener

    return TlsListener(name, settings.address, tls, made, metrics, protocol="h2", kept=kept)


def _unary(name: str, answering: Answering) -> Route:
    refusals = {
        reason: Refusal(error, failed(error.code, error.details))
        for reason, error in answering.refusals.items()
    }

    def shed(reason: str, count: int) -> Refusal:
        answering.shed(reason, count)
        return refusals[reason]

    return Route(begin=answering.begin, name=name, shed=shed, gave_up=answering.gave_up)


async def _parsed(kind: type[Message], stream: Stream) -> AsyncIterator[Any]:
    while (data := await stream.read()) is not aio.EOF:  # type: ignore[attr-defined]
        yield kind.FromString(data)
