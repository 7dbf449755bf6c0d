"""Check: `envoy.service.auth.v3.Authorization`, free of gRPC."""

import time
from collections.abc import Awaitable, Callable

import orjson
import structlog
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest

from mixer.authz.decided import Decided, Observer
from mixer.authz.ids import DecisionIds
from mixer.authz.input import InputBuilder
from mixer.authz.response import Answer, Answers
from mixer.authz.url import BadRequestError
from mixer.errors import DecisionError
from mixer.log import Throttle
from mixer.metrics import Metrics
from mixer.policy.cache import DecisionCache
from mixer.policy.engine import Evaluation, PolicyEngine

log = structlog.get_logger()


class CheckService:
    """Decides requests with a started engine. `cache` is None where the operator or the policy rules it out.

    `observer` is told of each decision and of each failure.
    """

    def __init__(
        self,
        engine: PolicyEngine,
        cache: DecisionCache | None,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
        observer: Observer | None = None,
    ) -> None:
        self._engine = engine
        self._observer = observer
        self._cache = cache
        self._clock = clock
        self._throttle = Throttle()
        self._ids = DecisionIds()
        self._input = InputBuilder(engine.references.paths)
        self._answers = Answers(engine.decision, engine.revision)
        self._evaluation_seconds = metrics.evaluation_seconds.labels(engine.name)
        self._errors = metrics.engine_errors
        self._allowed = metrics.decisions.labels("allowed")
        self._denied = metrics.decisions.labels("denied")
        self._bypassed = metrics.cache_lookups.labels("bypass")

    def check(self, request: CheckRequest, timeout: float | None) -> bytes | Awaitable[bytes]:
        """A serialised CheckResponse, at once unless the engine must be waited for. Raises `DecisionError` where
        there is no legal decision in `timeout` seconds, now or when it is waited for."""
        decision_id = self._ids.next()
        try:
            document = orjson.dumps(self._input.build(request), option=orjson.OPT_SORT_KEYS)
        except BadRequestError as error:
            answer = self._answers.bad_request(str(error))
            if (observer := self._observer) is not None:
                observer(
                    self._told(
                        decision_id,
                        request,
                        None,
                        allowed=False,
                        error=str(error),
                        reason="request_malformed",
                    )
                )
            return self._answer(answer, decision_id)
        if self._cache is None:
            self._bypassed.inc()
        elif (kept := self._cache.get(document, self._clock())) is not None:
            answer = self._answers.of(kept, "hit")
            if (observer := self._observer) is not None:
                observer(
                    self._told(
                        decision_id, request, document, result=kept, allowed=answer.allowed, cache="hit"
                    )
                )
            return self._answer(answer, decision_id)
        start = time.perf_counter()
        try:
            evaluation = self._engine.evaluate(document, timeout)
        except DecisionError as error:
            self._failed(error, decision_id, request, document, start=start)
            raise
        if isinstance(evaluation, Evaluation):
            return self._conclude(evaluation, decision_id, request, document, start)
        return self._wait(evaluation, decision_id, request, document, start)

    async def _wait(
        self,
        waiting: Awaitable[Evaluation],
        decision_id: str,
        request: CheckRequest,
        document: bytes,
        start: float,
    ) -> bytes:
        try:
            evaluation = await waiting
        except DecisionError as error:
            self._failed(error, decision_id, request, document, start=start)
            raise
        return self._conclude(evaluation, decision_id, request, document, start)

    def _conclude(
        self, evaluation: Evaluation, decision_id: str, request: CheckRequest, document: bytes, start: float
    ) -> bytes:
        seconds = time.perf_counter() - start
        self._evaluation_seconds.observe(seconds)
        decision = evaluation.decision
        cache = "off" if self._cache is None else "miss"
        try:
            answer = self._answers.of(decision, cache)
        except DecisionError as error:  # an illegal decision is not worth keeping
            self._failed(error, decision_id, request, document, start=start, decision=decision)
            raise
        if self._cache is not None:
            self._cache.put(document, decision, self._clock(), evaluation.valid_until)
        if (observer := self._observer) is not None:
            observer(
                self._told(
                    decision_id,
                    request,
                    document,
                    result=decision,
                    allowed=answer.allowed,
                    cache=cache,
                    seconds=seconds,
                )
            )
        return self._answer(answer, decision_id)

    def _answer(self, answer: Answer, decision_id: str) -> bytes:
        (self._allowed if answer.allowed else self._denied).inc()
        return answer.with_id(decision_id)

    def _failed(
        self,
        error: DecisionError,
        decision_id: str,
        request: CheckRequest,
        document: bytes,
        *,
        start: float,
        decision: str | None = None,
    ) -> None:
        self._errors.labels(self._engine.name, error.reason).inc()
        if (observer := self._observer) is not None:
            observer(
                self._told(
                    decision_id,
                    request,
                    document,
                    result=decision,
                    error=str(error),
                    reason=error.reason,
                    cache="off" if self._cache is None else "miss",
                    seconds=time.perf_counter() - start,
                )
            )
        if (held := self._throttle(error.reason)) is not None:
            log.warning(
                "decision_failed",
                decision_id=decision_id,
                reason=error.reason,
                error=str(error),
                held_back=held,
            )

    def _told(
        self,
        decision_id: str,
        request: CheckRequest,
        document: bytes | None,
        *,
        result: str | None = None,
        error: str | None = None,
        reason: str | None = None,
        cache: str = "off",
        seconds: float | None = None,
        allowed: bool | None = None,
    ) -> Decided:
        return Decided(
            decision_id,
            self._engine.decision,
            self._engine.revision,
            request,
            document,
            result,
            error,
            reason,
            cache,
            self._clock(),
            seconds,
            allowed,
        )
