"""Limits on Check: counted in the same call that decides. See `limiter` for what Check may count on."""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import cast

from mixer import config
from mixer.errors import CounterError
from mixer.metrics import Metrics
from mixer.ratelimit import counted, fields
from mixer.ratelimit.answer import OK, OVER_LIMIT
from mixer.ratelimit.claims import Claim
from mixer.ratelimit.counters import SECOND, Counters, Hit, Outcome, Outcomes
from mixer.ratelimit.failures import Failures
from mixer.ratelimit.limiter import Asked, Verdict
from mixer.ratelimit.objects import Found, Objects
from mixer.ratelimit.rego import RegoLimits
from mixer.ratelimit.tally import Tally
from mixer.ratelimit.tree import OverLimit

_DEFAULT = OverLimit()
_NOTHING = Verdict(over=False, limit="")


class OneHop:
    """See `Limiter`. `rule` gives further limits for each request; `release` gives slots back, and returns at once."""

    def __init__(
        self,
        objects: Objects,
        counters: Counters,
        settings: config.RateLimits,
        metrics: Metrics,
        *,
        release: Callable[[Sequence[str]], None],
        rule: RegoLimits | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._objects = objects
        self._counters = counters
        self._shadow_mode = settings.shadow_mode
        self._quota_mode = settings.quota_mode
        self._headers = fields.Fields(settings.response_headers)
        self._release = release
        self._rule = rule
        self.paths = None if rule is None else rule.paths
        self._clock = clock
        self._fail = Failures()
        outcome = metrics.quota_descriptors.labels
        self._ok, self._over_limit, self._shadow = outcome("ok"), outcome("over_limit"), outcome("shadow")
        self._unlimited, self._no_limit = outcome("unlimited"), outcome("no_limit")

    def read(self, given: object) -> Asked:
        return self._objects.read(given, "rate_limits")

    def release(self, holder: str) -> None:
        self._release((holder,))

    def count(
        self, asked: Asked, document: tuple[bytes, object] | None, holder: str, timeout: float | None
    ) -> Verdict | Awaitable[Verdict]:
        claims = cast(Found, asked)
        if self._rule is None or document is None:
            return self._count(claims, holder, timeout)
        found = self._rule.find(*document, timeout)
        if isinstance(found, tuple):
            return self._count(claims + found if claims else found, holder, timeout)
        return self._after(found, claims, holder, timeout)

    async def _after(
        self, waiting: Awaitable[Found], claims: Found, holder: str, timeout: float | None
    ) -> Verdict:
        end = None if timeout is None else time.monotonic() + timeout
        claims += await waiting
        verdict = self._count(claims, holder, None if end is None else max(0.0, end - time.monotonic()))
        return verdict if isinstance(verdict, Verdict) else await verdict

    def _count(self, claims: Found, holder: str, timeout: float | None) -> Verdict | Awaitable[Verdict]:
        hits = [
            hit if hit.rule.algorithm != "concurrency" else hit._replace(holder=holder)
            for claim in claims
            if claim is not None and (hit := claim.hit) is not None
        ]
        if not hits:
            return self._judge(claims, hits, [], holder) if claims else _NOTHING
        end = None if timeout is None else time.monotonic() + timeout
        try:
            outcomes = self._counters.hit(hits, int(self._clock() * SECOND), timeout)
        except CounterError as error:
            self._fail(error, end)
            raise
        if isinstance(outcomes, list):
            return self._judge(claims, hits, outcomes, holder)
        return self._wait(claims, hits, outcomes, holder, end)

    async def _wait(
        self, claims: Found, hits: Sequence[Hit], waiting: Awaitable[Outcomes], holder: str, end: float | None
    ) -> Verdict:
        outcomes: Outcomes | None = None
        try:
            outcomes = await waiting
        except CounterError as error:
            self._fail(error, end)
            raise
        finally:
            # Whoever asked is gone, or was not told: what was sent may have been counted.
            if outcomes is None and any(_takes_slot(hit) for hit in hits):
                self._release((holder,))
        return self._judge(claims, hits, outcomes, holder)

    def _judge(self, claims: Found, hits: Sequence[Hit], outcomes: Outcomes, holder: str) -> Verdict:
        tally = Tally()
        each = zip(hits, outcomes, strict=True)
        judged: list[tuple[Claim, Outcome]] = []
        holds = False
        for claim in claims:
            if claim is None:
                self._no_limit.inc()
                tally.quotas += self._quota_mode
                continue
            limit = claim.limit
            if claim.hit is None:
                self._unlimited.inc()
                tally.unlimited = claim.texts
                continue
            hit, outcome = next(each)
            judged.append((claim, outcome))
            is_shadow = outcome.over and (limit.shadow_mode or self._shadow_mode)
            counted.add(claim.tally, hit, outcome, is_shadow)
            code = OVER_LIMIT if outcome.over and not limit.shadow_mode else OK
            if not outcome.over:
                self._ok.inc()
                holds = holds or _takes_slot(hit)
            else:
                (self._shadow if is_shadow else self._over_limit).inc()
            tally.add(
                claim.texts, outcome.remaining, outcome.reset, code, self._quota_mode or limit.quota_mode
            )
        decisive = tally.decisive()
        label = "" if decisive is None else decisive.limit.label
        if not tally.is_over() or self._shadow_mode:
            headers = self._headers.of(tally, judged) if self._headers.enabled else ()
            return Verdict(over=False, limit=label, headers=headers, holds=holds)
        if holds:
            self._release((holder,))
        answer = (decisive.limit.over_limit if decisive is not None else None) or _DEFAULT
        headers = (fields.retry_after(judged), *self._headers.of(tally, judged), *answer.headers)
        return Verdict(over=True, limit=label, headers=headers, status=answer.status, body=answer.body)


def _takes_slot(hit: Hit) -> bool:
    return hit.hits > 0 and hit.rule.algorithm == "concurrency"
