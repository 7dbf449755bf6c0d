"""The native front: pygrpc-native, whose HTTP/2 work runs in Rust beside the event loop. Plaintext only.

Streams go through a grpc.aio server behind it, so they work here too, at grpcio's speed.
"""

from grpc_health.v1 import health_pb2_grpc
from pygrpc_native.aio import Server

from mixer import config
from mixer.metrics import Metrics
from mixer.server.front import Methods
from mixer.server.grpcio import OPTIONS, bound, cannot_listen
from mixer.server.handlers import Handlers
from mixer.server.health import Health


class NativeFront:
    """See `Front`."""

    def __init__(self, settings: config.Listener, methods: Methods, metrics: Metrics) -> None:
        self.address = settings.address
        self._handlers = Handlers(methods, metrics)

    async def start(self) -> None:
        self._server = Server(options=OPTIONS, io_threads=1)
        services = self._handlers.by_service()
        for service, handlers in services.items():
            self._server.add_registered_method_handlers(service, handlers)
        self._health = Health(services)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        try:
            port = self._server.add_insecure_port(self.address)
        except RuntimeError:
            raise cannot_listen(self.address) from None
        self.address = bound(self.address, port)
        await self._health.start()
        await self._server.start()

    async def drain(self, timeout: float) -> None:
        await self._health.drain()
        await self._handlers.drain(timeout / 2)
        await self._server.stop(timeout / 2)
