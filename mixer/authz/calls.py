"""Calls of Check on their way to their answers."""

import time
from asyncio import CancelledError
from collections.abc import Awaitable
from typing import Protocol, TypeVar

from envoy.service.auth.v3.external_auth_pb2 import CheckRequest

from mixer.authz.response import Answer
from mixer.pending import InTask, Pending
from mixer.policy.engine import Evaluation, References
from mixer.ratelimit.limiter import Counted
from mixer.server.front import Done


class Call:
    """One call on its way to its answer, and what has been found out for it."""

    __slots__ = (
        "answer", "cache", "counted", "decision", "decision_id", "document", "error", "joined", "reason", "references",
        "request",
        "seconds", "start", "timeout", "value", "waiting",
    )  # fmt: skip

    def __init__(self, request: CheckRequest, timeout: float | None, decision_id: str) -> None:
        self.request = request
        self.timeout = timeout
        self.decision_id = decision_id
        self.document: bytes | None = None  # the input; None where the request could not be read
        self.value: object = None  # what it was made from
        self.references: References | None = None  # by which it was built
        self.cache = "off"
        self.joined = False  # it waits for an equal call's evaluation
        self.waiting: Awaitable[Evaluation] | None = None
        self.start = 0.0  # of the evaluation, by `time.perf_counter`
        self.seconds: float | None = None
        self.decision: str | None = None
        self.answer: Answer | None = None
        self.counted: Counted | None = None
        self.error: Exception | None = None
        self.reason: str | None = None


def left(end: float | None) -> float | None:
    """Seconds until a moment of `time.monotonic`."""
    return None if end is None else max(0.0, end - time.monotonic())


class Service(Protocol):
    """Goes on with a call when what it waited for has come."""

    def evaluated(
        self, call: Call, evaluation: Evaluation | BaseException, end: float | None
    ) -> bytes | BaseException | Awaitable[bytes]: ...


class Evaluating(Pending[bytes]):
    """A call whose evaluation is waited for."""

    __slots__ = ("_call", "_done", "_end", "_service", "_waiting")

    def __init__(
        self, service: Service, call: Call, evaluation: Pending[Evaluation], end: float | None
    ) -> None:
        self._service = service
        self._call = call
        self._waiting: Pending[Evaluation] | Pending[bytes] = evaluation
        self._end = end
        self._done: Done

    def then(self, done: Done) -> None:
        self._done = done
        self._waiting.then(self._evaluated)  # type: ignore[arg-type]

    def cancel(self) -> None:
        self._waiting.cancel()

    def _evaluated(self, evaluation: Evaluation | BaseException) -> None:
        done = self._done
        del self._done  # or it and this would keep each other
        try:
            answer = self._service.evaluated(self._call, evaluation, self._end)
        except (Exception, CancelledError) as error:
            answer = error
        if isinstance(answer, bytes | BaseException):
            done(answer)
            return
        self._waiting = waiting = answer if isinstance(answer, Pending) else InTask(answer)
        waiting.then(done)


T = TypeVar("T")


def outcome(answer: T | BaseException) -> T:
    """The answer; raises it if it is an error."""
    if not isinstance(answer, BaseException):
        return answer
    try:
        raise answer
    finally:
        del answer  # or its traceback and this frame would keep each other
