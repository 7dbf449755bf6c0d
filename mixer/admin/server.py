"""`/metrics`, `/healthz` and `/readyz`, and the pages of what is served."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from aiohttp import web
from prometheus_client import CollectorRegistry

from mixer.errors import StartError
from mixer.exposition import page


class AdminServer:
    """`registry`: what `/metrics` shows. `not_ready`: why `/readyz` must say 503; empty when it may say 200, and
    then `degraded` is told beside it: a broker that is away is no reason to send no traffic here. `serving`: what else
    it says then. `pages`: further ones, asked for at the start."""

    def __init__(
        self,
        address: str,
        registry: CollectorRegistry,
        not_ready: Callable[[], Awaitable[list[str]]],
        degraded: Callable[[], list[str]],
        serving: Callable[[], list[str]] = list,
        *,
        pages: Callable[[], Iterable[web.RouteDef]] = tuple,
    ) -> None:
        self.address = address
        self._registry = registry
        self._not_ready = not_ready
        self._degraded = degraded
        self._serving = serving
        self._pages = pages

    async def start(self) -> None:
        """Raises `StartError` where the address cannot be had."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/metrics", self._metrics),
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                *self._pages(),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await self._runner.setup()
        if self.address.startswith("unix:"):
            await web.UnixSite(self._runner, self.address.removeprefix("unix:")).start()
            return
        host, _, port = self.address.rpartition(":")
        try:
            await web.TCPSite(self._runner, host.strip("[]"), int(port)).start()
        except OSError as error:
            raise StartError(f"cannot listen on {self.address}: {error.strerror or error}") from error
        self.address = f"{host}:{self._runner.addresses[0][1]}"

    async def close(self) -> None:
        await self._runner.cleanup()

    async def _metrics(self, request: web.Request) -> web.Response:
        """All series; of those named by `name[]`, as prometheus_client's own exposition takes it, these alone."""
        accept, names = request.headers.get("accept", ""), frozenset(request.query.getall("name[]", []))
        # In a thread: 10,000 label sets take seconds, and calls are answered meanwhile.
        text, content_type = await asyncio.to_thread(page, await self._whole(), accept, names)
        return web.Response(body=text, headers={"content-type": content_type})

    async def _whole(self) -> CollectorRegistry:
        """What there is to show."""
        return self._registry

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        reasons = await self._not_ready()
        if reasons:
            return web.Response(status=503, text="".join(f"not ready: {reason}\n" for reason in reasons))
        return web.Response(
            text="".join(
                (
                    "ready\n",
                    *(f"{line}\n" for line in self._serving()),
                    *(f"degraded: {reason}\n" for reason in self._degraded()),
                )
            )
        )
