"""Check: `envoy.service.auth.v3.Authorization`, free of gRPC."""

import time
from collections.abc import Awaitable, Callable

import orjson
import structlog
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest

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
    """Decides requests with a started engine. `cache` is None where the operator or the policy rules it out."""

    def __init__(
        self,
        engine: PolicyEngine,
        cache: DecisionCache | None,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine = engine
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
            return self._answer(self._answers.bad_request(str(error)), decision_id)
        if self._cache is None:
            self._bypassed.inc()
        elif (kept := self._cache.get(document, self._clock())) is not None:
            return self._answer(self._answers.of(kept, "hit"), decision_id)
        start = time.perf_counter()
        try:
            evaluation = self._engine.evaluate(document, timeout)
            if isinstance(evaluation, Evaluation):
                return self._conclude(document, evaluation, start, decision_id)
        except DecisionError as error:
            self._failed(error, decision_id)
            raise
        return self._wait(document, evaluation, start, decision_id)

    async def _wait(
        self, document: bytes, evaluation: Awaitable[Evaluation], start: float, decision_id: str
    ) -> bytes:
        try:
            return self._conclude(document, await evaluation, start, decision_id)
        except DecisionError as error:
            self._failed(error, decision_id)
            raise

    def _conclude(self, document: bytes, evaluation: Evaluation, start: float, decision_id: str) -> bytes:
        self._evaluation_seconds.observe(time.perf_counter() - start)
        decision = evaluation.decision
        if self._cache is None:
            return self._answer(self._answers.of(decision, "off"), decision_id)
        answer = self._answers.of(decision, "miss")  # an illegal decision is not worth keeping
        self._cache.put(document, decision, self._clock(), evaluation.valid_until)
        return self._answer(answer, decision_id)

    def _answer(self, answer: Answer, decision_id: str) -> bytes:
        (self._allowed if answer.allowed else self._denied).inc()
        return answer.with_id(decision_id)

    def _failed(self, error: DecisionError, decision_id: str) -> None:
        self._errors.labels(self._engine.name, error.reason).inc()
        if (held := self._throttle(error.reason)) is not None:
            log.warning(
                "decision_failed",
                decision_id=decision_id,
                reason=error.reason,
                error=str(error),
                held_back=held,
            )
