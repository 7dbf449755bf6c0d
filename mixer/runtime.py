"""Settings into a running whole: the services of a role, their backends, and the fronts that serve them."""

import asyncio
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from mixer import config, loaded
from mixer.backends import COUNTERS, FRONTS, otlp_http, record_mask_of, series_of, sinks_of
from mixer.checking import Checking, Prepared
from mixer.loaded import Loaded
from mixer.metrics import Metrics
from mixer.server import threads
from mixer.server.front import ClientStream, Front, Methods, Unary
from mixer.server.listening import Kept
from mixer.telemetry.sink import Reopens
from mixer.tracing.tracer import Tracer

if TYPE_CHECKING:
    from aiohttp.web import RouteDef

    from mixer.ratelimit.counters import Counters
    from mixer.ratelimit.releases import Releases
    from mixer.telemetry.masking import MaskSwitch, RecordMask
    from mixer.telemetry.sink import Sink
    from mixer.tracing.export import Exporter

log = structlog.get_logger()


class Ready(NamedTuple):
    """What `exchange` puts in the place of what serves; None: nothing."""

    checking: Prepared | None
    mask: "RecordMask | None"


@dataclass
class Runtime:
    """The services of one role, their backends, and the fronts that serve them."""

    loaded: Loaded
    role: config.Role
    registry: CollectorRegistry
    metrics: Metrics
    checking: Checking | None = None
    counters: "Counters | None" = None
    releases: "Releases | None" = None
    sinks: "list[Sink[Any]]" = field(default_factory=list)
    fronts: dict[str, Front] = field(default_factory=dict)
    tracer: Tracer | None = None
    exporter: "Exporter | None" = None
    mask: "MaskSwitch | None" = None

    @classmethod
    def build(
        cls, settings: config.Config, role: config.Role, revision: str, files: Loaded | None = None
    ) -> "Runtime":
        """Nothing is opened yet. `revision`: of the settings file; `files`: what the files say that the settings name,
        which are read otherwise. Raises `LoadError`."""
        registry = CollectorRegistry(
            support_collectors_without_names=True
        )  # a process has no names to ask by
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        metrics = Metrics(registry)
        metrics.build.info(
            {"version": version("mixer"), "python": platform.python_version(), "grpcio": version("grpcio")}
        )
        metrics.settings.info({"revision": revision})
        if files is None:
            files = Loaded(settings, revision, "") if role == "report" else loaded.of(settings, revision)
        return cls(files, role, registry, metrics)

    @property
    def settings(self) -> config.Config:
        return self.loaded.settings

    async def start(self, kept: Mapping[str, Kept] = MappingProxyType({})) -> None:
        """Open backends, then serve. `kept`: by listener. Raises `LoadError` or `StartError`; what was opened is then
        for `close`."""
        listeners = self.settings.listeners
        if self.settings.workers.report_scheduling == "idle":
            self._yield_to_checks()
        await self._start_tracing()
        if self.role in ("all", "check"):
            await self._serve("check", listeners.check, await self._check_methods(), kept)
        if self.role in ("all", "report"):
            await self._serve("report", listeners.report, await self._report_methods(kept), kept)
        self.loaded = self.loaded.bare()

    def _yield_to_checks(self) -> None:
        if self.role == "report":
            threads.yield_to_others()
        elif self.role == "all":
            log.warning(
                "report_scheduling_unused", hint="one process has both roles here; see workers.supervised"
            )

    async def prepare(self, files: Loaded) -> Ready:
        """What settings and files change here, made ready beside what serves. Raises `LoadError` or `StartError`; then
        nothing has changed."""
        mask = None if self.mask is None else self._new_mask(files)
        return Ready(None if self.checking is None else await self.checking.prepare(files), mask)

    async def exchange(self, files: Loaded, ready: Ready) -> None:
        """Serve by what was prepared, all of it from one moment on."""
        if self.mask is not None and ready.mask is not None:
            self.mask.mask = ready.mask
        if self.checking is not None and ready.checking is not None:
            await self.checking.exchange(ready.checking)
        self.loaded = files.bare()
        self.metrics.settings.info({"revision": files.revision})

    def reopen(self) -> None:
        """Open the files of sinks anew: somebody has renamed them, to keep or to compress them."""
        for sink in self._all_sinks():
            if isinstance(sink, Reopens):
                sink.reopen()
        log.info("reopened")

    async def discard(self, ready: Ready) -> None:
        """It is not wanted after all."""
        if self.checking is not None and ready.checking is not None:
            await self.checking.discard(ready.checking)

    async def _start_tracing(self) -> None:
        if (settings := self.settings.tracing) is None or self.role == "report":
            return
        from mixer.tracing.export import Exporter

        self.tracer = Tracer(settings.sample, settings.max_waiting, self.metrics)
        self.exporter = Exporter(settings, self.tracer, self.metrics)
        await self.exporter.start()

    async def _serve(
        self, name: str, listener: config.Listener, methods: Methods, kept: Mapping[str, Kept]
    ) -> None:
        front = FRONTS[listener.server](
            name, listener, methods, self.metrics, kept=kept.get(name), tracer=self.tracer
        )
        await front.start()
        self.fronts[name] = front

    async def _check_methods(self) -> Methods:
        rate_limits = self.settings.rate_limits
        counters = None if rate_limits is None else await self._counters(rate_limits)
        alone = self.role == "check" and rate_limits is not None and rate_limits.counters == "memory"
        self.checking = Checking(self.loaded, self.metrics, counters, slots=not alone)
        return await self.checking.start()

    async def _counters(self, settings: config.RateLimits) -> "Counters":
        """Started once, for Check, Quota and Report of this process together."""
        if self.counters is None:
            self.counters = COUNTERS[settings.counters](settings, self.metrics)
            await self.counters.start()
        return self.counters

    def _new_mask(self, files: Loaded) -> "RecordMask | None":
        """What hides parts of records, if anything does. Raises `PolicyError` where the policies have no such rule."""
        if (rule := files.settings.telemetry.mask) is None or files.settings.policy is None:
            return None
        return record_mask_of(files.settings.policy, rule, files.sources, self.metrics)

    async def _report_methods(self, kept: Mapping[str, Kept]) -> Methods:
        from mixer.telemetry.export import ExportService
        from mixer.telemetry.intake_pb2 import StreamAccessLogsMessage
        from mixer.telemetry.record import ACCESS
        from mixer.telemetry.redaction import Redaction
        from mixer.telemetry.service import ReportService

        telemetry = self.settings.telemetry
        if (mask := self._new_mask(self.loaded)) is not None:
            from mixer.telemetry.masking import MaskSwitch

            self.mask = MaskSwitch(mask)
        self.sinks = [series_of(self.settings, self.metrics)]
        self.sinks += sinks_of(telemetry.sinks, self.metrics, ACCESS)
        for sink in self.sinks:
            await sink.start()
        redaction = Redaction(telemetry.redaction.headers, telemetry.redaction.query)
        if (limits := self.settings.rate_limits) is not None and (
            self.role == "all" or limits.counters == "redis"
        ):
            from mixer.ratelimit.releases import Releases

            self.releases = Releases(await self._counters(limits), self.metrics)
        report = ReportService(
            self.sinks,
            self.metrics,
            redaction=redaction,
            metadata=telemetry.dynamic_metadata,
            release=self.releases,
            mask=self.mask,
        )
        export = ExportService(
            self.sinks,
            self.metrics,
            redaction,
            telemetry.export_timeout,
            release=self.releases,
            mask=self.mask,
        )
        streams = "envoy.service.accesslog.v3.AccessLogService"
        logs = "opentelemetry.proto.collector.logs.v1.LogsService"
        if (listener := self.settings.listeners.otlp_http) is not None:
            method = Unary(logs, "ExportHttp", None, export.export)
            front = otlp_http(listener, method, self.metrics, kept.get("otlp_http"))
            await front.start()
            self.fronts["otlp_http"] = front
        return [
            ClientStream(
                streams, "StreamAccessLogs", StreamAccessLogsMessage, report.stream, telemetry.max_stream_age
            ),
            Unary(logs, "Export", None, export.export),
        ]

    async def not_ready(self) -> list[str]:
        """Why this process should get no traffic now."""
        reasons = [] if self.checking is None else await self.checking.not_ready()
        # Report needs the counters for slots alone, which come back by themselves if it must be.
        if self._needs_counters() and self.role != "report" and self.counters is not None:
            reasons += [reason] if (reason := self.counters.ready()) is not None else []
        return reasons

    def degraded(self) -> list[str]:
        """What does not work as it should, though calls are answered: sinks that hold their records back, a shadow
        whose candidate is away, bundles that cannot be had or used, counters that others stand in for."""
        reasons = [
            f"{sink.name}: {status}" for sink in self._all_sinks() if (status := sink.status()) != "ok"
        ]
        checking = [] if self.checking is None else self.checking.degraded()
        if self.counters is not None:
            away = self.counters.ready()
            reasons += self.counters.problems() if away is None else [away]
        return reasons + checking

    def _all_sinks(self) -> "Sequence[Sink[Any]]":
        log = None if self.checking is None else self.checking.decision_log
        return [*self.sinks, *(() if log is None else log.sinks)]

    def _needs_counters(self) -> bool:
        """Whether calls fail without them, as far as the settings say it."""
        rate_limits = self.settings.rate_limits
        return rate_limits is not None and rate_limits.on_error == "error"

    def serving(self) -> list[str]:
        """What is served that may change while this runs."""
        return [] if self.checking is None else self.checking.serving()

    def pages(self) -> "Sequence[RouteDef]":
        """Further pages of the admin listener."""
        from mixer.admin import settings

        limits = None if self.checking is None else self.checking.limit_pages
        return [settings.page(lambda: self.settings), *(() if limits is None else limits.routes())]

    async def close(self, timeout: float) -> None:
        """Drain the fronts, then flush the sinks and give back connections; `timeout` seconds in all."""
        end = time.monotonic() + timeout
        for front in self.fronts.values():
            await front.drain(max(0.1, (end - time.monotonic()) / 2))
        if self.checking is not None:
            await self.checking.end_shadow()
        # All at the same time: one that is away would take the others' time.
        closing = [sink.close(max(0.1, end - time.monotonic())) for sink in self.sinks]
        if self.checking is not None:
            closing.append(self.checking.close_log(end))
        if self.exporter is not None:
            closing.append(self.exporter.close(max(0.1, end - time.monotonic())))
        await asyncio.gather(*closing)
        if self.releases is not None:
            await self.releases.close(max(0.1, end - time.monotonic()))
        if self.counters is not None:
            await self.counters.close()
        if self.checking is not None:
            await self.checking.close()
