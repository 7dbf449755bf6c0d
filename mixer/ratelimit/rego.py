"""Limits from Rego: the rule `rate_limits.decision`, evaluated by the policy engine over what a call says."""

import time
from collections.abc import Awaitable, Callable
from functools import lru_cache

import orjson
import structlog
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest

from mixer.errors import DecisionError
from mixer.log import Throttle
from mixer.metrics import Metrics
from mixer.policy.cache import DecisionCache
from mixer.policy.engine import Evaluation, PolicyEngine
from mixer.ratelimit.objects import Found, Objects

_MEMO_ENTRIES = 4096
_MEMO_LENGTH = (
    8192  # characters of what the rule says; longer ones are rare and would make the memo's size unknown
)
_QUOTA_FIELDS = ("domain", "descriptors", "hits_addend")

_log = structlog.get_logger()


class RegoLimits:
    """The limits that a rule gives. `engine` is started; `cache` is None where the operator rules it out.

    What the rule says of an equal input is kept as decisions are, and what depends on no input at all for good. What it
    said before is not read again.
    """

    def __init__(
        self,
        engine: PolicyEngine,
        cache: DecisionCache | None,
        objects: Objects,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._objects = objects
        references = engine.references
        self.paths = references.paths
        self._cache = None if references.uncacheable else cache
        self._is_constant = not references.paths and not references.uncacheable
        self._constant: str | None = None
        self._kept = lru_cache(_MEMO_ENTRIES)(self._read)
        read = {path[0] for path in references.paths if path}
        self._fields = [name for name in _QUOTA_FIELDS if name in read or () in references.paths]
        self._throttle = Throttle()
        self._seconds = metrics.evaluation_seconds.labels(engine.name)
        self._errors = metrics.engine_errors
        self._looked_up = metrics.cache_lookups.labels("bypass" if self._cache is None else "miss")

    def of_quota(self, request: RateLimitRequest, timeout: float | None) -> Found | Awaitable[Found]:
        """The limits for a call of Quota; its failures are logged and counted. Raises as `find` does."""
        value: dict[str, object] = {}
        for name in self._fields:
            if name == "descriptors":
                value[name] = [
                    [{"key": entry.key, "value": entry.value} for entry in descriptor.entries]
                    for descriptor in request.descriptors
                ]
            elif name == "domain":
                value[name] = request.domain
            else:
                value[name] = request.hits_addend or 1
        try:
            found = self.find(orjson.dumps(value), value, timeout)
        except DecisionError as error:
            raise self._failed(error) from None
        return found if isinstance(found, Found) else self._told(found)

    async def _told(self, found: Awaitable[Found]) -> Found:
        try:
            return await found
        except DecisionError as error:
            raise self._failed(error) from None

    def _failed(self, error: DecisionError) -> DecisionError:
        self._errors.labels(self._engine.name, error.reason).inc()
        if (held := self._throttle(error.reason)) is not None:
            _log.warning("limits_failed", reason=error.reason, error=str(error), held_back=held)
        return error

    def find(self, document: bytes, value: object, timeout: float | None) -> Found | Awaitable[Found]:
        """The limits over an input (JSON, and what it was made from): at once, or as something to wait for.

        Raises, at once or when it is waited for:
            DecisionError: the rule has no value or failed; with the reason `illegal`, it has one that is no limits.
        """
        if self._constant is not None:
            return self._kept(self._constant)
        if self._cache is not None and (kept := self._cache.get(document, self._clock())) is not None:
            return self._of(kept)
        self._looked_up.inc()
        start = time.perf_counter()
        evaluated = self._engine.evaluate(document, timeout, value)
        if isinstance(evaluated, Evaluation):
            return self._take(document, evaluated, start)
        return self._wait(document, evaluated, start)

    async def _wait(self, document: bytes, waiting: Awaitable[Evaluation], start: float) -> Found:
        return self._take(document, await waiting, start)

    def _take(self, document: bytes, evaluation: Evaluation, start: float) -> Found:
        self._seconds.observe(time.perf_counter() - start)
        found = self._of(evaluation.decision)
        if self._is_constant and evaluation.valid_until is None and len(evaluation.decision) <= _MEMO_LENGTH:
            self._constant = evaluation.decision
        elif self._cache is not None:
            self._cache.put(document, evaluation.decision, self._clock(), evaluation.valid_until)
        return found

    def _of(self, said: str) -> Found:
        return (self._kept if len(said) <= _MEMO_LENGTH else self._read)(said)

    def _read(self, said: str) -> Found:
        return self._objects.read(orjson.loads(said), self._engine.decision)
