"""A front that serves methods of a test, and clients of it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import StringValue
from grpc import aio
from prometheus_client import CollectorRegistry

from mixer import config
from mixer.backends import FRONTS
from mixer.metrics import Metrics
from mixer.server.front import ClientStream, Front, Messages, Method, Unary
from tests.components.server import scratch
from tests.server.certificates import Authority, credentials, write

SERVICE = "test.Service"
PATIENCE = 10.0  # seconds; nothing that is waited for takes as long


def unary(call: Callable[[Any, float | None], bytes | Awaitable[bytes]]) -> Unary:
    return Unary(SERVICE, "Unary", StringValue, call)


def stream(call: Callable[[Messages], Awaitable[None]]) -> ClientStream:
    return ClientStream("test.Streams", "Stream", StringValue, call)


def text(value: str) -> bytes:
    return StringValue(value=value).SerializeToString()


def echo(request: StringValue, _: float | None) -> bytes:
    return request.SerializeToString()


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)


@dataclass
class Served:
    """A started front."""

    front: Front
    settings: config.Listener
    registry: CollectorRegistry
    credentials: grpc.ChannelCredentials | None = None
    channels: list[aio.Channel] = field(default_factory=list)
    drained: bool = False

    def channel(self, credentials: grpc.ChannelCredentials | None = None) -> aio.Channel:
        """A connection of its own."""
        credentials = credentials or self.credentials
        options = [("grpc.use_local_subchannel_pool", 1)]
        address = self.front.address
        opened = (
            aio.insecure_channel(address, options)
            if credentials is None
            else aio.secure_channel(address, credentials, options)
        )
        self.channels.append(opened)
        return opened

    def call(
        self, message: bytes = b"", timeout: float | None = None, channel: aio.Channel | None = None
    ) -> Any:
        method = (channel or self.channel()).unary_unary(f"/{SERVICE}/Unary")
        return method(message, timeout=timeout)

    def stream(self) -> Any:
        return self.channel().stream_unary("/test.Streams/Stream")()

    def value(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0

    def calls(self, method: str, code: str) -> float:
        return self.value("mixer_calls_total", method=method, code=code)

    async def drain(self, timeout: float = PATIENCE) -> None:
        self.drained = True
        await self.front.drain(timeout)


Serve = Callable[..., AbstractAsyncContextManager[Served]]


@contextlib.asynccontextmanager
async def served(
    kind: str,
    transport: str,
    *methods: Method,
    tls: Mapping[str, Any] | None = None,
    overload: Mapping[str, Any] | None = None,
    shared: bool = False,
) -> AsyncIterator[Served]:
    """A front of this kind ("asyncio", "grpcio") over this transport ("tcp", "unix"; "tls": with certificates that its
    clients have, too)."""
    with scratch("front") as folder:
        address = f"unix:{folder}/front.sock" if transport == "unix" else "127.0.0.1:0"
        trusted = None
        if transport == "tls":
            authority = Authority()
            (folder / "ca.pem").write_bytes(authority.cert)
            tls = {**write(folder, authority.issue("mixer")), "client_ca": f"{folder}/ca.pem"}
            trusted = credentials(authority, authority.issue("client"))
        settings = config.Listener.model_validate(
            {"address": address, "server": kind, "tls": tls, "overload": overload or {}}
        )
        async with _running(settings, methods, trusted, shared=shared) as running:
            yield running


def another(running: Served, *methods: Method) -> AbstractAsyncContextManager[Served]:
    """A second front of the same kind that shares the address of one that was made `shared`."""
    settings = running.settings.model_copy(update={"address": running.front.address})
    return _running(settings, methods, running.credentials, shared=True)


@contextlib.asynccontextmanager
async def _running(
    settings: config.Listener,
    methods: Sequence[Method],
    trusted: grpc.ChannelCredentials | None,
    *,
    shared: bool,
) -> AsyncIterator[Served]:
    registry = CollectorRegistry()
    front = FRONTS[settings.server](
        "check", settings, methods, Metrics(registry), kept=() if shared else None
    )
    running = Served(front, settings, registry, trusted)
    await running.front.start()
    try:
        yield running
    finally:
        for channel in running.channels:
            await channel.close()
        if not running.drained:
            await running.drain(0.2)
