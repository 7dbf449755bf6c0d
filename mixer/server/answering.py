"""Calls of a unary method, on their way to their answers: parsing, counting, refusals, and errors as status."""

import asyncio
import time
from collections.abc import Awaitable, Sequence
from functools import partial
from itertools import starmap
from typing import Any, Protocol

import grpc
from google.protobuf.message import DecodeError

from mixer import config
from mixer.errors import RequestError
from mixer.metrics import Metrics
from mixer.server.front import Call, Calls, Pending, Unary

OVERLOAD = "overload"  # the reason of a `CallError` by which a call's backend refuses it at once
_REFUSED = {
    "late": "overloaded: the call could not be answered in its time",
    "full": "overloaded: too many calls wait for their answers",
}

Received = tuple[bytes, float | None]  # a message, and the seconds left


def status_of(overload: config.Overload) -> grpc.StatusCode:
    """Of calls that are refused."""
    return grpc.StatusCode[overload.code]


class StatusError(Exception):
    """How a call ends that has no answer."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        self.code = code
        self.details = details
        super().__init__(details)


Begun = bytes | Awaitable[bytes] | StatusError


class Begin(Protocol):
    """What a front calls for a unary method: messages and seconds left to the answers, in order. Each is the answer,
    one to wait for, or how the call ends that has none. What is waited for raises `StatusError` alone (and
    CancelledError, when its task is cancelled). `waited`: the seconds that the first of them did before.
    """

    def __call__(self, calls: Sequence[Received], waited: float = 0.0, /) -> list[Begun]: ...


class Owner(Protocol):
    """What the methods of a front share."""

    overload: config.Overload
    waiting: int  # calls that are begun and have no answer yet

    def begun(self, calls: int) -> None: ...

    def enter(self) -> None:
        """A call waits for its answer."""

    def leave(self) -> None: ...

    def overloaded(self, name: str, reason: str) -> None:
        """Calls of a method were refused so that others are answered in time."""

    def failure(self, name: str, error: Exception) -> "StatusError":
        """How a call of a method ends that failed."""


class Answering:
    """Calls of one unary method, on their way to their answers."""

    def __init__(self, handlers: Owner, method: Unary, metrics: Metrics) -> None:
        self._handlers = handlers
        self._name = name = method.name
        self._together = method.together or _one_by_one(method.call)
        self._parse = None if method.request is None else method.request.FromString
        self._waiting = 0
        self._calls = metrics.calls
        self._ok, self._seconds = metrics.calls.labels(name, "OK"), metrics.call_seconds.labels(name)
        self._most = handlers.overload.max_in_flight
        self.refusals = {
            reason: StatusError(status_of(handlers.overload), details) for reason, details in _REFUSED.items()
        }
        answered = metrics.calls.labels(name, handlers.overload.code)
        self._refused = {reason: (answered, metrics.calls_shed.labels(name, reason)) for reason in _REFUSED}
        metrics.calls_in_flight.labels(name).set_function(lambda: self._waiting)

    def shed(self, reason: str, count: int) -> StatusError:
        """Take note of calls that are refused rather than begun; how that is told."""
        answered, shed = self._refused[reason]
        answered.inc(count)
        shed.inc(count)
        self._handlers.overloaded(self._name, reason)
        return self.refusals[reason]

    def gave_up(self, count: int) -> None:
        """Take note of calls that their client does not want any more, before they were begun."""
        self._calls.labels(self._name, "CANCELLED").inc(count)

    def begin(self, calls: Sequence[Received], waited: float = 0.0, /) -> list[Begun]:
        """See `Begin`."""
        handlers = self._handlers
        handlers.begun(len(calls))
        if len(calls) > (room := self._most - handlers.waiting):
            kept = self.begin(calls[:room], waited) if room > 0 else []
            return [*kept, *[self.shed("full", len(calls) - len(kept))] * (len(calls) - len(kept))]
        start = time.perf_counter() - waited
        parse = self._parse
        try:
            answers = self._together([(parse(data), left) for data, left in calls] if parse else calls)
        except DecodeError:
            if len(calls) > 1:
                return [begun for call in calls for begun in self.begin((call,), waited)]
            answers = [malformed()]
        begun: list[Begun] = []
        done = 0
        for answer in answers:
            if isinstance(answer, bytes):
                begun.append(answer)
                done += 1
            elif isinstance(answer, Exception):
                begun.append(self._handlers.failure(self._name, answer))
            elif isinstance(answer, Pending):
                self._enter()
                begun.append(answer.map(partial(self._leave, start)))
                continue
            else:
                begun.append(self._wait(answer, start))
                continue
            self._seconds.observe(time.perf_counter() - start)
        self._ok.inc(done)
        return begun

    def _enter(self) -> None:
        self._waiting += 1
        self._handlers.enter()

    def _leave(self, start: float, result: bytes | BaseException) -> bytes | BaseException:
        """Take note of how a call that waited ended, and say how that is told."""
        self._waiting -= 1
        self._handlers.leave()
        self._seconds.observe(time.perf_counter() - start)
        if isinstance(result, bytes):
            self._ok.inc()
        elif isinstance(result, Exception):
            return self._handlers.failure(self._name, result)
        else:
            self._calls.labels(self._name, "CANCELLED").inc()
        return result

    async def _wait(self, answer: Awaitable[bytes], start: float) -> bytes:
        self._enter()
        result: bytes | BaseException = asyncio.CancelledError()
        try:
            result = await answer
        except Exception as error:
            result = error
        finally:
            result = self._leave(start, result)
        if isinstance(result, bytes):
            return result
        raise result from None


def _one_by_one(call: Call) -> Calls:
    def each(request: Any, left: float | None) -> bytes | Awaitable[bytes] | Exception:
        try:
            return call(request, left)
        except Exception as error:
            return error

    return lambda requests: list(starmap(each, requests))


def malformed() -> RequestError:
    return RequestError("the request is no valid protobuf message of this method")
