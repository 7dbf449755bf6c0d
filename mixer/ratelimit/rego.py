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
from mixer.policy.engine import Evaluation, OutdatedError, Path, PolicyEngine
from mixer.ratelimit.objects import Found, Objects

_MEMO_ENTRIES = 4096
_MEMO_LENGTH = (
    8192  # characters of what the rule says; longer ones are rare and would make the memo's size unknown
)
_ATTEMPTS = 3  # where the engine's policies change meanwhile
_QUOTA_FIELDS = ("domain", "descriptors", "hits_addend")

Made = tuple[bytes, object]  # an input as JSON, and what it was made from

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
        self._given_cache = cache
        self._kept = lru_cache(_MEMO_ENTRIES)(self._read)
        self._throttle = Throttle()
        self._seconds = metrics.evaluation_seconds.labels(engine.name)
        self._errors = metrics.engine_errors
        self._lookups = metrics.cache_lookups.labels
        self._adopt()

    @property
    def paths(self) -> frozenset[Path]:
        """What the rule can read of its input; another one where the engine's policies have changed."""
        return self._engine.references.paths

    def _adopt(self) -> None:
        """Go by what the engine's policies are now. What was kept of others goes."""
        references = self._references = self._engine.references
        if self._given_cache is not None:
            self._given_cache.clear()
        self._cache = None if references.uncacheable else self._given_cache
        self._looked_up = self._lookups("bypass" if self._cache is None else "miss")
        self._is_constant = not references.paths and not references.uncacheable
        self._constant: str | None = None
        read = {path[0] for path in references.paths if path}
        self._fields = [name for name in _QUOTA_FIELDS if name in read or () in references.paths]

    def of_quota(self, request: RateLimitRequest, timeout: float | None) -> Found | Awaitable[Found]:
        """The limits for a call of Quota; its failures are logged and counted. Raises as `find` does."""

        def make() -> Made:
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
            return orjson.dumps(value), value

        try:
            found = self.find(make, timeout)
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

    def find(self, make: Callable[[], Made], timeout: float | None) -> Found | Awaitable[Found]:
        """The limits over an input, at once or as something to wait for. `make` makes it, of `paths`; again where the
        engine's policies have changed meanwhile.

        Raises, at once or when it is waited for:
            DecisionError: the rule has no value or failed; with the reason `illegal`, it has one that is no limits.
        """
        if self._engine.references is not self._references:
            self._adopt()
        if self._constant is not None:
            return self._kept(self._constant)
        document, value = make()
        if self._cache is not None and (kept := self._cache.get(document, self._clock())) is not None:
            return self._of(kept)
        self._looked_up.inc()
        start = time.perf_counter()
        evaluated = self._engine.evaluate(document, timeout, value)
        if isinstance(evaluated, Evaluation):
            return self._take(document, evaluated, start)
        return self._wait(document, evaluated, start, make, timeout)

    async def _wait(
        self,
        document: bytes,
        waiting: Awaitable[Evaluation],
        start: float,
        make: Callable[[], Made],
        timeout: float | None,
    ) -> Found:
        end = None if timeout is None else time.monotonic() + timeout
        for _ in range(_ATTEMPTS):
            try:
                return self._take(document, await waiting, start)
            except OutdatedError:
                if self._engine.references is not self._references:
                    self._adopt()
                document, value = make()
                left = None if end is None else max(0.0, end - time.monotonic())
                evaluated = self._engine.evaluate(document, left, value)
                if isinstance(evaluated, Evaluation):
                    return self._take(document, evaluated, start)
                waiting = evaluated
        changing = f"the policies of {self._engine.decision} change faster than they answer"
        raise DecisionError("unavailable", changing)

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
