"""Quota: `envoy.service.ratelimit.v3.RateLimitService`, free of gRPC.

Answers as envoyproxy/ratelimit does, and always adds the dynamic metadata `mixer: {limit, code}`: the limit that
fired, else the one with the least left; and `on_error`, if the counters could not be had and limits said what to do.
"""

import time
from asyncio import CancelledError, Future, ensure_future
from collections.abc import Awaitable, Callable

import structlog

from mixer import config
from mixer.errors import CallError, CounterError, DeadlineError
from mixer.log import Throttle
from mixer.metrics import Metrics
from mixer.ratelimit import answer
from mixer.ratelimit.answer import OK, OVER_LIMIT
from mixer.ratelimit.claims import Asked, Claims
from mixer.ratelimit.counters import SECOND, Counters, Hit, Outcomes
from mixer.ratelimit.judge import Judge
from mixer.ratelimit.limits import Limits
from mixer.ratelimit.metadata import of_request
from mixer.ratelimit.on_error import AtOnce, OnError, Replaced
from mixer.server.front import Done, Pending

_log = structlog.get_logger()


class QuotaService:
    """Judges requests by limits, on counters that were started."""

    def __init__(
        self,
        limits: Limits,
        counters: Counters,
        settings: config.RateLimits,
        metrics: Metrics,
        *,
        local: AtOnce,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`local`: where limits count in this process, while `counters` cannot be had, if they say so."""
        self._claims = Claims(limits.domains, metrics)
        self._counters = counters
        self._judge = Judge(settings, metrics)
        self._on_error = OnError(settings, local, metrics)
        self._shadow_mode = settings.shadow_mode
        self._with_metadata_of_request = settings.response_dynamic_metadata
        self._headers = settings.response_headers
        self._clock = clock
        self._throttle = Throttle()
        self._giving_back: set[Future[Outcomes]] = set()

    def should_rate_limit(self, message: bytes, timeout: float | None) -> bytes | Awaitable[bytes]:
        """A serialised RateLimitResponse to a serialised RateLimitRequest, at once unless the counters must be waited
        for.

        Raises, now or when it is waited for:
            RequestError: the request is wrong; the message says what and where.
            DecodeError: it is no RateLimitRequest.
            DeadlineError: the counters did not answer within `timeout` seconds.
            CounterError: the counters cannot answer, and a limit is to fail then (`on_error`).
        """
        asked = self._claims.of_message(message)
        if not asked.hits:
            return self.answer(asked, [])
        try:
            outcomes = self._counters.hit(asked.hits, int(self._clock() * SECOND), timeout)
        except CounterError as error:
            return self.without(asked, error, None)
        if isinstance(outcomes, list):
            return self.answer(asked, outcomes)
        end = None if timeout is None else time.monotonic() + timeout
        waited = outcomes if isinstance(outcomes, Future) else ensure_future(outcomes)
        return _Waiting(self, asked, waited, end)

    def without(self, asked: Asked, error: CounterError, end: float | None) -> bytes:
        """The answer where the counters have none. Raises as `should_rate_limit` does; `end`: see `failed`."""
        failed = self.failed(error, end)
        replaced = self._on_error.outcomes(asked, error, int(self._clock() * SECOND))
        if replaced is None:
            raise failed
        return self.answer(asked, replaced.outcomes, replaced)

    def failed(self, error: CounterError, end: float | None) -> CallError:
        """Log the error. What it is to the caller, whose time is over at `end` (of `time.monotonic`)."""
        if (held := self._throttle(error.reason)) is not None:
            _log.warning("count_failed", reason=error.reason, error=str(error), held_back=held)
        if error.reason == "timeout" and end is not None and time.monotonic() >= end:
            return DeadlineError("deadline", str(error))
        return error

    def answer(self, asked: Asked, outcomes: Outcomes, replaced: Replaced | None = None) -> bytes:
        """The answer, where `outcomes` are those of the descriptors that are counted. `replaced`: what they are, if
        not the counters'."""
        if replaced is None and (ordinary := self._judge.ordinary(asked, outcomes)) is not None:
            return ordinary
        verdict = self._judge.verdict(asked, outcomes, replaced)
        overall = OVER_LIMIT if verdict.refuses() and not self._shadow_mode else OK
        if overall == OVER_LIMIT and verdict.taken:
            self._give_back(verdict.taken)
        parts = verdict.parts
        parts[0] = answer.OVERALL[overall]
        decisive = verdict.decisive()
        if replaced is not None and decisive is not None:
            told = {"limit": decisive.limit.label, "on_error": replaced.told()}
            parts.append(answer.metadata(told, overall))
        else:
            parts.append(decisive.metadata[overall] if decisive else answer.NO_LIMIT_METADATA[overall])
        if self._with_metadata_of_request:
            parts.append(answer.more_metadata(of_request(asked.request, verdict.passed)))
        if self._headers.enabled and verdict.least is not None:
            parts.append(
                answer.headers(
                    {
                        self._headers.limit: verdict.least.limit.requests_per_unit,
                        self._headers.remaining: verdict.left,
                        self._headers.reset: verdict.reset,
                    }
                )
            )
        return b"".join(parts)

    def _give_back(self, taken: list[Hit]) -> None:
        """The slots of a request that another limit refused. If that fails, their leases end some time."""
        back = [hit._replace(hits=-1) for hit in taken]
        try:
            outcomes = self._counters.hit(back, int(self._clock() * SECOND))
        except CounterError as error:
            self.failed(error, None)
            return
        if not isinstance(outcomes, list):
            waiting = ensure_future(outcomes)
            self._giving_back.add(waiting)
            waiting.add_done_callback(self._given_back)

    def _given_back(self, outcomes: Future[Outcomes]) -> None:
        self._giving_back.discard(outcomes)
        if not outcomes.cancelled() and isinstance(error := outcomes.exception(), CounterError):
            self.failed(error, None)


class _Waiting(Pending):
    """A request whose counters are waited for."""

    __slots__ = ("_asked", "_done", "_end", "_outcomes", "_service")

    def __init__(
        self, service: QuotaService, asked: Asked, outcomes: Future[Outcomes], end: float | None
    ) -> None:
        self._service = service
        self._asked = asked
        self._outcomes = outcomes
        self._end = end
        self._done: Done

    def then(self, done: Done) -> None:
        self._done = done
        self._outcomes.add_done_callback(self._finish)

    def cancel(self) -> None:
        self._outcomes.cancel()

    def _finish(self, outcomes: Future[Outcomes]) -> None:
        result: bytes | BaseException
        try:
            try:
                result = self._service.answer(self._asked, outcomes.result())
            except CounterError as error:
                result = self._service.without(self._asked, error, self._end)
        except (Exception, CancelledError) as error:
            result = error
        self._done(result)
