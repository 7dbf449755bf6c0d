"""Settings into a running whole: the only module that names concrete backends.

Backends are imported when the settings name them, which keeps an idle process small.
"""

import asyncio
import platform
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from mixer import config
from mixer.errors import Problem, SettingsError
from mixer.metrics import Metrics
from mixer.policy.cache import DecisionCache
from mixer.policy.engine import PolicyEngine
from mixer.policy.references import dotted
from mixer.server.front import ClientStream, Front, Method, Methods, Unary

if TYPE_CHECKING:
    from mixer.authz.body import Bodies
    from mixer.authz.decided import Observer
    from mixer.authz.routing import Checks
    from mixer.decisions.log import DecisionLog
    from mixer.decisions.policy import LogPolicy
    from mixer.policy.bundle import Bundle
    from mixer.policy.polling import Bundles
    from mixer.policy.sources import Sources
    from mixer.ratelimit.counters import Counters
    from mixer.ratelimit.limits import Limits
    from mixer.ratelimit.quota import Quotas
    from mixer.ratelimit.releases import Releases
    from mixer.ratelimit.service import QuotaService
    from mixer.shadow.shadow import Shadow
    from mixer.telemetry.sink import Kind, Sink

Role = Literal["all", "check", "report"]


def _embedded(
    settings: config.Policy, others: Sequence[str] = (), loaded: "Sources | None" = None
) -> PolicyEngine:
    from mixer.policy.regorus import EmbeddedEngine

    return EmbeddedEngine(settings, loaded=loaded, others=others)


def _opa(settings: config.Policy, _: Sequence[str] = ()) -> PolicyEngine:
    from mixer.policy.opa import OpaEngine

    return OpaEngine(settings)


def _memory(_: config.RateLimits, metrics: Metrics) -> "Counters":
    from mixer.ratelimit.memory import MemoryCounters

    return MemoryCounters(metrics)


def _redis(settings: config.RateLimits, metrics: Metrics) -> "Counters":
    from mixer.ratelimit.redis import RedisCounters

    return RedisCounters(settings, metrics)


def _kafka(settings: Any, metrics: Metrics, kind: "Kind[Any]", name: str) -> "Sink[Any]":
    from mixer.telemetry.kafka import KafkaSink

    return KafkaSink(settings, metrics, kind, name)


def _file(settings: Any, metrics: Metrics, _: "Kind[Any]", name: str) -> "Sink[Any]":
    from mixer.telemetry.file import FileSink

    return FileSink(settings, metrics, name)


def _native(settings: config.Listener, methods: Methods, metrics: Metrics) -> Front:
    from mixer.server.native import NativeFront

    return NativeFront(settings, methods, metrics)


def _grpcio(settings: config.Listener, methods: Methods, metrics: Metrics) -> Front:
    from mixer.server.grpcio import GrpcioFront

    return GrpcioFront(settings, methods, metrics)


def bodies_of(settings: config.Policy) -> "Bodies | None":
    """How bodies are parsed; None: not at all. Raises `LoadError`."""
    from mixer.authz.body import Bodies
    from mixer.authz.messages import Messages

    if settings.skip_request_body_parse:
        return None
    path = settings.proto_descriptor
    return Bodies(None if path is None else Messages.load(path))


ENGINES: dict[str, Callable[[config.Policy, Sequence[str]], PolicyEngine]] = {
    "embedded": _embedded,
    "opa": _opa,
}
COUNTERS: dict[str, Callable[[config.RateLimits, Metrics], "Counters"]] = {"memory": _memory, "redis": _redis}
SINKS: dict[str, Callable[[Any, Metrics, "Kind[Any]", str], "Sink[Any]"]] = {"kafka": _kafka, "file": _file}
FRONTS: dict[str, Callable[[config.Listener, Methods, Metrics], Front]] = {
    "native": _native,
    "grpcio": _grpcio,
}


@dataclass
class Runtime:
    """The services of one role, their backends, and the fronts that serve them."""

    settings: config.Config
    role: Role
    registry: CollectorRegistry
    metrics: Metrics
    engine: PolicyEngine | None = None
    shadow: "Shadow | None" = None
    bundles: "Bundles | None" = None
    counters: "Counters | None" = None
    quotas: "Quotas | None" = None
    releases: "Releases | None" = None
    sinks: "list[Sink[Any]]" = field(default_factory=list)
    decision_log: "DecisionLog | None" = None
    fronts: dict[str, Front] = field(default_factory=dict)

    @classmethod
    def build(cls, settings: config.Config, role: Role, revision: str) -> "Runtime":
        """Nothing is opened yet. `revision`: of the settings file."""
        registry = CollectorRegistry()
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
        from mixer.ratelimit.quota import Quotas

        counters = await self._counters(settings)
        alone = self.role == "check" and settings.counters == "memory"
        self.quotas = Quotas(_limits(settings), counters, settings, self.metrics, slots=not alone)
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
        from mixer.policy.polling import Bundles
        from mixer.policy.regorus import sources_of
        from mixer.policy.waiting import WaitingEngine

        # Nobody observes what there is no policy for: what is to be masked is not known yet.
        self.engine = WaitingEngine(policy.decision)
        switch = Switch(self._checks(policy, self.engine, observed=False))

        async def activate(bundles: "Sequence[Bundle]") -> None:
            loaded = sources_of(policy, bundles)
            log_policy = LogPolicy(loaded) if self.decision_log is not None else None
            engine = _embedded(policy, self._others(), loaded)
            await engine.start()
            # From here on without a pause: a request finds all of the old policy, or all of the new one.
            switch.current = self._checks(policy, engine)
            self.engine = engine
            if self.decision_log is not None:
                self.decision_log.policy = log_policy

        self.bundles = Bundles(policy, self.metrics, activate)
        await self.bundles.start()
        return switch

    def _checks(self, policy: config.Policy, engine: PolicyEngine, observed: bool = True) -> "Checks":
        """Check by the engine's decision, and by the others where there are any."""
        from mixer.authz.routing import Routing
        from mixer.authz.service import CheckService

        bodies = bodies_of(policy)

        caches: list[DecisionCache] = []
        observer = self.decision_log.observe if self.decision_log is not None and observed else None

        def new_cache() -> DecisionCache | None:
            if policy.cache is None:
                return None
            caches.append(cache := DecisionCache(policy.cache.max_entries, policy.cache.ttl, self.metrics))
            return cache

        limiter = None
        if self.quotas is not None:
            rules = [(engine.of(decision), new_cache()) for decision in self._others()]
            limiter = self.quotas.by_rule(*rules[0]) if rules else self.quotas.limiter()

        def service(engine: PolicyEngine, observer: "Observer | None") -> CheckService:
            return CheckService(
                engine,
                new_cache(),
                self.metrics,
                observer=observer,
                bodies=bodies,
                dry_run=policy.dry_run,
                limiter=limiter,
            )

        self.metrics.policy.info(
            {"engine": engine.name, "decision": engine.decision, "revision": engine.revision}
        )
        shadow = self.shadow if observed else None
        default = service(engine, observer if shadow is None else shadow.observe)
        named = {name: service(engine.of(decision), observer) for name, decision in policy.decisions.items()}
        self.metrics.cache_entries.set_function(lambda: sum(map(len, caches)))
        return Routing(default, named, self.metrics) if named else default

    async def _start_shadow(self, policy: config.Policy) -> None:
        """Its candidate is compared with whatever decides by default, also after that has been exchanged."""
        if policy.shadow is None or (candidate := policy.candidate()) is None:
            return
        from mixer.shadow.candidate import Candidate
        from mixer.shadow.shadow import Shadow

        observer = self.decision_log.observe if self.decision_log is not None else None
        process = Candidate(candidate, self.settings.logging)
        self.shadow = Shadow(policy.shadow, process, self.metrics, observer)
        await self.shadow.start()

    def _decision_log(self, settings: config.DecisionLog, policy: config.Policy) -> "DecisionLog":
        from mixer.authz.input import InputBuilder
        from mixer.decisions.event import DECISIONS
        from mixer.decisions.log import DecisionLog
        from mixer.policy.engine import WHOLE_INPUT

        return DecisionLog(
            settings,
            self._sinks(settings.sinks, DECISIONS, "decisions-"),
            {**settings.labels, "id": str(uuid.uuid4()), "version": version("mixer")},  # as OPA has them
            self.metrics,
            policy=_log_policy(policy),
            build=InputBuilder(WHOLE_INPUT, bodies_of(policy)).build if settings.input == "all" else None,
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
        from mixer.telemetry.intake_pb2 import StreamAccessLogsMessage
        from mixer.telemetry.prometheus import PrometheusSink
        from mixer.telemetry.record import ACCESS
        from mixer.telemetry.service import ReportService

        telemetry = self.settings.telemetry
        self.sinks = [PrometheusSink(telemetry.max_series, self.metrics)]
        self.sinks += self._sinks(telemetry.sinks, ACCESS)
        for sink in self.sinks:
            await sink.start()
        if (limits := self.settings.rate_limits) is not None and (
            self.role == "all" or limits.counters == "redis"
        ):
            from mixer.ratelimit.releases import Releases

            self.releases = Releases(await self._counters(limits), self.metrics)
        report = ReportService(self.sinks, self.metrics, self.releases)
        service = "envoy.service.accesslog.v3.AccessLogService"
        return [ClientStream(service, "StreamAccessLogs", StreamAccessLogsMessage, report.stream)]

    async def not_ready(self) -> list[str]:
        """Why this process should get no traffic now."""
        reasons = [await self.engine.ready()] if self.engine else []
        if self.bundles is not None and not self.bundles.activated:
            reasons += self.bundles.problems()
        # Report needs the counters for slots alone, which come back by themselves if it must be.
        reasons += [self.counters.ready()] if self.counters and self.role != "report" else []
        return [reason for reason in reasons if reason is not None]

    def degraded(self) -> list[str]:
        """What does not work as it should, though calls are answered: sinks that hold their records back, a shadow
        whose candidate is away, bundles that cannot be had or used."""
        sinks = [*self.sinks, *(self.decision_log.sinks if self.decision_log is not None else ())]
        reasons = [f"{sink.name}: {status}" for sink in sinks if (status := sink.status()) != "ok"]
        if self.shadow is not None and (status := self.shadow.status()) != "ok":
            reasons.append(f"shadow: {status}")
        return reasons + (self.bundles.problems() if self.bundles is not None else [])

    def serving(self) -> list[str]:
        """What is served that may change while this runs: the policy's revision, where it comes in bundles."""
        if self.bundles is None or self.engine is None:
            return []
        return [f"policy: revision {self.engine.revision}"]

    async def close(self, timeout: float) -> None:
        """Drain the fronts, then flush the sinks and give back connections; `timeout` seconds in all."""
        end = time.monotonic() + timeout
        for front in self.fronts.values():
            await front.drain(max(0.1, (end - time.monotonic()) / 2))
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


def _limits(settings: config.RateLimits) -> "Limits":
    """Raises `LimitsError`."""
    from mixer.ratelimit import limits

    return limits.load(
        settings.paths,
        settings.merge_domain_config,
        counts_over=settings.count_over_limit,
        key_format=settings.key_format,
    )


def _log_policy(policy: config.Policy) -> "LogPolicy | None":
    """`system.log` of the policies on disk, which the embedded engine evaluates whatever decides. That of bundles
    comes with them."""
    from mixer.decisions.policy import LogPolicy
    from mixer.policy.regorus import sources_of

    return LogPolicy(sources_of(policy)) if policy.paths and not policy.bundles else None


async def validate(settings: config.Config) -> list[str]:
    """Load what the settings name, without serving or connecting: a line each on what was found. Raises `LoadError`."""
    lines: list[str] = []
    if settings.policy is not None:
        lines += await _validate_policy(settings, settings.policy)
    if (rate_limits := settings.rate_limits) is not None and rate_limits.paths:
        lines.append(f"rate limits: {_limits(rate_limits).summary()}")
    return lines


async def _validate_policy(settings: config.Config, policy: config.Policy) -> list[str]:
    lines: list[str] = []
    limits_decision = None if settings.rate_limits is None else settings.rate_limits.decision
    bodies_of(policy)
    if policy.dry_run:
        lines.append("policy.dry_run: what the policy denies passes; it is counted and logged")
    if policy.bundles:
        if policy.keys:
            from mixer.policy.signatures import keys

            keys(policy.keys)
        names = ", ".join(each.name for each in policy.bundles)
        lines.append(f"policy: {policy.decision}, from bundles that are not fetched here: {names}")
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
        if policy.paths:
            lines.append("policy.paths: not read with engine: opa; the server has its own policies")
    if settings.decision_log is not None and not policy.bundles:
        log_policy = _log_policy(policy)
        rules = [f"system.log.{rule}" for rule in log_policy.rules] if log_policy is not None else []
        lines.append(f"decision log: {' and '.join(rules) or 'no rule of system.log'}")
    if (candidate := policy.candidate()) is not None:
        engine = ENGINES["embedded"](candidate, ())
        await engine.start()
        lines += _told("policy.shadow", engine)[:1]  # a candidate has no cache
    return lines


def deps(policy: config.Policy) -> list[str]:
    """What the decisions of the policies depend on, in lines; nothing is connected to. Raises `LoadError`."""
    from mixer.policy.deps import deps as told
    from mixer.policy.regorus import sources_of

    if not policy.paths:
        missing = (
            "the policies are not known here, an OPA server or a bundle has them; name them by their paths"
        )
        raise SettingsError([Problem("policy.paths", "", missing)])
    return list(told(policy, sources_of(policy).modules))


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
