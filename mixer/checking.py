"""What answers Check and Quota: built of settings and files, and exchanged for another while it runs."""

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from mixer import config
from mixer.authz.switch import Switch
from mixer.backends import ENGINES, bodies_of, embedded, log_policy_of, shares_of, sinks_of
from mixer.loaded import Loaded
from mixer.metrics import Metrics
from mixer.policy.budget import budget_of
from mixer.policy.cache import DecisionCache
from mixer.policy.engine import PolicyEngine
from mixer.policy.network import Network
from mixer.policy.sources import sources_of
from mixer.ratelimit.switch import QuotaSwitch
from mixer.server.front import Method, Methods, Unary

if TYPE_CHECKING:
    from mixer.admin.limits import LimitPages
    from mixer.authz.body import Bodies
    from mixer.authz.decided import Observer
    from mixer.authz.routing import Checks
    from mixer.decisions.log import DecisionLog
    from mixer.decisions.policy import LogPolicy
    from mixer.policy.bundle import Bundle
    from mixer.policy.polling import Bundles
    from mixer.ratelimit.counters import Counters
    from mixer.ratelimit.quota import Quotas
    from mixer.shadow.candidate import Candidate
    from mixer.shadow.shadow import Shadow
    from mixer.shadow.tarball import Tarball

NO_BUNDLES: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Prepared:
    """What takes time to make, or may fail; to be put in the place of what answers now. An engine of None stays."""

    settings: config.Config
    bodies: "Bodies | None"
    engine: PolicyEngine | None
    log_policy: "LogPolicy | None"
    bundles: Mapping[str, str]  # among `policy.paths`: revisions by name
    quotas: "Quotas | None"
    candidate: "Candidate | None"


class Checking:
    """`counters`: started, where there are rate limits; `slots`: whether slots can be given back by the access log."""

    def __init__(
        self, loaded: Loaded, metrics: Metrics, counters: "Counters | None", *, slots: bool = True
    ) -> None:
        self._files = loaded
        self._settings = loaded.settings
        self._metrics = metrics
        self._counters = counters
        self._slots = slots
        self._shares = None if counters is None else shares_of(metrics)
        self._quota_switch = QuotaSwitch()
        self._check_switch = Switch()
        self._bodies: Bodies | None = None
        self._network: Network | None = None
        self._quotas: Quotas | None = None
        self._decided_by: dict[
            str, PolicyEngine
        ] = {}  # other decisions of `engine`, which are asked for once
        self.engine: PolicyEngine | None = None
        self.shadow: Shadow | None = None
        self.shadow_bundles: Bundles[Tarball] | None = None
        self.bundles: Bundles[Bundle] | None = None
        self.decision_log: DecisionLog | None = None
        self.limit_pages: LimitPages | None = None

    async def start(self) -> Methods:
        """What is served from now on. Raises `LoadError` or `StartError`; what was opened is then for `close`."""
        policy = self._settings.policy
        if policy is not None:
            # One for all revisions: an evaluation may wait while its policy is exchanged, and replies are kept.
            self._network = Network(policy.http)
        prepared = await self.prepare(self._files, first=True)
        self._quotas, self._bodies = prepared.quotas, prepared.bodies
        if policy is not None:
            self.engine = prepared.engine
            if (log_settings := self._settings.decision_log) is not None:
                self.decision_log = self._decision_log(log_settings, policy, prepared)
                await self.decision_log.start()
            await self._start_shadow(policy)
        self._exchange_limits()
        self._files = self._files.bare()
        await self._begin()
        return self._methods()

    def _methods(self) -> Methods:
        methods: list[Method] = []
        if self._quotas is not None:
            service = "envoy.service.ratelimit.v3.RateLimitService"
            methods.append(Unary(service, "ShouldRateLimit", None, self._quota_switch.should_rate_limit))
        if self._settings.policy is not None:
            from envoy.service.auth.v3.external_auth_pb2 import CheckRequest

            check = self._check_switch
            service = "envoy.service.auth.v3.Authorization"
            methods.append(Unary(service, "Check", CheckRequest, check.check, check.check_all))
        return methods

    async def prepare(self, loaded: Loaded, first: bool = False) -> Prepared:
        """Make all of it that may fail, beside what answers. Raises `LoadError`, and `StartError` for a candidate whose
        process does not start; then nothing has changed."""
        policy = loaded.settings.policy
        quotas = self._new_quotas(loaded)
        if policy is None:
            return Prepared(loaded.settings, None, None, None, NO_BUNDLES, quotas, None)
        asks_server = policy.engine == "opa"  # the embedded engine has doubles alone
        bodies = bodies_of(policy, exact=asks_server, written=not asks_server)
        engine: PolicyEngine | None = None
        if not policy.bundles and policy.engine == "embedded":
            engine = embedded(policy, self._others(loaded.settings), loaded.sources, self._network)
            await engine.start()
        elif not policy.bundles and first:
            engine = ENGINES[policy.engine](policy, self._others(loaded.settings), loaded.sources)
            await engine.start()
        log_policy, bundles = None, NO_BUNDLES
        if loaded.settings.decision_log is not None:
            log_policy, bundles = log_policy_of(policy, loaded.sources)
        candidate = None if first else await self._next_candidate(policy)
        return Prepared(loaded.settings, bodies, engine, log_policy, bundles, quotas, candidate)

    async def exchange(self, prepared: Prepared) -> None:
        """Answer by it from now on. Up to its first pause all is exchanged: a request finds all of the old, or all of
        the new."""
        self._settings, self._bodies = prepared.settings, prepared.bodies
        self._quotas = prepared.quotas
        self._exchange_limits()
        if (engine := prepared.engine or self.engine) is not None:
            self._exchange_engine(engine)
            if prepared.engine is not None and self.decision_log is not None:
                self.decision_log.policy, self.decision_log.bundles = prepared.log_policy, prepared.bundles
        if prepared.candidate is not None and self.shadow is not None:
            await self.shadow.exchange(prepared.candidate)

    async def discard(self, prepared: Prepared) -> None:
        if prepared.candidate is not None:
            await prepared.candidate.close()

    def _exchange_limits(self) -> None:
        if self._quotas is None:
            return
        from mixer.admin.limits import LimitPages
        from mixer.ratelimit.desk import Desk

        self._quota_switch.current = self._quotas.service
        if self.limit_pages is None and self._counters is not None:
            desk = Desk(self._quotas.limits, self._counters, objects=self._quotas.objects)
            self.limit_pages = LimitPages(desk, self._quota_switch.should_rate_limit)
        elif self.limit_pages is not None:
            desk = self.limit_pages.desk
            desk.limits, desk.objects = self._quotas.limits, self._quotas.objects

    def _exchange_engine(self, engine: PolicyEngine, *, observed: bool = True) -> None:
        if (policy := self._settings.policy) is not None:
            if engine is not self.engine:
                self._decided_by.clear()
            self._check_switch.current = self._checks(policy, engine, observed)
            self.engine = engine

    @staticmethod
    def _others(settings: config.Config) -> tuple[str, ...]:
        """Rules that the engine is asked for beside those of `policy`."""
        limits = settings.rate_limits
        return () if limits is None or limits.decision is None else (limits.decision,)

    def _new_quotas(self, loaded: Loaded) -> "Quotas | None":
        """Without a rule that gives limits yet."""
        settings, limits = loaded.settings.rate_limits, loaded.limits
        if settings is None or limits is None or self._counters is None or self._shares is None:
            return None
        from mixer.ratelimit.quota import Quotas

        return Quotas(limits, self._counters, settings, self._metrics, local=self._shares, slots=self._slots)

    async def _begin(self) -> None:
        """Check by the engine, or by the policy of the latest bundles."""
        if (policy := self._settings.policy) is None:
            return
        if not policy.bundles:
            if self.engine is not None:
                self._exchange_engine(self.engine)
            return
        from mixer.policy.polling import Bundles, reader
        from mixer.policy.waiting import WaitingEngine

        # Nobody observes what there is no policy for: what is to be masked is not known yet.
        self._exchange_engine(WaitingEngine(policy.decision), observed=False)
        self.bundles = Bundles(policy, self._metrics, reader(policy), self._activate)
        await self.bundles.start()

    async def _activate(self, bundles: "Sequence[Bundle]") -> None:
        from mixer.decisions.policy import LogPolicy

        if (policy := self._settings.policy) is None:
            return
        loaded = sources_of(policy, bundles)
        log_policy = LogPolicy(loaded, budget=budget_of(policy)) if self.decision_log is not None else None
        engine = embedded(policy, self._others(self._settings), loaded, self._network)
        await engine.start()
        # From here on without a pause: a request finds all of the old policy, or all of the new one.
        self._exchange_engine(engine)
        if self.decision_log is not None:
            self.decision_log.policy, self.decision_log.bundles = log_policy, loaded.bundles

    def _checks(self, policy: config.Policy, engine: PolicyEngine, observed: bool) -> "Checks":
        """Check by the engine's decision, and by the others where there are any."""
        from mixer.authz.routing import Routing
        from mixer.authz.service import CheckService

        caches: list[DecisionCache] = []
        observer: Observer | None = None
        if observed and self.shadow is not None:
            observer = self.shadow.observe
        elif observed and self.decision_log is not None:
            observer = self.decision_log.observe

        def of(decision: str) -> PolicyEngine:
            if decision not in self._decided_by:
                self._decided_by[decision] = engine.of(decision)
            return self._decided_by[decision]

        def told() -> None:
            self._metrics.policy.info(
                {"engine": engine.name, "decision": engine.decision, "revision": engine.revision}
            )

        def new_cache() -> DecisionCache | None:
            if (given := policy.cache) is None:
                return None
            cache = DecisionCache(given.max_entries, given.ttl, self._metrics, max_bytes=given.max_bytes)
            caches.append(cache)
            return cache

        limiter = None
        if self._quotas is not None:
            rules = [(of(decision), new_cache()) for decision in self._others(self._settings)]
            limiter = self._quotas.by_rule(*rules[0]) if rules else self._quotas.limiter()

        def service(engine: PolicyEngine, adopted: Callable[[], None] = lambda: None) -> CheckService:
            return CheckService(
                *(engine, new_cache(), self._metrics),
                observer=observer,
                bodies=self._bodies,
                dry_run=policy.dry_run,
                adopted=adopted,
                limiter=limiter,
            )

        default = service(engine, told)
        named = {name: service(of(decision)) for name, decision in policy.decisions.items()}
        self._metrics.cache_entries.set_function(lambda: sum(map(len, caches)))
        return Routing(default, named, self._metrics) if named else default

    async def _next_candidate(self, policy: config.Policy) -> "Candidate | None":
        """The shadow's, started, where its policies come from files."""
        if self.shadow is None or (candidate := policy.candidate()) is None or candidate.bundles:
            return None
        from mixer.shadow.candidate import Candidate

        fresh = Candidate(candidate, policy.compared(), self._settings.logging)
        await fresh.start()
        return fresh

    async def _start_shadow(self, policy: config.Policy) -> None:
        """Its candidate is compared with whatever decides, also after that has been exchanged."""
        if policy.shadow is None or (candidate := policy.candidate()) is None:
            return
        from mixer.shadow.candidate import Candidate
        from mixer.shadow.shadow import Shadow

        compared, logging = policy.compared(), self._settings.logging
        observer = self.decision_log.observe if self.decision_log is not None else None
        first = None if candidate.bundles else Candidate(candidate, compared, logging)
        shadow = self.shadow = Shadow(policy.shadow, first, self._metrics, observer)
        await shadow.start()
        if not candidate.bundles:
            return
        from mixer.policy.polling import Bundles
        from mixer.shadow.tarball import Tarball

        async def activate(tarballs: "Sequence[Tarball]") -> None:
            fresh = Candidate(candidate, compared, logging, [tarball.raw for tarball in tarballs])
            await fresh.start()
            for tarball in tarballs:
                tarball.revision = fresh.revision
            await shadow.exchange(fresh)

        # Its process reads them: that takes time, which is not to be taken from the answers.
        self.shadow_bundles = Bundles(candidate, self._metrics, Tarball.of, activate)
        await self.shadow_bundles.start()

    def _decision_log(
        self, settings: config.DecisionLog, policy: config.Policy, prepared: Prepared
    ) -> "DecisionLog":
        from mixer.authz.input import WholeInput
        from mixer.decisions.event import DECISIONS
        from mixer.decisions.log import DecisionLog

        return DecisionLog(
            settings,
            sinks_of(settings.sinks, self._metrics, DECISIONS, "decisions-"),
            {**settings.labels, "id": str(uuid.uuid4()), "version": version("mixer")},  # as OPA has them
            self._metrics,
            policy=prepared.log_policy,
            bundles=prepared.bundles,
            build=WholeInput(bodies_of(policy)).build if settings.input == "all" else None,
        )

    async def not_ready(self) -> list[str]:
        """Why Check should get no calls now."""
        reasons = [await self.engine.ready()] if self.engine is not None else []
        if self.bundles is not None and not self.bundles.activated:
            reasons += self.bundles.problems()
        return [reason for reason in reasons if reason is not None]

    def degraded(self) -> list[str]:
        """What does not work as it should, though calls are answered."""
        reasons: list[str] = []
        if self.shadow is not None and (status := self.shadow.status()) != "ok":
            reasons.append(f"shadow: {status}")
        if self.shadow_bundles is not None:
            reasons += [f"shadow: {problem}" for problem in self.shadow_bundles.problems()]
        return reasons + (self.bundles.problems() if self.bundles is not None else [])

    def serving(self) -> list[str]:
        """What may change by itself while this runs: the policy's revision, where it comes in bundles, is watched or
        pushed to an OPA server."""
        policy = self._settings.policy
        if policy is None or self.engine is None:
            return []
        watched = self._settings.reload.watch and policy.engine == "embedded"
        if self.bundles is None and not policy.opa.push and not watched:
            return []
        return [f"policy: revision {self.engine.revision}"]

    async def end_shadow(self) -> None:
        if self.shadow_bundles is not None:
            await self.shadow_bundles.close()
        if self.shadow is not None:
            await self.shadow.close()

    async def close_log(self, end: float) -> None:
        """`end`: by `time.monotonic`."""
        if self.decision_log is not None:
            await self.decision_log.close(max(0.1, end - time.monotonic()))

    async def close(self) -> None:
        if self.bundles is not None:
            await self.bundles.close()
        if self.engine is not None:
            await self.engine.close()
        if self._network is not None:
            await self._network.close()
