"""Everything that limits requests, on Quota and on Check, around the same counters."""

import time
from collections.abc import Callable

from mixer import config
from mixer.errors import LimitsError, Problem
from mixer.metrics import Metrics
from mixer.policy.cache import DecisionCache
from mixer.policy.engine import PolicyEngine
from mixer.ratelimit.claims import Claims
from mixer.ratelimit.counters import Counters
from mixer.ratelimit.limiter import Limiter
from mixer.ratelimit.limits import Limits
from mixer.ratelimit.objects import Objects
from mixer.ratelimit.on_error import AtOnce
from mixer.ratelimit.onehop import OneHop
from mixer.ratelimit.rego import RegoLimits
from mixer.ratelimit.service import QuotaService

NO_SLOTS = (
    "concurrency with counters: memory and --role check: the access log, by which slots are given back, goes to "
    "another process; use counters: redis, or one process for both roles"
)


class Quotas:
    """Quota, and limits for Check; `local`: where limits count in this process, while `counters` cannot be had, if they
    say so; `slots`: whether slots can be given back by the access log.

    Raises:
        LimitsError: they cannot, and a file has concurrency limits.
    """

    def __init__(
        self,
        limits: Limits,
        counters: Counters,
        settings: config.RateLimits,
        metrics: Metrics,
        *,
        local: AtOnce,
        slots: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not slots and (problems := _concurrency(limits)):
            raise LimitsError(problems)
        self.limits = limits
        self._counters = counters
        self._local = local
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        claims = Claims(limits.domains, metrics)
        self.objects = Objects.by(settings, claims, metrics, None if slots else NO_SLOTS)
        self.service = QuotaService(limits, counters, settings, metrics, clock, local=local, claims=claims)

    def limiter(self, rule: RegoLimits | None = None) -> Limiter:
        """What counts for Check; see `Limiter`."""
        return OneHop(
            self.objects,
            self._counters,
            self._settings,
            self._metrics,
            local=self._local,
            rule=rule,
            clock=self._clock,
        )

    def by_rule(self, engine: PolicyEngine, cache: DecisionCache | None) -> Limiter:
        """From now on a rule gives further limits, to Quota and to the limiter that is answered. `engine`: for the
        rule's decision, started."""
        self.service.rule = rule = RegoLimits(engine, cache, self.objects, self._metrics, self._clock)
        return self.limiter(rule)


def _concurrency(limits: Limits) -> list[Problem]:
    return [
        Problem(limit.full_key, "algorithm", NO_SLOTS)
        for domain in limits.domains.values()
        for limit in domain.limits()
        if limit.rule is not None and limit.rule.algorithm == "concurrency"
    ]
