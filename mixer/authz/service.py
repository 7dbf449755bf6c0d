"""Check: `envoy.service.auth.v3.Authorization`, free of gRPC."""

import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, cast

import orjson
import structlog
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest

from mixer.authz.body import Bodies
from mixer.authz.calls import Call, Evaluating, left, outcome
from mixer.authz.decided import Decided, Observer
from mixer.authz.flights import Flights
from mixer.authz.ids import DecisionIds
from mixer.authz.input import BODIES, InputBuilder
from mixer.authz.response import Answer, Answers
from mixer.authz.url import BadRequestError
from mixer.errors import CallError, DecisionError
from mixer.log import Throttle
from mixer.metrics import Metrics
from mixer.policy.cache import DecisionCache
from mixer.policy.engine import Evaluation, OutdatedError, Path, PolicyEngine, References
from mixer.ratelimit.limiter import Counted, Limiter, Limits
from mixer.server.front import Pending

log = structlog.get_logger()


class CheckService:
    """Decides requests with a started engine. `cache` is None where the operator rules it out.

    What an equal input may decide otherwise (`References.uncacheable`) is kept only as long as the decision itself
    says by its `cache_ttl`; other decisions no longer than that. Equal inputs that wait for the engine are evaluated
    once.

    `observer` is told of each decision and of each failure. `bodies` is None where bodies are not to be looked at. With
    `dry_run`, what the policy does not allow passes, counted and logged; limits are counted, and what is over them
    passes too. `adopted` is called once the engine's policies have changed, and all that depends on them here.

    `limiter` counts what is allowed against the limits that the decision asks for, whether it comes from the cache or
    not. What is denied is not counted.
    """

    def __init__(
        self,
        engine: PolicyEngine,
        cache: DecisionCache | None,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.time,
        observer: Observer | None = None,
        bodies: Bodies | None = BODIES,
        dry_run: bool = False,
        adopted: Callable[[], None] = lambda: None,
        limiter: Limiter | None = None,
    ) -> None:
        self._engine = engine
        self._observer = observer
        self._cache = cache
        self._flights = Flights()
        self._clock = clock
        self._throttle = Throttle()
        self._ids = DecisionIds()
        self._bodies = bodies
        self._limiter = limiter
        self._dry_run = dry_run
        self._adopted = adopted
        self._adopt(engine.references)
        self._dry_run_passed = metrics.dry_run_passed
        self._evaluation_seconds = metrics.evaluation_seconds.labels(engine.name)
        self._errors = metrics.engine_errors
        self._outcomes = {
            allowed: metrics.decisions.labels(engine.decision, outcome)
            for allowed, outcome in ((True, "allowed"), (False, "denied"), (None, "error"))
        }
        self._over_limit = metrics.decisions.labels(engine.decision, "over_limit")
        self._misses = metrics.cache_lookups.labels("miss")
        self._joined = metrics.cache_lookups.labels("joined")
        self._bypassed = metrics.cache_lookups.labels("bypass")

    def check(self, request: CheckRequest, timeout: float | None) -> bytes | Awaitable[bytes]:
        """A serialised CheckResponse, at once unless the engine or the counters must be waited for. Raises, now or when
        it is waited for, `DecisionError` where there is no legal decision in `timeout` seconds, and as `Limiter.count`
        does where it cannot be counted."""
        (answer,) = self.check_all([(request, timeout)])
        return cast("bytes | Awaitable[bytes]", outcome(answer))

    def check_all(
        self, requests: Sequence[tuple[CheckRequest, float | None]]
    ) -> list[bytes | Awaitable[bytes] | Exception]:
        """`check` of each, in order; errors are among the answers.

        All are read, then all are decided, then all are answered: so the code of each stage stays in the processor's
        caches. Of sixteen calls, each takes 67 µs instead of 93 (the benchmark's policy).
        """
        if (references := self._engine.references) is not self._references:
            self._adopt(references)
        calls = [self._read(request, timeout) for request, timeout in requests]
        for call in calls:
            if (document := call.document) is not None:
                self._decide(call, document)
        return [self._conclude(call) for call in calls]

    def _adopt(self, references: References) -> None:
        """Go by what the engine's policies are now. What was kept of the decisions of others goes."""
        self._references = references
        self._unstable = bool(references.uncacheable)
        # What is unstable is shared only while decisions say that they may be.
        self._shares = self._cache is not None and not self._unstable
        self._input = InputBuilder(references.paths, self._bodies)
        self._adopt_limits()
        if self._cache is not None:
            self._cache.clear()
        self._adopted()

    def _adopt_limits(self) -> None:
        limiter = self._limiter
        self._limited_input: tuple[frozenset[Path], InputBuilder] | None = None
        if limiter is None:
            self._answers = Answers(self._engine.decision, self._engine.revision, self._dry_run)
            return
        self._answers = Answers(
            *(self._engine.decision, self._engine.revision, self._dry_run),
            read=limiter.read,
            always=limiter.paths is not None,
        )

    def _read(self, request: CheckRequest, timeout: float | None) -> Call:
        call = Call(request, timeout, self._ids.next())
        try:
            self._build(call)
        except BadRequestError as error:
            call.answer, call.error = self._answers.bad_request(str(error)), error
            call.reason = "request_malformed"
        except Exception as error:
            call.error = error
        return call

    def _build(self, call: Call) -> bytes:
        call.references = self._references
        value = self._input.build(call.request)
        call.document = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
        call.value = _plain(value)
        return call.document

    def _present(self, call: Call) -> bytes:
        """The call's input, built anew where the engine's policies have changed since."""
        if (references := self._engine.references) is not self._references:
            self._adopt(references)
        if call.references is not references or call.document is None:
            return self._build(call)
        return call.document

    def _decide(self, call: Call, document: bytes) -> None:
        if self._cache is not None:
            if (kept := self._cache.get(document, self._clock())) is not None:
                call.cache, call.decision = "hit", kept
                call.answer = self._answers.of(kept, "hit")
                return
            if not self._unstable:
                call.cache = "miss"
        call.start = time.perf_counter()
        if self._shares and document in self._flights:
            self._joined.inc()
            call.joined = True
            call.waiting = self._shared(call, document)
            return
        (self._misses if call.cache == "miss" else self._bypassed).inc()
        try:
            evaluation = self._engine.evaluate(document, call.timeout, call.value)
            if isinstance(evaluation, Evaluation):
                self._take(call, evaluation)
            elif self._shares:
                call.waiting = self._flights.begin(document, evaluation)
            else:
                call.waiting = evaluation
        except DecisionError as error:
            call.error = error.with_traceback(None)  # which would lead back to the call, a circle
        except Exception as error:
            call.error = error

    def _take(self, call: Call, evaluation: Evaluation) -> None:
        """Raises `DecisionError` for an illegal decision, which is not worth keeping."""
        if not call.joined:
            call.seconds = time.perf_counter() - call.start
            self._evaluation_seconds.observe(call.seconds)
        call.decision = evaluation.decision
        call.answer = self._answers.of(evaluation.decision, call.cache)
        if self._cache is None or call.references is not self._references:  # of policies that are gone
            return
        ttl = call.answer.cache_ttl
        if self._unstable:
            self._shares = bool(ttl)
            if not ttl:
                return
            call.cache = "miss"
            call.answer = self._answers.of(evaluation.decision, "miss")
        elif ttl is not None:
            ttl = min(ttl, self._cache.ttl)
        self._cache.put(call.document or b"", evaluation.decision, self._clock(), evaluation.valid_until, ttl)

    async def _shared(self, call: Call, document: bytes) -> Evaluation:
        """The outcome of an equal call's evaluation; of one of our own where that one says nothing of this call."""
        end = None if call.timeout is None else time.monotonic() + call.timeout
        while document in self._flights:
            evaluation = await self._flights.join(document, left(end))
            if evaluation is None:
                continue
            if not self._unstable or self._answers.of(evaluation.decision, "miss").cache_ttl:
                return evaluation
            break
        call.joined, call.start = False, time.perf_counter()
        document = self._present(call)
        evaluated = self._engine.evaluate(document, left(end), call.value)
        if isinstance(evaluated, Evaluation):
            return evaluated
        if self._shares and document not in self._flights:
            evaluated = self._flights.begin(document, evaluated)
        return await evaluated

    def _conclude(self, call: Call) -> bytes | Awaitable[bytes] | Exception:
        if (waiting := call.waiting) is not None:
            end = None if call.timeout is None else time.monotonic() + call.timeout
            if isinstance(waiting, Pending):
                return Evaluating(self, call, waiting, end)
            return self._wait(call, waiting, end)
        if call.answer is not None and (limits := call.answer.limits) is not None:
            return self._count(call, limits, call.timeout)
        return self._settled(call)

    async def _wait(self, call: Call, waiting: Awaitable[Evaluation], end: float | None) -> bytes:
        evaluation: Evaluation | Exception
        try:
            evaluation = await waiting
        except Exception as error:
            evaluation = error
        answer = self.evaluated(call, evaluation, end)
        return outcome(answer) if isinstance(answer, bytes | BaseException) else await answer

    def evaluated(
        self, call: Call, evaluation: Evaluation | BaseException, end: float | None
    ) -> bytes | BaseException | Awaitable[bytes]:
        """The answer to a call whose evaluation was waited for. Raises what the engine should not."""
        try:
            if isinstance(evaluation, OutdatedError):
                return self._again(call, end)
            if isinstance(evaluation, BaseException):
                raise evaluation
            self._take(call, evaluation)
        except DecisionError as error:
            call.error = error.with_traceback(None)
        if call.answer is None or (limits := call.answer.limits) is None:
            return self._settled(call)
        return self._count(call, limits, left(end))

    async def _again(self, call: Call, end: float | None) -> bytes:
        """Have the input built by what the engine's policies are now, and evaluated."""
        call.joined = False
        try:
            evaluated = self._engine.evaluate(self._present(call), left(end), call.value)
        except DecisionError as error:
            call.error = error.with_traceback(None)
            return outcome(self._settled(call))
        waiting = _given(evaluated) if isinstance(evaluated, Evaluation) else evaluated
        return await self._wait(call, waiting, end)

    def _count(
        self, call: Call, limits: Limits, timeout: float | None
    ) -> bytes | Awaitable[bytes] | Exception:
        """The answer to an allowed call, counted against its limits."""
        try:
            limiter = cast(Limiter, self._limiter)
            make = None if limiter.paths is None else partial(self._limited_document, limiter, call)
            counted = limiter.count(limits, make, call.decision_id, timeout)
        except Exception as error:
            return self._uncounted(call, error)
        if isinstance(counted, Pending):
            return counted.map(partial(self._concluded, call))
        if not isinstance(counted, Counted):
            return self._counted(call, counted)
        call.counted = counted
        return self._settled(call)

    def _limited_document(self, limiter: Limiter, call: Call) -> tuple[bytes, object]:
        """What the rule of limits is evaluated over."""
        paths = limiter.paths or frozenset()
        if self._limited_input is None or self._limited_input[0] is not paths:
            self._limited_input = paths, InputBuilder(paths, self._bodies)
        value = self._limited_input[1].build(call.request)
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS), _plain(value)

    async def _counted(self, call: Call, waiting: Awaitable[Counted]) -> bytes:
        try:
            call.counted = await waiting
        except Exception as error:
            return outcome(self._uncounted(call, error))
        return outcome(self._settled(call))

    def _concluded(self, call: Call, counted: Counted | BaseException) -> bytes | BaseException:
        """The answer to a call whose counts were waited for."""
        if isinstance(counted, Exception):
            return self._uncounted(call, counted)
        if isinstance(counted, BaseException):
            return counted
        call.counted = counted
        return self._settled(call)

    def _uncounted(self, call: Call, error: Exception) -> Exception:
        call.answer, call.error = None, error.with_traceback(None)
        return self._failed(call)

    def _settled(self, call: Call) -> bytes | Exception:
        if (answer := call.answer) is None:
            return self._failed(call)
        if self._observer is not None:
            self._observer(self._told(call))
        if call.reason is not None:
            self._errors.labels(self._engine.name, call.reason).inc()
        if call.counted is not None:
            return self._limited(call, answer, call.counted)
        self._outcomes[answer.allowed].inc()
        if self._dry_run and not answer.allowed and call.error is None:
            self._let_pass(call)
        return answer.with_id(call.decision_id)

    def _limited(self, call: Call, answer: Answer, counted: Counted) -> bytes:
        (self._over_limit if counted.over else self._outcomes[True]).inc()
        if counted.over and self._dry_run:
            self._let_pass(call)
        return self._answers.counted(answer, call.decision or "", call.decision_id, call.cache, counted)

    def _let_pass(self, call: Call) -> None:
        self._dry_run_passed.inc()
        if (held := self._throttle("dry_run")) is not None:
            log.info("dry_run_let_pass", decision_id=call.decision_id, held_back=held)

    def _failed(self, call: Call) -> Exception:
        error = call.error or RuntimeError("a call ended without an answer")
        if not isinstance(error, CallError):
            return error
        call.reason = error.reason
        if isinstance(error, DecisionError):
            self._undecided(call, error)
        if self._observer is not None:
            self._observer(self._told(call))
        return error

    def _undecided(self, call: Call, error: DecisionError) -> None:
        if call.seconds is None and not call.joined and call.decision is None:
            call.seconds = time.perf_counter() - call.start
        self._errors.labels(self._engine.name, error.reason).inc()
        if (held := self._throttle(error.reason)) is not None:
            log.warning(
                "decision_failed",
                decision_id=call.decision_id,
                reason=error.reason,
                error=str(error),
                held_back=held,
            )

    def _told(self, call: Call) -> Decided:
        answer, counted = call.answer, call.counted
        return Decided(
            call.decision_id,
            self._engine.decision,
            self._engine.revision,
            call.request,
            call.document,
            call.decision,
            None if call.error is None else str(call.error),
            call.reason,
            call.cache,
            self._clock(),
            call.seconds,
            None if answer is None else answer.allowed,
            None if counted is None or not counted.limit else counted.limit,
            counted is not None and counted.over and not self._dry_run,
        )


async def _given(evaluation: Evaluation) -> Evaluation:
    return evaluation


def _plain(value: dict[str, Any]) -> dict[str, Any] | None:
    """The input; None where its text alone says all of it (see `Bodies`, `written`)."""
    return None if isinstance(value.get("parsed_body"), orjson.Fragment) else value
