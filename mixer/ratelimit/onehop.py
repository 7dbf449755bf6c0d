"""Limits on Check: counted in the same call that decides. See `limiter` for what Check may count on."""

import time
from asyncio import Future, ensure_future
from collections.abc import Awaitable, Callable
from typing import cast

from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest

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
from mixer.ratelimit.rego import RegoLimits
from mixer.ratelimit.tree import OverLimit

_DEFAULT = OverLimit()
_NOTHING = Counted(over=False, limit="")
_NO_REQUEST = RateLimitRequest()


class OneHop:
    """See `Limiter`. `rule` gives further limits for each request."""

    def __init__(
        self,
        objects: Objects,
        counters: Counters,
        settings: config.RateLimits,
        metrics: Metrics,
        *,
        rule: RegoLimits | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._objects = objects
        self._counters = counters
        self._judge = Judge(settings, metrics)
        self._shadow_mode = settings.shadow_mode
        self._headers = fields.Fields(settings.response_headers)
        self._rule = rule
        self.paths = None if rule is None else rule.paths
        self._clock = clock
        self._failed = Failures()
        self._give_back = GivingBack(counters, self._failed, clock)

    def read(self, given: object) -> Limits:
        return self._objects.read(given, "rate_limits")

    def count(
        self, limits: Limits, document: tuple[bytes, object] | None, holder: str, timeout: float | None
    ) -> Counted | Awaitable[Counted]:
        claims = cast(Found, limits)
        if self._rule is None or document is None:
            return self._count(claims, holder, timeout)
        found = self._rule.find(*document, timeout)
        if isinstance(found, tuple):
            return self._count(claims + found if claims else found, holder, timeout)
        return self._after(found, claims, holder, timeout)

    async def _after(
        self, waiting: Awaitable[Found], claims: Found, holder: str, timeout: float | None
    ) -> Counted:
        end = None if timeout is None else time.monotonic() + timeout
        claims += await waiting
        counted = self._count(claims, holder, None if end is None else max(0.0, end - time.monotonic()))
        return counted if isinstance(counted, Counted) else await counted

    def _count(self, claims: Found, holder: str, timeout: float | None) -> Counted | Future[Counted]:
        if not claims:
            return _NOTHING
        asked = Asked(_NO_REQUEST, [_held(claim, holder) for claim in claims])
        if not asked.hits:
            return self._counted(asked, [])
        end = None if timeout is None else time.monotonic() + timeout
        try:
            outcomes = self._counters.hit(asked.hits, int(self._clock() * SECOND), timeout)
        except CounterError as error:
            raise self._failed(error, end) from None
        if isinstance(outcomes, list):
            return self._counted(asked, outcomes)
        return self._later(asked, ensure_future(outcomes), end)

    def _later(self, asked: Asked, outcomes: Future[Outcomes], end: float | None) -> Future[Counted]:
        """Without a task: one for each call costs as much as the counting."""
        counted: Future[Counted] = outcomes.get_loop().create_future()

        def finish(outcomes: Future[Outcomes]) -> None:
            try:
                if not counted.done():
                    counted.set_result(self._counted(asked, outcomes.result()))
                    return
            except CounterError as error:
                counted.set_exception(self._failed(error, end))
            except Exception as error:
                counted.set_exception(error)
            # Whoever asked is gone, or is not told: what was sent may have been counted.
            self._give_back(asked.hits)

        def gone(counted: Future[Counted]) -> None:
            if counted.cancelled():
                outcomes.cancel()

        outcomes.add_done_callback(finish)
        counted.add_done_callback(gone)
        return counted

    def _counted(self, asked: Asked, outcomes: Outcomes) -> Counted:
        verdict = self._judge.verdict(asked, outcomes)
        decisive = verdict.decisive()
        label = "" if decisive is None else decisive.limit.label
        if not verdict.refuses() or self._shadow_mode:
            told = self._headers.of(verdict, asked.claims, outcomes) if self._headers.enabled else ()
            return Counted(over=False, limit=label, headers=told, holds=bool(verdict.taken))
        self._give_back(verdict.taken)
        answer = (decisive.limit.over_limit if decisive is not None else None) or _DEFAULT
        headers = (
            fields.retry_after(asked.claims, outcomes),
            *self._headers.of(verdict, asked.claims, outcomes),
            *answer.headers,
        )
        return Counted(over=True, limit=label, headers=headers, status=answer.status, body=answer.body)


def _held(claim: Claim | None, holder: str) -> Claim | None:
    if claim is None or (hit := claim.hit) is None or hit.rule.algorithm != "concurrency":
        return claim
    return claim._replace(hit=hit._replace(holder=holder))
