"""The admin listener of the supervisor: what all workers have to say, as one."""

import asyncio
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import aiohttp
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from mixer import config
from mixer.admin.merged import Merged
from mixer.admin.near import is_near
from mixer.admin.server import AdminServer
from mixer.exposition import load
from mixer.supervision import FAMILIES
from mixer.supervision.process import Process
from mixer.supervision.slot import Slot

_TIMEOUT = 2.0  # seconds for which a worker is asked
_ASKED_BY = ("content-type", "accept")  # headers that a worker is told
_PAGES = (
    *(("GET", "/config"), ("POST", "/json"), ("GET", "/rlconfig")),
    *(("POST", "/limits/peek"), ("POST", "/limits/reset")),
)


class _Whole(Collector):
    """The supervisor's own metrics, and those of the workers."""

    def __init__(self, own: CollectorRegistry, workers: Merged) -> None:
        self._own = own
        self._workers = workers

    def collect(self) -> Iterator[Metric]:
        yield from self._own.collect()
        yield from self._workers.collect()

    def describe(self) -> Iterable[Metric]:
        """None: which there are is for the workers to say."""
        return ()


class SupervisorAdmin(AdminServer):
    """`slots`: the workers; `problems`: of reloads. `/readyz` says 503 while a role has no worker that is ready; a
    worker that is away while others of its role serve is told beside."""

    def __init__(
        self,
        address: str,
        registry: CollectorRegistry,
        slots: list[Slot],
        problems: Callable[[], list[str]],
        telemetry: config.Telemetry,
    ) -> None:
        self._workers = Merged(telemetry.max_series, telemetry.series_ttl)
        whole = CollectorRegistry(support_collectors_without_names=True)
        whole.register(_Whole(registry, self._workers))
        super().__init__(
            address, whole, self._roles_away, self._told_of, self._serving_by, pages=self._passed_on
        )
        self._slots = slots
        self._problems = problems
        self._kept: set[Process] = set()
        self._told: dict[str, list[str]] = {"degraded": [], "serving": []}

    def keep(self, process: Process) -> None:
        """It is gone: what it has counted stays in the totals."""
        if process not in self._kept:
            if process.metrics is not None:
                self._workers.put(process.id, load(process.metrics.encode()))
            self._workers.retire(process.id)
        self._kept.add(process)

    async def _whole(self) -> CollectorRegistry:
        for process, (status, text) in await self._asked(FAMILIES):
            if status == 200:
                families = await asyncio.to_thread(load, text.encode())
                if process not in self._kept:
                    self._workers.put(process.id, families)
        return await super()._whole()

    async def _roles_away(self) -> list[str]:
        answers = dict(await self._asked("/readyz"))
        away: dict[str, list[str]] = {}
        ready: set[str] = set()
        told: dict[str, list[str]] = {"degraded": [], "serving": []}
        for slot in self._slots:
            name = f"{slot.role} worker {slot.number}"
            status, text = answers.get(slot.process, (0, "")) if slot.process is not None else (0, "")
            if status == 200:
                ready.add(slot.role)
                for line in text.splitlines()[1:]:
                    kind, _, rest = line.partition(": ")
                    told["degraded" if kind == "degraded" else "serving"].append(
                        f"{name}: {rest}" if kind == "degraded" else line
                    )
            elif status:
                reasons = [line.removeprefix("not ready: ") for line in text.splitlines()]
                away.setdefault(slot.role, []).extend(f"{name}: {reason}" for reason in reasons)
            else:
                away.setdefault(slot.role, []).append(f"{name} {slot.trouble or 'does not answer'}")
        told["degraded"] += [reason for role, reasons in away.items() if role in ready for reason in reasons]
        told["serving"] = sorted(set(told["serving"]))
        self._told = told
        return [reason for role, reasons in away.items() if role not in ready for reason in reasons]

    def _told_of(self) -> list[str]:
        return [*self._told["degraded"], *self._problems()]

    def _serving_by(self) -> list[str]:
        return self._told["serving"]

    async def _asked(self, path: str) -> list[tuple[Process, tuple[int, str]]]:
        """What each worker answers; (0, "") where it does not."""
        processes = [slot.process for slot in self._slots if slot.process is not None]
        answers = await asyncio.gather(*(_ask(process, "GET", path) for process in processes))
        return list(zip(processes, answers, strict=True))

    def _passed_on(self) -> Iterable[web.RouteDef]:
        return [web.route(method, path, self._pass_on) for method, path in _PAGES]

    async def _pass_on(self, request: web.Request) -> web.Response:
        """To the first check worker: all of them have the same limits, and counters in memory there are only of one."""
        if not is_near(request.remote):
            return web.Response(status=403, text="only for callers on this machine: 127.0.0.1 or ::1\n")
        for slot in self._slots:
            if slot.role == "check" and slot.process is not None:
                headers = {name: request.headers[name] for name in _ASKED_BY if name in request.headers}
                status, text = await _ask(
                    slot.process, request.method, request.path, await request.read(), headers
                )
                if status:
                    kind = "application/json" if re.match(r"\s*[{\[]", text) else "text/plain"
                    return web.Response(status=status, text=text, content_type=kind)
        return web.Response(status=503, text="no check worker answers\n")


async def _ask(
    process: Process, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, str]:
    """Status and text; (0, "") where it does not answer."""
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT)
    options: dict[str, Any] = {"data": body, "headers": headers}
    try:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(process.admin), timeout=timeout) as session,
            session.request(method, f"http://worker{path}", **options) as answer,
        ):
            return answer.status, await answer.text()
    except (aiohttp.ClientError, OSError, TimeoutError):
        return 0, ""
