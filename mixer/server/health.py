"""gRPC health (`grpc.health.v1`) that ends its watches when the server does."""

import asyncio
from collections.abc import Iterable
from typing import Any

from grpc_health.v1 import health
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse


class Health(health.aio.HealthServicer):  # type: ignore[misc, name-defined]
    """SERVING for the server ("") and each service, until `drain`."""

    def __init__(self, services: Iterable[str]) -> None:
        super().__init__()
        self._services = tuple(services)
        self._drained = asyncio.Event()

    async def start(self) -> None:
        for service in self._services:
            await self.set(service, HealthCheckResponse.SERVING)

    async def Watch(self, request: HealthCheckRequest, context: Any) -> None:  # noqa: N802 (the method's name in the protocol)
        watch = asyncio.ensure_future(super().Watch(request, context))
        drained = asyncio.ensure_future(self._drained.wait())
        try:
            await asyncio.wait({watch, drained}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            watch.cancel()
            drained.cancel()

    async def drain(self) -> None:
        """NOT_SERVING, told to those who watch before their streams end."""
        await self.enter_graceful_shutdown()
        await asyncio.sleep(0)  # lets the watches write it
        self._drained.set()
