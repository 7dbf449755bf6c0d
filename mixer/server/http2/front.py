"""The listener of the asyncio front; see the package."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, cast

from google.protobuf.message import Message
from grpc import aio
from grpc_health.v1.health_pb2 import DESCRIPTOR as HEALTH
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2 import DESCRIPTOR as REFLECTION
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest

from mixer import config
from mixer.metrics import Metrics
from mixer.server.front import ClientStream, Methods, Unary
from mixer.server.handlers import Handlers
from mixer.server.health import Health
from mixer.server.http2.connection import Connection
from mixer.server.http2.requests import Route, Serve, reader
from mixer.server.http2.streams import Stream
from mixer.server.listening import bound, cannot_listen, publish, to_bind
from mixer.tracing.tracer import Tracer

_GRACE = 0.1  # seconds
_BACKLOG = 1024  # connections that wait to be accepted


class AsyncioFront:
    """See `Front`."""

    def __init__(
        self,
        settings: config.Listener,
        methods: Methods,
        metrics: Metrics,
        shared: bool = False,
        tracer: Tracer | None = None,
    ) -> None:
        self.address = settings.address
        self.tracer = tracer
        self._shared = shared
        self.is_stopping = False
        self._handlers = Handlers(methods, metrics)
        self._methods = methods
        self._connections: set[Connection] = set()
        self._ended = asyncio.Event()  # a call, while this front drains; or a connection
        self._wake: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        self.loop = asyncio.get_running_loop()
        services = {method.service for method in self._methods}
        self._health = Health(services)
        await self._health.start()
        self.read_request = reader(self._routes(sorted(services)))
        address = to_bind(self.address, shared=self._shared)
        try:
            self._server = await self._listen(address)
        except OSError:
            raise cannot_listen(self.address) from None
        publish(self.address, shared=self._shared)

    async def _listen(self, address: str) -> asyncio.Server:
        if address.startswith("unix:"):
            path = address.removeprefix("unix:")
            return await self.loop.create_unix_server(lambda: Connection(self), path, backlog=_BACKLOG)
        host, _, port = address.rpartition(":")
        server = await self.loop.create_server(
            lambda: Connection(self),
            host.strip("[]"),
            int(port),
            backlog=_BACKLOG,
            reuse_port=self._shared,
        )
        self.address = bound(self.address, server.sockets[0].getsockname()[1])
        return server

    def _routes(self, services: list[str]) -> dict[bytes, Route]:
        routes = {}
        for method in self._methods:
            path = f"/{method.service}/{method.name}".encode()
            if isinstance(method, Unary):
                routes[path] = Route(begin=self._handlers.unary(method), name=path[1:].decode())
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

    def closed(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._ended.set()

    def ended(self) -> None:
        if self.is_stopping:
            self._ended.set()

    def wake_at(self, end: float) -> None:
        if self._wake is None or end < self._wake.when():
            if self._wake is not None:
                self._wake.cancel()
            self._wake = self.loop.call_at(end, self._expire)

    def _expire(self) -> None:
        self._wake = None
        now = self.loop.time()
        for connection in list(self._connections):
            if (end := connection.calls.expire(now)) is not None:
                self.wake_at(end)

    # The end

    async def drain(self, timeout: float) -> None:
        end = self.loop.time() + timeout
        await self._health.drain()
        await self._handlers.drain(timeout / 2)
        self.is_stopping = True
        await self._until(lambda: not any(connection.calls.open for connection in self._connections), end)
        late = [stream.stop() for connection in self._connections for stream in connection.calls.streams()]
        for connection in self._connections:
            for waiting in connection.calls.waited_for():
                waiting.cancel()
        if late:
            await asyncio.wait(late)
        last = max(end, self.loop.time() + _GRACE)  # for what was cancelled, and for bytes that are written
        await self._until(lambda: not any(c.calls.waited_for() for c in self._connections), last)
        self._server.close()
        for connection in list(self._connections):
            connection.close()
        await self._until(lambda: not self._connections, last)
        for connection in list(self._connections):
            connection.abort()
        if self._wake is not None:
            self._wake.cancel()

    async def _until(self, condition: Any, end: float) -> None:
        """Wait for it until `end`, by the loop's clock."""
        while not condition() and (left := end - self.loop.time()) > 0:
            self._ended.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), left)


async def _parsed(kind: type[Message], stream: Stream) -> AsyncIterator[Any]:
    while (data := await stream.read()) is not aio.EOF:  # type: ignore[attr-defined]
        yield kind.FromString(data)
