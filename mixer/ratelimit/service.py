"""Quota: `envoy.service.ratelimit.v3.RateLimitService`, free of gRPC.

Answers as envoyproxy/ratelimit does (`shouldRateLimitWorker` in its `ratelimit.go` and
`GetResponseDescriptorStatus` in its `base_limiter.go`), and always adds the dynamic metadata
`mixer: {limit, code}`: the limit that fired, else the one with the least left.
"""

import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence

from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest

from mixer import config
from mixer.errors import CounterError
from mixer.metrics import Metrics
from mixer.ratelimit import answer, counted, fields
from mixer.ratelimit.answer import OK, OVER_LIMIT
from mixer.ratelimit.claims import Claim, Claims, hits
from mixer.ratelimit.counters import SECOND, Counters, Hit, Outcome, Outcomes
from mixer.ratelimit.failures import Failures
from mixer.ratelimit.limits import Limits
from mixer.ratelimit.metadata import of_request
from mixer.ratelimit.objects import Found
from mixer.ratelimit.rego import RegoLimits
from mixer.ratelimit.tally import Tally
from mixer.ratelimit.tree import Limit


class QuotaService:
    """Judges requests by limits, on counters that were started.

    `rule` gives further limits; it may be exchanged between two calls. `release` gives slots back in the background.
    """

    def __init__(
        self,
        limits: Limits,
        counters: Counters,
        settings: config.RateLimits,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
        *,
        claims: Claims | None = None,
        rule: RegoLimits | None = None,
        release: Callable[[Sequence[str]], None] | None = None,
    ) -> None:
        self.rule = rule
        self._release = release
        self._claims = claims or Claims(limits.domains, metrics)
        self._counters = counters
        self._shadow_mode = settings.shadow_mode
        self._quota_mode = settings.quota_mode
        self._with_metadata_of_request = settings.response_dynamic_metadata
        self._headers = fields.Fields(settings.response_headers)
        self._clock = clock
        self._fail = Failures()
        outcome = metrics.quota_descriptors.labels
        self._ok, self._over_limit, self._shadow = outcome("ok"), outcome("over_limit"), outcome("shadow")
        self._unlimited, self._no_limit = outcome("unlimited"), outcome("no_limit")

    def should_rate_limit(self, request: RateLimitRequest, timeout: float | None) -> bytes | Awaitable[bytes]:
        """A serialised RateLimitResponse, at once unless the counters or the rule must be waited for.

        Raises, now or when it is waited for:
            RequestError: the request is wrong; the message says what and where.
            DeadlineError: the counters did not answer within `timeout` seconds.
            CounterError: the counters cannot answer.
            DecisionError: the rule cannot.
        """
        found = self._claims.of(request)
        if self.rule is None:
            return self._count(request, found, timeout)
        more = self.rule.of_quota(request, timeout)
        if isinstance(more, tuple):
            return self._count(request, [*found, *_held(more)], timeout)
        return self._after(request, found, more, timeout)

    async def _after(
        self,
        request: RateLimitRequest,
        found: Sequence[Claim | None],
        waiting: Awaitable[Found],
        timeout: float | None,
    ) -> bytes:
        end = None if timeout is None else time.monotonic() + timeout
        found = [*found, *_held(await waiting)]
        left = None if end is None else max(0.0, end - time.monotonic())
        answered = self._count(request, found, left)
        return answered if isinstance(answered, bytes) else await answered

    def _count(
        self, request: RateLimitRequest, found: Sequence[Claim | None], timeout: float | None
    ) -> bytes | Awaitable[bytes]:
        asked = hits(found, request.hits_addend)
        if not asked:
            return self._answer(request, found, [])
        end = None if timeout is None else time.monotonic() + timeout
        try:
            outcomes = self._counters.hit(asked, int(self._clock() * SECOND), timeout)
        except CounterError as error:
            self._fail(error, end)
            raise
        if isinstance(outcomes, list):
            return self._answer(request, found, outcomes)
        return self._wait(request, found, outcomes, end)

    async def _wait(
        self,
        request: RateLimitRequest,
        found: Sequence[Claim | None],
        waiting: Awaitable[Outcomes],
        end: float | None,
    ) -> bytes:
        outcomes: Outcomes | None = None
        try:
            outcomes = await waiting
        except CounterError as error:
            self._fail(error, end)
            raise
        finally:
            if (
                outcomes is None
            ):  # whoever asked is gone, or was not told: what was sent may have been counted
                self._give_back(_holders(found))
        return self._answer(request, found, outcomes)

    def _give_back(self, holders: Sequence[str]) -> None:
        if holders and self._release is not None:
            self._release(holders)

    def _answer(self, request: RateLimitRequest, found: Sequence[Claim | None], outcomes: Outcomes) -> bytes:
        """The answer, where `outcomes` are those of the descriptors that are counted."""
        each = iter(outcomes)
        tally = Tally()
        parts = [b""]  # the overall code comes here
        passed: list[Limit] = []
        judged: list[tuple[Claim, Outcome]] = []
        holders: list[str] = []
        for claim in found:
            if claim is None:
                self._no_limit.inc()
                parts.append(answer.NO_LIMIT)
                tally.quotas += self._quota_mode
                continue
            limit, texts = claim.limit, claim.texts
            if claim.hit is None:
                self._unlimited.inc()
                parts.append(answer.UNLIMITED)
                tally.unlimited = texts
                continue
            outcome = next(each)
            judged.append((claim, outcome))
            over, _, left, reset, _, _ = outcome
            if claim.hit.holder and not over and claim.hit.hits > 0:
                holders.append(claim.hit.holder)
            is_shadow = over and (limit.shadow_mode or self._shadow_mode)
            counted.add(claim.tally, claim.hit, outcome, is_shadow)
            code = self._code(limit, over)
            parts.append(answer.status(texts.status[code], left, reset))
            tally.add(texts, left, reset, code, self._quota_mode or limit.quota_mode)
            if code == OK:
                passed.append(limit)
        overall = OVER_LIMIT if tally.is_over() and not self._shadow_mode else OK
        parts[0] = answer.OVERALL[overall]
        decisive = tally.decisive()
        parts.append(decisive.metadata[overall] if decisive else answer.NO_LIMIT_METADATA[overall])
        if holders and overall == OVER_LIMIT:
            self._give_back(holders)
        elif holders and decisive is not None:
            parts.append(answer.holding(decisive.limit.label, overall, holders))
        if self._with_metadata_of_request:
            parts.append(answer.more_metadata(of_request(request, passed)))
        if self._headers.enabled:
            parts.append(answer.headers(self._headers.of(tally, judged)))
        if overall == OVER_LIMIT:
            parts.append(self._over(tally, judged, decisive))
        return b"".join(parts)

    def _over(self, tally: Tally, judged: fields.Judged, decisive: answer.LimitTexts | None) -> bytes:
        """What a client over the limit is told besides."""
        told: fields.Headers = ()
        if self._headers.enabled:
            told = (fields.retry_after(judged),)
        if decisive is None or (given := decisive.limit.over_limit) is None:
            return answer.headers(told)
        return answer.headers((*told, *given.headers), given.body)

    def _code(self, limit: Limit, over: bool) -> int:
        """The status of a descriptor; its outcome is counted."""
        if not over:
            self._ok.inc()
            return OK
        (self._shadow if limit.shadow_mode or self._shadow_mode else self._over_limit).inc()
        return OK if limit.shadow_mode else OVER_LIMIT


def _held(found: Found) -> Iterator[Claim | None]:
    """Limits of a rule, with an id for whoever takes a slot by this call."""
    holder = ""
    for claim in found:
        if (
            claim is None
            or claim.hit is None
            or claim.hit.rule.algorithm != "concurrency"
            or claim.hit.holder
        ):
            yield claim
        else:
            holder = holder or str(uuid.uuid4())
            yield claim._replace(hit=claim.hit._replace(holder=holder))


def _holders(found: Sequence[Claim | None]) -> list[str]:
    """Who takes a slot."""
    hits: list[Hit] = [claim.hit for claim in found if claim is not None and claim.hit is not None]
    return [hit.holder for hit in hits if hit.holder and hit.hits > 0]
