"""Quota: `envoy.service.ratelimit.v3.RateLimitService`, free of gRPC.

Answers as envoyproxy/ratelimit does, and always adds the dynamic metadata `mixer: {limit, code}`: the limit that
fired, else the one with the least left; and `on_error`, if the counters could not be had and limits said what to do.
"""

import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

from mixer import config
from mixer.errors import CounterError
from mixer.metrics import Metrics
from mixer.ratelimit import answer, fields
from mixer.ratelimit.answer import OK, OVER_LIMIT
from mixer.ratelimit.claims import Asked, Claim, Claims
from mixer.ratelimit.counters import SECOND, Counters, Outcomes
from mixer.ratelimit.failures import Failures
from mixer.ratelimit.givingback import GivingBack
from mixer.ratelimit.judge import Judge, Verdict
from mixer.ratelimit.limits import Limits
from mixer.ratelimit.metadata import of_request
from mixer.ratelimit.objects import Found
from mixer.ratelimit.on_error import AtOnce, OnError, Replaced
from mixer.ratelimit.rego import RegoLimits


class QuotaService:
    """Judges requests by limits, on counters that were started.

    `rule` gives further limits; it may be exchanged between two calls.
    """

    def __init__(
        self,
        limits: Limits,
        counters: Counters,
        settings: config.RateLimits,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
        *,
        local: AtOnce,
        claims: Claims | None = None,
        rule: RegoLimits | None = None,
    ) -> None:
        """`local`: where limits count in this process, while `counters` cannot be had, if they say so."""
        self.rule = rule
        self._claims = claims or Claims(limits.domains, metrics)
        self._counters = counters
        self._judge = Judge(settings, metrics)
        self._on_error = OnError(settings, local, metrics)
        self._shadow_mode = settings.shadow_mode
        self._with_metadata_of_request = settings.response_dynamic_metadata
        self._headers = fields.Fields(settings.response_headers)
        self._clock = clock
        self.failed = Failures()
        self.give_back = GivingBack(counters, self.failed, clock)

    def should_rate_limit(self, message: bytes, timeout: float | None) -> bytes | Awaitable[bytes]:
        """A serialised RateLimitResponse to a serialised RateLimitRequest, at once unless the counters or the rule must
        be waited for.

        Raises, now or when it is waited for:
            RequestError: the request is wrong; the message says what and where.
            DecodeError: it is no RateLimitRequest.
            DeadlineError: the counters did not answer within `timeout` seconds.
            CounterError: the counters cannot answer, and a limit is to fail then (`on_error`).
            DecisionError: the rule cannot.
        """
        asked = self._claims.of_message(message)
        if self.rule is None:
            return self._count(asked, timeout)
        found = self.rule.of_quota(asked.request, timeout)
        if isinstance(found, Found):
            return self._count(_with(asked, found), timeout)
        return self._after(asked, found, timeout)

    async def _after(self, asked: Asked, waiting: Awaitable[Found], timeout: float | None) -> bytes:
        end = None if timeout is None else time.monotonic() + timeout
        asked = _with(asked, await waiting)
        answered = self._count(asked, None if end is None else max(0.0, end - time.monotonic()))
        return answered if isinstance(answered, bytes) else await answered

    def _count(self, asked: Asked, timeout: float | None) -> bytes | Awaitable[bytes]:
        if not asked.hits:
            return self.answer(asked, [])
        try:
            outcomes = self._counters.hit(asked.hits, int(self._clock() * SECOND), timeout)
        except CounterError as error:
            return self._without(asked, error, None)
        if isinstance(outcomes, list):
            return self.answer(asked, outcomes)
        end = None if timeout is None else time.monotonic() + timeout
        return outcomes.map(partial(self._counted, asked, end))

    def _counted(
        self, asked: Asked, end: float | None, outcomes: Outcomes | BaseException
    ) -> bytes | BaseException:
        """The answer to a request whose counters were waited for."""
        answer: bytes | BaseException
        try:
            if isinstance(outcomes, list):
                return self.answer(asked, outcomes)
            if isinstance(outcomes, CounterError):
                return self._without(asked, outcomes, end)
            answer = outcomes
        except Exception as error:
            answer = error
        self.give_back(asked.hits)  # what was sent may have been counted
        return answer

    def _without(self, asked: Asked, error: CounterError, end: float | None) -> bytes:
        """The answer where the counters have none. Raises as `should_rate_limit` does; `end`: see `Failures`."""
        failed = self.failed(error, end)
        replaced = self._on_error.outcomes(asked, error, int(self._clock() * SECOND))
        if replaced is None:
            raise failed
        return self.answer(asked, replaced.outcomes, replaced)

    def answer(self, asked: Asked, outcomes: Outcomes, replaced: Replaced | None = None) -> bytes:
        """The answer, where `outcomes` are those of the descriptors that are counted. `replaced`: what they are, if
        not the counters'."""
        if replaced is None and (ordinary := self._judge.ordinary(asked, outcomes)) is not None:
            return ordinary
        verdict = self._judge.verdict(asked, outcomes, replaced)
        overall = OVER_LIMIT if verdict.refuses() and not self._shadow_mode else OK
        parts = verdict.parts
        parts[0] = answer.OVERALL[overall]
        decisive = verdict.decisive()
        if replaced is not None and decisive is not None:
            told = {"limit": decisive.limit.label, "on_error": replaced.told()}
            parts.append(answer.metadata(told, overall))
        else:
            parts.append(decisive.metadata[overall] if decisive else answer.NO_LIMIT_METADATA[overall])
        if verdict.taken and overall == OVER_LIMIT:
            self.give_back(verdict.taken)
        elif verdict.taken and decisive is not None:
            holders = [hit.holder for hit in verdict.taken]
            parts.append(answer.holding(decisive.limit.label, overall, holders))
        if self._with_metadata_of_request:
            parts.append(answer.more_metadata(of_request(asked.request, verdict.passed)))
        if self._headers.enabled:
            parts.append(answer.headers(self._headers.of(verdict, asked.claims, outcomes)))
        if overall == OVER_LIMIT:
            parts.append(self._over(verdict, asked, outcomes))
        return b"".join(parts)

    def _over(self, verdict: Verdict, asked: Asked, outcomes: Outcomes) -> bytes:
        """What a client over the limit is told besides."""
        told: fields.Headers = ()
        if self._headers.enabled:
            told = (fields.retry_after(asked.claims, outcomes),)
        if (decisive := verdict.decisive()) is None or (given := decisive.limit.over_limit) is None:
            return answer.headers(told)
        return answer.headers((*told, *given.headers), given.body)


def _with(asked: Asked, found: Found) -> Asked:
    """With limits of a rule too."""
    return Asked(asked.request, [*asked.claims, *_held(found)])


def _held(found: Found) -> Iterator[Claim | None]:
    """Limits of a rule, with an id for whoever takes a slot by this call."""
    holder = ""
    for claim in found.claims:
        hit = None if claim is None else claim.hit
        if claim is not None and hit is not None and hit.rule.algorithm == "concurrency" and not hit.holder:
            holder = holder or str(uuid.uuid4())
            yield claim._replace(hit=hit._replace(holder=holder))
        else:
            yield claim
