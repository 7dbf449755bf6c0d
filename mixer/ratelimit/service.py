"""Quota: `envoy.service.ratelimit.v3.RateLimitService`, free of gRPC.

Answers as envoyproxy/ratelimit does (`shouldRateLimitWorker` in its `ratelimit.go` and
`GetResponseDescriptorStatus` in its `base_limiter.go`), and always adds the dynamic metadata
`mixer: {limit, code}`: the limit that fired, else the one with the least left.
"""

import time
from collections.abc import Awaitable, Callable, Sequence

import structlog
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest

from mixer import config
from mixer.errors import CounterError, DeadlineError
from mixer.log import Throttle
from mixer.metrics import Metrics
from mixer.ratelimit import answer, counted
from mixer.ratelimit.answer import OK, OVER_LIMIT, LimitTexts
from mixer.ratelimit.claims import Claim, Claims, hits
from mixer.ratelimit.counters import SECOND, Counters, Outcomes
from mixer.ratelimit.limits import Limits
from mixer.ratelimit.metadata import of_request
from mixer.ratelimit.tree import Limit

_log = structlog.get_logger()


class QuotaService:
    """Judges requests by limits, on counters that were started."""

    def __init__(
        self,
        limits: Limits,
        counters: Counters,
        settings: config.RateLimits,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._claims = Claims(limits.domains, metrics)
        self._counters = counters
        self._shadow_mode = settings.shadow_mode
        self._quota_mode = settings.quota_mode
        self._with_metadata_of_request = settings.response_dynamic_metadata
        self._headers = settings.response_headers
        self._clock = clock
        self._throttle = Throttle()
        outcome = metrics.quota_descriptors.labels
        self._ok, self._over_limit, self._shadow = outcome("ok"), outcome("over_limit"), outcome("shadow")
        self._unlimited, self._no_limit = outcome("unlimited"), outcome("no_limit")

    def should_rate_limit(self, request: RateLimitRequest, timeout: float | None) -> bytes | Awaitable[bytes]:
        """A serialised RateLimitResponse, at once unless the counters must be waited for.

        Raises, now or when it is waited for:
            RequestError: the request is wrong; the message says what and where.
            DeadlineError: the counters did not answer within `timeout` seconds.
            CounterError: the counters cannot answer.
        """
        found = self._claims.of(request)
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
        outcomes: Awaitable[Outcomes],
        end: float | None,
    ) -> bytes:
        try:
            return self._answer(request, found, await outcomes)
        except CounterError as error:
            self._fail(error, end)
            raise

    def _fail(self, error: CounterError, end: float | None) -> None:
        """`end`: when the caller's time is over, of `time.monotonic`. Raises `DeadlineError` if that is why."""
        if (held := self._throttle(error.reason)) is not None:
            _log.warning("count_failed", reason=error.reason, error=str(error), held_back=held)
        if error.reason == "timeout" and end is not None and time.monotonic() >= end:
            raise DeadlineError("deadline", str(error)) from error

    def _answer(self, request: RateLimitRequest, found: Sequence[Claim | None], outcomes: Outcomes) -> bytes:
        """The answer, where `outcomes` are those of the descriptors that are counted."""
        each = iter(outcomes)
        tally = _Tally()
        parts = [b""]  # the overall code comes here
        passed: list[Limit] = []
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
            over, _, left, reset, _, _ = outcome
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
        if self._with_metadata_of_request:
            parts.append(answer.more_metadata(of_request(request, passed)))
        if self._headers.enabled and tally.least is not None:
            parts.append(
                answer.headers(
                    {
                        self._headers.limit: tally.least.limit.requests_per_unit,
                        self._headers.remaining: tally.left,
                        self._headers.reset: tally.until_reset,
                    }
                )
            )
        return b"".join(parts)

    def _code(self, limit: Limit, over: bool) -> int:
        """The status of a descriptor; its outcome is counted."""
        if not over:
            self._ok.inc()
            return OK
        (self._shadow if limit.shadow_mode or self._shadow_mode else self._over_limit).inc()
        return OK if limit.shadow_mode else OVER_LIMIT


class _Tally:
    """The descriptors of a request so far: who is over, and who has the least left."""

    __slots__ = (
        "_first_quota_over",
        "_is_over",
        "_quotas_over",
        "least",
        "left",
        "quotas",
        "unlimited",
        "until_reset",
    )

    def __init__(self) -> None:
        self.least: LimitTexts | None = None  # or the last one that is over
        self.left = 0  # of that one
        self.until_reset = 0  # of that one, seconds
        self.quotas = 0
        self.unlimited: LimitTexts | None = None
        self._is_over = False
        self._quotas_over = 0
        self._first_quota_over: LimitTexts | None = None

    def add(self, limit: LimitTexts, left: int, until_reset: int, code: int, is_quota: bool) -> None:
        is_over = code == OVER_LIMIT
        if self.least is None or left < self.left or (is_over and not is_quota):
            self.least, self.left, self.until_reset = limit, left, until_reset
        if not is_quota:
            self._is_over |= is_over
            return
        self.quotas += 1
        if is_over:
            self._quotas_over += 1
            self._first_quota_over = self._first_quota_over or limit

    def is_over(self) -> bool:
        """Any ordinary limit is over, or all quotas are."""
        return self._is_over or 0 < self.quotas == self._quotas_over

    def decisive(self) -> LimitTexts | None:
        """The limit that fired, else the one with the least left, else an unlimited one."""
        if self._is_over or not self.is_over():
            return self.least or self.unlimited
        return self._first_quota_over
