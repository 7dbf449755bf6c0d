"""The grpcio front: `grpc.aio`. Streams and reflection; a sixth of the asyncio front's calls a second."""

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from mixer import config
from mixer.metrics import Metrics
from mixer.server import threads
from mixer.server.front import Methods
from mixer.server.handing_over import hand_over
from mixer.server.handlers import Handlers
from mixer.server.health import Health
from mixer.server.listening import OPTIONS, SHARED_OPTIONS, Kept, bound, cannot_listen, publish, to_bind
from mixer.tracing.tracer import Tracer


class GrpcioFront:
    """See `Front`."""

    def __init__(
        self,
        settings: config.Listener,
        methods: Methods,
        metrics: Metrics,
        *,
        kept: Kept = None,
        tracer: Tracer | None = None,
    ) -> None:
        self.address = settings.address
        self._kept = kept
        self._handlers = Handlers(methods, metrics, tracer, settings.overload)

    async def start(self) -> None:
        address = to_bind(self.address, self._kept)
        with threads.made_batch():
            self._server = aio.server(options=OPTIONS if self._kept is None else SHARED_OPTIONS)
        services = self._handlers.by_service()
        for service, handlers in services.items():
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        self._health = Health(services)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (*services, "grpc.health.v1.Health", reflection.SERVICE_NAME), self._server
        )
        self.address = self._bind(address)
        await self._health.start()
        await self._server.start()
        publish(self.address, self._kept)

    def _bind(self, address: str) -> str:
        try:
            port = self._server.add_insecure_port(address)
        except RuntimeError:
            raise cannot_listen(self.address) from None
        return bound(self.address, port)

    async def hand_over(self, timeout: float) -> None:
        await hand_over(self.address, timeout)

    async def drain(self, timeout: float) -> None:
        await self._health.drain()
        await self._handlers.drain(timeout / 2)
        await self._server.stop(timeout / 2)
