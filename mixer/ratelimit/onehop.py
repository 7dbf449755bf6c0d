"""Limits on Check: counted in the same call that decides. See `limiter` for what Check may count on."""

import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import cast

from mixer import config
from mixer.errors import CounterError
from mixer.metrics import Metrics
from mixer.ratelimit import fields
from mixer.ratelimit.claims import Asked, Claim
from mixer.ratelimit.counters import SECOND, Counters, Outcomes
from mixer.ratelimit.failures import Failures
from mixer.ratelimit.givingback import GivingBack
from mixer.ratelimit.judge import Judge
from mixer.ratelimit.limiter import Counted, Limits
from mixer.ratelimit.objects import Found, Objects
from mixer.ratelimit.on_error import AtOnce, OnError, Replaced
from mixer.ratelimit.rego import RegoLimits
from mixer.ratelimit.tree import OverLimit
from mixer.server.front import Pending

_DEFAULT = OverLimit()
_NOTHING = Counted(over=False, limit="")


class OneHop:
    """See `Limiter`. `rule` gives further limits for each request."""

    def __init__(
        self,
        objects: Objects,
        counters: Counters,
        settings: config.RateLimits,
        metrics: Metrics,
        *,
        local: AtOnce,
        rule: RegoLimits | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`local`: where limits count in this process, while `counters` cannot be had, if they say so."""
        self._objects = objects
        self._counters = counters
        self._judge = Judge(settings, metrics)
        self._on_error = OnError(settings, local, metrics)
        self._shadow_mode = settings.shadow_mode
        self._headers = fields.Fields(settings.response_headers)
        self._rule = rule
        self._clock = clock
        self.failed = Failures()
        self.give_back = GivingBack(counters, self.failed, clock)

    @property
    def paths(self) -> frozenset[tuple[str, ...]] | None:
        return None if self._rule is None else self._rule.paths

    def read(self, given: object) -> Limits:
        return self._objects.read(given, "rate_limits")

    def count(
        self,
        limits: Limits,
        make: Callable[[], tuple[bytes, object]] | None,
        holder: str,
        timeout: float | None,
    ) -> Counted | Pending[Counted] | Awaitable[Counted]:
        asked = cast(Found, limits)
        if self._rule is None or make is None:
            return self._count(asked, holder, timeout)
        found = self._rule.find(make, timeout)
        if isinstance(found, Found):
            return self._count(asked + found, holder, timeout)
        return self._after(found, asked, holder, timeout)

    async def _after(
        self, waiting: Awaitable[Found], asked: Found, holder: str, timeout: float | None
    ) -> Counted:
        end = None if timeout is None else time.monotonic() + timeout
        found = asked + await waiting
        counted = self._count(found, holder, None if end is None else max(0.0, end - time.monotonic()))
        return counted if isinstance(counted, Counted) else await counted

    def _count(self, found: Found, holder: str, timeout: float | None) -> Counted | Pending[Counted]:
        asked = found.asked
        if not asked.claims:
            return _NOTHING
        if found.holds:
            asked = Asked(asked.request, [_held(claim, holder) for claim in asked.claims])
        if not asked.hits:
            return self._counted(asked, [])
        try:
            outcomes = self._counters.hit(asked.hits, int(self._clock() * SECOND), timeout)
        except CounterError as error:
            return self._without(asked, error, None)
        if isinstance(outcomes, list):
            return self._counted(asked, outcomes)
        end = None if timeout is None else time.monotonic() + timeout
        return outcomes.map(partial(self._waited, asked, end))

    def _waited(
        self, asked: Asked, end: float | None, outcomes: Outcomes | BaseException
    ) -> Counted | BaseException:
        """What came of counters that were waited for."""
        counted: Counted | BaseException
        try:
            if isinstance(outcomes, list):
                return self._counted(asked, outcomes)
            if isinstance(outcomes, CounterError):
                return self._without(asked, outcomes, end)
            counted = outcomes
        except Exception as error:
            counted = error
        self.give_back(asked.hits)  # what was sent may have been counted
        return counted

    def _without(self, asked: Asked, error: CounterError, end: float | None) -> Counted:
        """What is said where the counters have no answer. Raises as `Limiter.count` does; `end`: see `Failures`."""
        failed = self.failed(error, end)
        replaced = self._on_error.outcomes(asked, error, int(self._clock() * SECOND))
        if replaced is None:
            raise failed
        return self._counted(asked, replaced.outcomes, replaced)

    def _counted(self, asked: Asked, outcomes: Outcomes, replaced: Replaced | None = None) -> Counted:
        """What the outcomes come to. `replaced`: what they are, if not the counters'."""
        if replaced is None and (least := self._judge.passed(asked, outcomes)) is not None:
            return Counted(False, least.limit.label)
        verdict = self._judge.verdict(asked, outcomes, replaced)
        decisive = verdict.decisive()
        label = "" if decisive is None else decisive.limit.label
        on_error = "" if replaced is None else replaced.told()
        if not verdict.refuses() or self._shadow_mode:
            told = self._headers.of(verdict, asked.claims, outcomes) if self._headers.enabled else ()
            return Counted(False, label, told, on_error, holds=bool(verdict.taken))
        self.give_back(verdict.taken)
        answer = (decisive.limit.over_limit if decisive is not None else None) or _DEFAULT
        headers = (
            fields.retry_after(asked.claims, outcomes),
            *self._headers.of(verdict, asked.claims, outcomes),
            *answer.headers,
        )
        return Counted(True, label, headers, on_error, status=answer.status, body=answer.body)


def _held(claim: Claim | None, holder: str) -> Claim | None:
    if claim is None or (hit := claim.hit) is None or hit.rule.algorithm != "concurrency":
        return claim
    return claim._replace(hit=hit._replace(holder=holder))
