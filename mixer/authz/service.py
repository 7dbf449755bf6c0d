"""Check: `envoy.service.auth.v3.Authorization`, free of gRPC."""

import time
from collections.abc import Callable

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
from mixer.policy.engine import PolicyEngine

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

    async def check(self, request: CheckRequest, timeout: float | None) -> bytes:
        """A serialised CheckResponse. Raises `DecisionError` where there is no legal decision in `timeout` seconds."""
        decision_id = self._ids.next()
        try:
            document = orjson.dumps(self._input.build(request), option=orjson.OPT_SORT_KEYS)
            answer = await self._decide(document, timeout)
        except BadRequestError as error:
            answer = self._answers.bad_request(str(error))
        except DecisionError as error:
            self._errors.labels(self._engine.name, error.reason).inc()
            if (held := self._throttle(error.reason)) is not None:
                log.warning(
                    "decision_failed",
                    decision_id=decision_id,
                    reason=error.reason,
                    error=str(error),
                    held_back=held,
                )
            raise
        (self._allowed if answer.allowed else self._denied).inc()
        return answer.with_id(decision_id)

    async def _decide(self, document: bytes, timeout: float | None) -> Answer:
        cache = self._cache
        if cache is None:
            self._bypassed.inc()
            decision, _ = await self._evaluate(document, timeout)
            return self._answers.of(decision, "off")
        now = self._clock()
        if (kept := cache.get(document, now)) is not None:
            return self._answers.of(kept, "hit")
        decision, valid_until = await self._evaluate(document, timeout)
        answer = self._answers.of(decision, "miss")  # an illegal decision is not worth keeping
        cache.put(document, decision, now, valid_until)
        return answer

    async def _evaluate(self, document: bytes, timeout: float | None) -> tuple[str, float | None]:
        start = time.perf_counter()
        evaluation = await self._engine.evaluate(document, timeout)
        self._evaluation_seconds.observe(time.perf_counter() - start)
        return evaluation.decision, evaluation.valid_until
