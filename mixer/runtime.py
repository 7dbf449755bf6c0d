"""Settings into a running whole: the only module that names concrete backends.

Backends are imported when the settings name them, which keeps an idle process small.
"""

import asyncio
import platform
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal, cast

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from mixer import config
from mixer.errors import PolicyError, Problem, SettingsError, SinkError, StartError
from mixer.metrics import Metrics
from mixer.policy.cache import DecisionCache
from mixer.policy.engine import PolicyEngine
from mixer.policy.references import dotted
from mixer.server.front import ClientStream, Front, Method, Methods, Unary

if TYPE_CHECKING:
    from aiohttp.web import RouteDef

    from mixer.admin.limits import LimitPages
    from mixer.authz.body import Bodies
    from mixer.authz.decided import Observer
    from mixer.authz.routing import Checks
    from mixer.decisions.log import DecisionLog
    from mixer.decisions.policy import LogPolicy
    from mixer.policy.bundle import Bundle
    from mixer.policy.network import Network
    from mixer.policy.polling import Bundles
    from mixer.policy.sources import Sources
    from mixer.ratelimit.counters import Counters
    from mixer.ratelimit.desk import Entry
    from mixer.ratelimit.limits import Limits
    from mixer.ratelimit.quota import Quotas
    from mixer.ratelimit.releases import Releases
    from mixer.ratelimit.service import QuotaService
    from mixer.shadow.shadow import Shadow
    from mixer.shadow.tarball import Tarball
    from mixer.telemetry.masking import RecordMask
    from mixer.telemetry.sink import Kind, Sink

Role = Literal["all", "check", "report"]


def _embedded(
    settings: config.Policy,
    others: Sequence[str] = (),
    loaded: "Sources | None" = None,
    network: "Network | None" = None,
) -> PolicyEngine:
    from mixer.policy.regorus import EmbeddedEngine

    return EmbeddedEngine(settings, loaded=loaded, network=network, others=others)


def _opa(settings: config.Policy, _: Sequence[str] = ()) -> PolicyEngine:
    from mixer.policy.opa import OpaEngine

    if not settings.opa.push:
        return OpaEngine(settings)
    from mixer.policy.regorus import sources_of

    return OpaEngine(settings, sources_of(settings))


def _memory(_: config.RateLimits, metrics: Metrics) -> "Counters":
    from mixer.ratelimit.memory import MemoryCounters

    return MemoryCounters(metrics)


def _redis(settings: config.RateLimits, metrics: Metrics) -> "Counters":
    if settings.redis.mode == "cluster":
        from mixer.ratelimit.cluster import ClusterCounters

        return ClusterCounters(settings, metrics)
    from mixer.ratelimit.redis import RedisCounters

    return RedisCounters(settings, metrics)


def _kafka(settings: Any, metrics: Metrics, kind: "Kind[Any]", name: str) -> "Sink[Any]":
    from mixer.telemetry.kafka import KafkaSink

    return KafkaSink(settings, metrics, kind, name)


def _file(settings: Any, metrics: Metrics, _: "Kind[Any]", name: str) -> "Sink[Any]":
    from mixer.telemetry.file import FileSink

    return FileSink(settings, metrics, name)


def _python(settings: Any, metrics: Metrics, kind: "Kind[Any]", name: str) -> "Sink[Any]":
    """A class of the operator's own."""
    module, _, attribute = settings.factory.partition(":")
    try:
        factory = getattr(import_module(module), attribute)
    except ImportError as error:
        raise SinkError(f"{name}: factory: cannot import {module}: {error}") from error
    except AttributeError:
        raise SinkError(f"{name}: factory: {module} has no {attribute}") from None
    return cast("Sink[Any]", factory(name, settings.settings, metrics))


def _native(settings: config.Listener, methods: Methods, metrics: Metrics) -> Front:
    from mixer.server.native import NativeFront

    return NativeFront(settings, methods, metrics)


def _grpcio(settings: config.Listener, methods: Methods, metrics: Metrics) -> Front:
    from mixer.server.grpcio import GrpcioFront

    return GrpcioFront(settings, methods, metrics)


def bodies_of(settings: config.Policy, *, exact: bool = False) -> "Bodies | None":
    """How bodies are parsed; None: not at all. `exact`: see `Bodies`. Raises `LoadError`."""
    from mixer.authz.body import Bodies
    from mixer.authz.messages import Messages

    if settings.skip_request_body_parse:
        return None
    path = settings.proto_descriptor
    return Bodies(None if path is None else Messages.load(path), exact=exact)


ENGINES: dict[str, Callable[[config.Policy, Sequence[str]], PolicyEngine]] = {
    "embedded": _embedded,
    "opa": _opa,
}
COUNTERS: dict[str, Callable[[config.RateLimits, Metrics], "Counters"]] = {"memory": _memory, "redis": _redis}
SINKS: dict[str, Callable[[Any, Metrics, "Kind[Any]", str], "Sink[Any]"]] = {
    "kafka": _kafka,
    "file": _file,
    "python": _python,
}
FRONTS: dict[str, Callable[[config.Listener, Methods, Metrics], Front]] = {
    "native": _native,
    "grpcio": _grpcio,
}


async def candidate_of(
    policy: config.Policy, compared: Mapping[str, tuple[str, bool]], tarballs: Sequence[bytes] = ()
) -> tuple[PolicyEngine, dict[str, PolicyEngine]]:
    """The shadow's engine, started, and for each decision of the policy that is compared, the engine that makes the
    candidate's. `policy`, `compared`: see `config.Policy`; `tarballs`: of `policy.bundles`. Raises `PolicyError`."""
    from mixer.policy.polling import reader
    from mixer.policy.program import rules_of
    from mixer.policy.regorus import sources_of

    read = reader(policy)
    bundles = [read(each, raw) for each, raw in zip(policy.bundles, tarballs, strict=True)]
    loaded = sources_of(policy, bundles)
    there = [f"{rule}/" for rule in rules_of(loaded.modules)]
    chosen = {
        live: path
        for live, (path, needed) in compared.items()
        if needed or any(rule.startswith(f"{path}/") for rule in there)
    }
    decisions = {"decision": next(iter(chosen.values())), "decisions": chosen}
    engine = _embedded(policy.model_copy(update=decisions), loaded=loaded)
    await engine.start()
    return engine, {live: engine.of(path) for live, path in chosen.items()}


@dataclass
class Runtime:
    """The services of one role, their backends, and the fronts that serve them."""

    settings: config.Config
    role: Role
    registry: CollectorRegistry
    metrics: Metrics
    engine: PolicyEngine | None = None
    shadow: "Shadow | None" = None
    shadow_bundles: "Bundles[Tarball] | None" = None
    bundles: "Bundles[Bundle] | None" = None
    network: "Network | None" = None  # of policies that come in bundles
    counters: "Counters | None" = None
    quotas: "Quotas | None" = None
    releases: "Releases | None" = None
    sinks: "list[Sink[Any]]" = field(default_factory=list)
    decision_log: "DecisionLog | None" = None
    fronts: dict[str, Front] = field(default_factory=dict)
    limit_pages: "LimitPages | None" = None

    @classmethod
    def build(cls, settings: config.Config, role: Role, revision: str) -> "Runtime":
        """Nothing is opened yet. `revision`: of the settings file."""
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
        return cls(settings, role, registry, metrics)

    async def start(self) -> None:
        """Open backends, then serve. Raises `LoadError` or `StartError`; what was opened is then for `close`."""
        listeners = self.settings.listeners
        if self.role in ("all", "check"):
            await self._serve("check", listeners.check, await self._check_methods())
        if self.role in ("all", "report"):
            await self._serve("report", listeners.report, await self._report_methods())

    async def _serve(self, name: str, listener: config.Listener, methods: Methods) -> None:
        front = FRONTS[listener.server](listener, methods, self.metrics)
        await front.start()
        self.fronts[name] = front

    async def _check_methods(self) -> Methods:
        methods: list[Method] = []
        if (rate_limits := self.settings.rate_limits) is not None:
            quota = await self._quotas(rate_limits)
            service = "envoy.service.ratelimit.v3.RateLimitService"
            methods.append(Unary(service, "ShouldRateLimit", None, quota.should_rate_limit))
        if (policy := self.settings.policy) is not None:
            from envoy.service.auth.v3.external_auth_pb2 import CheckRequest

            if not policy.bundles:
                self.engine = ENGINES[policy.engine](policy, self._others())
                await self.engine.start()
            if (log_settings := self.settings.decision_log) is not None:
                self.decision_log = self._decision_log(log_settings, policy)
                await self.decision_log.start()
            await self._start_shadow(policy)
            check: Checks
            if self.engine is not None:
                check = self._checks(policy, self.engine)
            else:
                check = await self._by_bundles(policy)
            service = "envoy.service.auth.v3.Authorization"
            methods.append(Unary(service, "Check", CheckRequest, check.check, check.check_all))
        return methods

    def _others(self) -> tuple[str, ...]:
        """Rules that the engine is asked for beside those of `policy`."""
        limits = self.settings.rate_limits
        return () if limits is None or limits.decision is None else (limits.decision,)

    async def _quotas(self, settings: config.RateLimits) -> "QuotaService":
        """Quota, without a rule that gives limits yet."""
        from mixer.admin.limits import LimitPages
        from mixer.ratelimit.desk import Desk
        from mixer.ratelimit.memory import MemoryCounters
        from mixer.ratelimit.quota import Quotas

        counters, limits = await self._counters(settings), limits_of(settings)
        alone = self.role == "check" and settings.counters == "memory"
        shares = MemoryCounters(self.metrics)
        self.quotas = Quotas(limits, counters, settings, self.metrics, local=shares, slots=not alone)
        self.limit_pages = LimitPages(Desk(limits, counters), self.quotas.service.should_rate_limit)
        return self.quotas.service

    async def _counters(self, settings: config.RateLimits) -> "Counters":
        """Started once, for Check, Quota and Report of this process together."""
        if self.counters is None:
            self.counters = COUNTERS[settings.counters](settings, self.metrics)
            await self.counters.start()
        return self.counters

    async def _by_bundles(self, policy: config.Policy) -> "Checks":
        """Check by the policy of the latest bundles."""
        from mixer.authz.switch import Switch
        from mixer.decisions.policy import LogPolicy
        from mixer.policy.network import Network
        from mixer.policy.polling import Bundles, reader
        from mixer.policy.regorus import sources_of
        from mixer.policy.waiting import WaitingEngine

        # Nobody observes what there is no policy for: what is to be masked is not known yet.
        self.engine = WaitingEngine(policy.decision)
        switch = Switch(self._checks(policy, self.engine, observed=False))
        # One for all revisions: an evaluation may wait while its policy is exchanged, and replies are kept.
        network = self.network = Network(policy.http)

        async def activate(bundles: "Sequence[Bundle]") -> None:
            loaded = sources_of(policy, bundles)
            log_policy = LogPolicy(loaded) if self.decision_log is not None else None
            engine = _embedded(policy, self._others(), loaded, network)
            await engine.start()
            # From here on without a pause: a request finds all of the old policy, or all of the new one.
            switch.current = self._checks(policy, engine)
            self.engine = engine
            if self.decision_log is not None:
                self.decision_log.policy, self.decision_log.bundles = log_policy, loaded.bundles

        self.bundles = Bundles(policy, self.metrics, reader(policy), activate)
        await self.bundles.start()
        return switch

    def _checks(self, policy: config.Policy, engine: PolicyEngine, observed: bool = True) -> "Checks":
        """Check by the engine's decision, and by the others where there are any."""
        from mixer.authz.routing import Routing
        from mixer.authz.service import CheckService

        bodies = bodies_of(policy, exact=policy.engine == "opa")  # the embedded engine has doubles alone

        caches: list[DecisionCache] = []
        observer: Observer | None = None
        if observed and self.shadow is not None:
            observer = self.shadow.observe
        elif observed and self.decision_log is not None:
            observer = self.decision_log.observe

        def told() -> None:
            self.metrics.policy.info(
                {"engine": engine.name, "decision": engine.decision, "revision": engine.revision}
            )

        def new_cache() -> DecisionCache | None:
            if policy.cache is None:
                return None
            caches.append(cache := DecisionCache(policy.cache.max_entries, policy.cache.ttl, self.metrics))
            return cache

        limiter = None
        if self.quotas is not None:
            rules = [(engine.of(decision), new_cache()) for decision in self._others()]
            limiter = self.quotas.by_rule(*rules[0]) if rules else self.quotas.limiter()

        def service(engine: PolicyEngine, adopted: Callable[[], None] = lambda: None) -> CheckService:
            return CheckService(
                *(engine, new_cache(), self.metrics),
                observer=observer,
                bodies=bodies,
                dry_run=policy.dry_run,
                adopted=adopted,
                limiter=limiter,
            )

        default = service(engine, told)
        named = {name: service(engine.of(decision)) for name, decision in policy.decisions.items()}
        self.metrics.cache_entries.set_function(lambda: sum(map(len, caches)))
        return Routing(default, named, self.metrics) if named else default

    async def _start_shadow(self, policy: config.Policy) -> None:
        """Its candidate is compared with whatever decides, also after that has been exchanged."""
        if policy.shadow is None or (candidate := policy.candidate()) is None:
            return
        from mixer.shadow.candidate import Candidate
        from mixer.shadow.shadow import Shadow

        compared, logging = policy.compared(), self.settings.logging
        observer = self.decision_log.observe if self.decision_log is not None else None
        first = None if candidate.bundles else Candidate(candidate, compared, logging)
        shadow = self.shadow = Shadow(policy.shadow, first, self.metrics, observer)
        await shadow.start()
        if not candidate.bundles:
            return
        from mixer.policy.polling import Bundles
        from mixer.shadow.tarball import Tarball

        async def activate(tarballs: "Sequence[Tarball]") -> None:
            fresh = Candidate(candidate, compared, logging, [tarball.raw for tarball in tarballs])
            try:
                await fresh.start()
            except StartError as error:
                raise PolicyError([Problem("policy.shadow.bundles", "", str(error))]) from None
            for tarball in tarballs:
                tarball.revision = fresh.revision
            await shadow.exchange(fresh)

        # Its process reads them: that takes time, which is not to be taken from the answers.
        self.shadow_bundles = Bundles(candidate, self.metrics, Tarball.of, activate)
        await self.shadow_bundles.start()

    def _decision_log(self, settings: config.DecisionLog, policy: config.Policy) -> "DecisionLog":
        from mixer.authz.input import WholeInput
        from mixer.decisions.event import DECISIONS
        from mixer.decisions.log import DecisionLog

        log_policy, bundles = _log_policy(policy)
        return DecisionLog(
            settings,
            self._sinks(settings.sinks, DECISIONS, "decisions-"),
            {**settings.labels, "id": str(uuid.uuid4()), "version": version("mixer")},  # as OPA has them
            self.metrics,
            policy=log_policy,
            bundles=bundles,
            build=WholeInput(bodies_of(policy)).build if settings.input == "all" else None,
        )

    def _sinks(self, settings: Sequence[Any], kind: "Kind[Any]", prefix: str = "") -> "list[Sink[Any]]":
        """Each named by its type, and by its place where there are several of that."""
        types = [sink.type for sink in settings]
        names = [type_ if types.count(type_) == 1 else f"{type_}-{at}" for at, type_ in enumerate(types)]
        return [
            SINKS[sink.type](sink, self.metrics, kind, prefix + name)
            for sink, name in zip(settings, names, strict=True)
        ]

    async def _report_methods(self) -> Methods:
        from mixer.telemetry.export import ExportService
        from mixer.telemetry.intake_pb2 import StreamAccessLogsMessage
        from mixer.telemetry.prometheus import PrometheusSink
        from mixer.telemetry.record import ACCESS
        from mixer.telemetry.redaction import Redaction
        from mixer.telemetry.service import ReportService

        telemetry = self.settings.telemetry
        mask = _record_mask(self.settings, self.metrics)
        self.sinks = [PrometheusSink(telemetry.max_series, self.metrics)]
        self.sinks += self._sinks(telemetry.sinks, ACCESS)
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
            mask=mask,
        )
        export = ExportService(
            self.sinks,
            self.metrics,
            redaction,
            telemetry.export_timeout,
            release=self.releases,
            mask=mask,
        )
        streams = "envoy.service.accesslog.v3.AccessLogService"
        logs = "opentelemetry.proto.collector.logs.v1.LogsService"
        if (listener := self.settings.listeners.otlp_http) is not None:
            from mixer.server.otlp_http import OtlpHttpFront

            method = Unary(logs, "ExportHttp", None, export.export)
            front = OtlpHttpFront(listener, method, self.metrics)
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
        reasons = [await self.engine.ready()] if self.engine else []
        if self.bundles is not None and not self.bundles.activated:
            reasons += self.bundles.problems()
        # Report needs the counters for slots alone, which come back by themselves if it must be.
        if self._needs_counters() and self.role != "report":
            reasons += [self.counters.ready()] if self.counters else []
        return [reason for reason in reasons if reason is not None]

    def degraded(self) -> list[str]:
        """What does not work as it should, though calls are answered: sinks that hold their records back, a shadow
        whose candidate is away, bundles that cannot be had or used, counters that others stand in for."""
        sinks = [*self.sinks, *(self.decision_log.sinks if self.decision_log is not None else ())]
        reasons = [f"{sink.name}: {status}" for sink in sinks if (status := sink.status()) != "ok"]
        if self.shadow is not None and (status := self.shadow.status()) != "ok":
            reasons.append(f"shadow: {status}")
        if self.shadow_bundles is not None:
            reasons += [f"shadow: {problem}" for problem in self.shadow_bundles.problems()]
        if self.counters is not None:
            away = self.counters.ready()
            reasons += self.counters.problems() if away is None else [away]
        return reasons + (self.bundles.problems() if self.bundles is not None else [])

    def _needs_counters(self) -> bool:
        """Whether calls fail without them, as far as the settings say it."""
        rate_limits = self.settings.rate_limits
        return rate_limits is not None and rate_limits.on_error == "error"

    def serving(self) -> list[str]:
        """What is served that may change while this runs: the policy's revision, where it comes in bundles or is pushed
        to an OPA server."""
        pushed = self.settings.policy is not None and self.settings.policy.opa.push
        if self.engine is None or (self.bundles is None and not pushed):
            return []
        return [f"policy: revision {self.engine.revision}"]

    def pages(self) -> "Sequence[RouteDef]":
        """Further pages of the admin listener."""
        return self.limit_pages.routes() if self.limit_pages is not None else ()

    def reopen(self) -> None:
        """Files of records were moved away: open them anew."""
        log_sinks = self.decision_log.sinks if self.decision_log is not None else ()
        for sink in (*self.sinks, *log_sinks):
            if (reopen := getattr(sink, "reopen", None)) is not None:  # what writes to a file
                reopen()

    async def close(self, timeout: float) -> None:
        """Drain the fronts, then flush the sinks and give back connections; `timeout` seconds in all."""
        end = time.monotonic() + timeout
        for front in self.fronts.values():
            await front.drain(max(0.1, (end - time.monotonic()) / 2))
        if self.shadow_bundles is not None:
            await self.shadow_bundles.close()
        if self.shadow is not None:
            await self.shadow.close()
        # All at the same time: one that is away would take the others' time.
        closing = [sink.close(max(0.1, end - time.monotonic())) for sink in self.sinks]
        if self.decision_log is not None:
            closing.append(self.decision_log.close(max(0.1, end - time.monotonic())))
        await asyncio.gather(*closing)
        if self.releases is not None:
            await self.releases.close(max(0.1, end - time.monotonic()))
        if self.counters is not None:
            await self.counters.close()
        if self.bundles is not None:
            await self.bundles.close()
        if self.engine is not None:
            await self.engine.close()
        if self.network is not None:
            await self.network.close()


def _record_mask(settings: config.Config, metrics: Metrics) -> "RecordMask | None":
    """Raises `PolicyError` where the policies have no such rule."""
    if settings.telemetry.mask is None or settings.policy is None:
        return None
    from mixer.policy.regorus import sources_of
    from mixer.telemetry.masking import RecordMask

    return RecordMask(sources_of(settings.policy), settings.telemetry.mask, metrics)


def _log_policy(policy: config.Policy) -> "tuple[LogPolicy | None, Mapping[str, str]]":
    """`system.log` of the policies on disk, which the embedded engine evaluates whatever decides, and the bundles among
    them if they decide. Those of `policy.bundles` come later."""
    from mixer.decisions.policy import LogPolicy
    from mixer.policy.regorus import sources_of

    if policy.bundles or not policy.paths:
        return None, {}
    loaded = sources_of(policy)
    return LogPolicy(loaded), loaded.bundles if policy.engine == "embedded" else {}


async def validate(settings: config.Config) -> list[str]:
    """Load what the settings name, without serving or connecting: a line each on what was found. Raises `LoadError`."""
    lines: list[str] = []
    if settings.policy is not None:
        lines += await _validate_policy(settings, settings.policy)
    if settings.telemetry.mask is not None:
        _record_mask(settings, Metrics(CollectorRegistry()))
        lines.append(f"telemetry.mask: {settings.telemetry.mask}")
    if (rate_limits := settings.rate_limits) is not None and rate_limits.paths:
        lines.append(f"rate limits: {limits_of(rate_limits).summary()}")
    return lines


async def _validate_policy(settings: config.Config, policy: config.Policy) -> list[str]:
    lines: list[str] = []
    limits_decision = None if settings.rate_limits is None else settings.rate_limits.decision
    bodies_of(policy)
    if policy.dry_run:
        lines.append("policy.dry_run: what the policy denies passes; it is counted and logged")
    if policy.bundles:
        lines.append(f"policy: {policy.decision}, {_told_bundles(policy)}")
    elif policy.engine == "embedded":
        engine = ENGINES["embedded"](policy, () if limits_decision is None else (limits_decision,))
        await engine.start()
        lines += _told("policy", engine)
        for name, decision in policy.decisions.items():
            lines += _told(f"policy.decisions.{name}", engine.of(decision))
        if limits_decision is not None:
            lines += _told("rate_limits.decision", engine.of(limits_decision))
    else:
        lines.append(f"policy: {policy.decision}, decided by OPA at {policy.opa.url}")
        lines += [f"policy.decisions.{name}: {path}" for name, path in policy.decisions.items()]
        if limits_decision is not None:
            lines.append(f"rate_limits.decision: {limits_decision}, decided there too")
        if policy.opa.push:
            from mixer.policy.regorus import sources_of

            loaded = sources_of(policy)
            count = len(loaded.modules)
            lines.append(f"policy.paths: pushed to OPA, revision {loaded.revision}; modules: {count}")
        elif policy.paths:
            lines.append(
                "policy.paths: the server has its own policies; with policy.opa.push: true it gets these"
            )
    if settings.decision_log is not None and not policy.bundles:
        log_policy, _ = _log_policy(policy)
        rules = [f"system.log.{rule}" for rule in log_policy.rules] if log_policy is not None else []
        lines.append(f"decision log: {' and '.join(rules) or 'no rule of system.log'}")
    if (candidate := policy.candidate()) is not None:
        lines += await _told_shadow(policy, candidate)
    return lines


def limits_of(settings: config.RateLimits) -> "Limits":
    """What the limits files say. Raises `LimitsError`."""
    from mixer.ratelimit import limits

    return limits.load(
        settings.paths,
        settings.merge_domain_config,
        counts_over=settings.count_over_limit,
        key_format=settings.key_format,
        has_shares=settings.instances is not None,
    )


async def at_desk(
    settings: config.Config,
    rate_limits: config.RateLimits,
    do: Literal["peek", "reset"],
    domain: str,
    entries: "Sequence[Entry]",
) -> dict[str, Any]:
    """Look at the counter of a descriptor, or set it back: in Redis, or where counters are in memory, by the server
    that has them. Raises `MixerError`."""
    if rate_limits.counters == "memory":
        return await _at_admin(settings.listeners.admin.address, do, domain, entries)
    from mixer.ratelimit.desk import Desk

    counters = COUNTERS[rate_limits.counters](rate_limits, Metrics(CollectorRegistry()))
    await counters.start()
    try:
        desk = Desk(limits_of(rate_limits), counters)
        seen = await (desk.peek if do == "peek" else desk.reset)(domain, entries)
    finally:
        await counters.close()
    return seen.plain()


async def _at_admin(address: str, do: str, domain: str, entries: "Sequence[Entry]") -> dict[str, Any]:
    from mixer.admin.client import ask

    if address.endswith(":0"):
        raise StartError(
            f"the counters are in the memory of the server, which is asked on listeners.admin.address; {address} does "
            "not say on which port"
        )
    descriptor = {"entries": [entry._asdict() for entry in entries]}
    try:
        (found,) = await ask(address, f"/limits/{do}", {"domain": domain, "descriptors": [descriptor]})
    except StartError as error:
        raise StartError(f"the counters are in the memory of the server; {error}") from error
    return found  # type: ignore[no-any-return]


async def deps(policy: config.Policy) -> list[str]:
    """What the decisions of the policies depend on, in lines. Those of an OPA server that has its own are asked for.
    Raises `LoadError`, and `StartError` where the server does not show them."""
    from mixer.policy.deps import deps as told
    from mixer.policy.regorus import sources_of

    if policy.engine == "opa" and not policy.opa.push:
        from mixer.policy.opa_server import shown

        return list(told(policy, await shown(policy.opa)))
    if not policy.paths:
        missing = "the policies are not known here, a bundle has them; name them by their paths"
        raise SettingsError([Problem("policy.paths", "", missing)])
    return list(told(policy, sources_of(policy).modules))


def _told_bundles(policy: config.Policy) -> str:
    """What there is to say of bundles that are not fetched here. Raises `PolicyError` for keys and certificates."""
    from mixer.policy.signatures import keys
    from mixer.trust import trust

    for bundle in policy.bundles:
        trust(bundle.tls)
    keys(policy.keys)
    names = ", ".join(each.name for each in policy.bundles)
    return f"from bundles that are not fetched here: {names}"


async def _told_shadow(policy: config.Policy, candidate: config.Policy) -> list[str]:
    if candidate.bundles:
        return [f"policy.shadow: {_told_bundles(candidate)}"]
    _, engines = await candidate_of(candidate, policy.compared())
    # The first line of each: a candidate has no cache.
    return [
        _told("policy.shadow" if live == policy.decision else f"policy.shadow, beside {live}", engine)[0]
        for live, engine in engines.items()
    ]


def _told(what: str, engine: PolicyEngine) -> list[str]:
    """What was found out of a decision of the embedded engine."""
    from mixer.policy.regorus import EmbeddedEngine

    references = engine.references
    reads = ", ".join(map(dotted, sorted(references.paths))) or "nothing of the input"
    lines = [f"{what}: {engine.decision}, revision {engine.revision}; reads {reads}"]
    if isinstance(engine, EmbeddedEngine) and engine.interpreted is not None:
        lines.append(
            f"evaluated by the interpreter, about four times slower than compiled, because of {engine.interpreted}"
        )
    if references.uncacheable:
        lines.append(
            "decision cache: off but for decisions with a cache_ttl, since the policy calls "
            + ", ".join(references.uncacheable)
        )
    return lines
