"""`/metrics`, `/healthz` and `/readyz`, and the pages of what is served."""

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from aiohttp import web
from prometheus_client import CollectorRegistry

from mixer import config
from mixer.errors import StartError
from mixer.exposition import page
from mixer.metrics import Metrics

_SWITCH = 0.0005  # seconds; 10 times more often than Python does it by itself

if TYPE_CHECKING:
    from mixer.server.secured import TlsListener


@contextlib.contextmanager
def _calls_first() -> Iterator[None]:
    """Another thread that works gives way to the loop sooner: a check waits for it several times, each time as long as
    Python lets a thread go on. Measured with a page of 10,000 series, asked for without a pause: p50 and p99 of a check
    12 and 25 ms without, 2.5 and 10 ms with it."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


class AdminServer:
    """`registry`: what `/metrics` shows. `not_ready`: why `/readyz` must say 503; empty when it may say 200, and
    then `degraded` is told beside it: a broker that is away is no reason to send no traffic here. `serving`: what else
    it says then. `pages`: further ones, asked for at the start. With `tls`, over https."""

    def __init__(
        self,
        address: str,
        registry: CollectorRegistry,
        not_ready: Callable[[], Awaitable[list[str]]],
        degraded: Callable[[], list[str]],
        serving: Callable[[], list[str]] = list,
        *,
        pages: Callable[[], Iterable[web.RouteDef]] = tuple,
        tls: tuple[config.Tls, Metrics] | None = None,
    ) -> None:
        self.address = address
        self._registry = registry
        self._not_ready = not_ready
        self._degraded = degraded
        self._serving = serving
        self._pages = pages
        self._tls = tls
        self._listener: TlsListener | None = None
        self._scraping = asyncio.Lock()

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
        if self._tls is not None:
            self._listener = self._secured(*self._tls)
            await self._listener.start()
            self.address = self._listener.address
            return
        host, _, port = self.address.rpartition(":")
        try:
            await web.TCPSite(self._runner, host.strip("[]"), int(port)).start()
        except OSError as error:
            raise StartError(f"cannot listen on {self.address}: {error.strerror or error}") from error
        self.address = f"{host}:{self._runner.addresses[0][1]}"

    def _secured(self, tls: config.Tls, metrics: Metrics) -> "TlsListener":
        from mixer.server.secured import TlsListener

        made: Any = self._runner.server  # makes a protocol for each connection
        return TlsListener("admin", self.address, tls, made, metrics, protocol="http/1.1")

    async def close(self) -> None:
        if self._listener is not None:
            await self._listener.close()
        await self._runner.cleanup()

    async def _metrics(self, request: web.Request) -> web.Response:
        """All series; of those named by `name[]`, as prometheus_client's own exposition takes it, these alone."""
        accept, names = request.headers.get("accept", ""), frozenset(request.query.getall("name[]", []))
        # In a thread, since the text of many series takes long, and calls are answered meanwhile; one after the other.
        async with self._scraping:
            whole = await self._whole()
            with _calls_first():
                text, content_type = await asyncio.to_thread(page, whole, accept, names)
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
