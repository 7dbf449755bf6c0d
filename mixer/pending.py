"""Answers that come later, without a task for each."""

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")
S = TypeVar("S")

Step = Callable[[Any], Any]


class Pending(Generic[T]):
    """An answer that comes later and needs no task to wait in, which costs less than an awaitable; it is one, too."""

    __slots__ = ()

    def then(self, done: Callable[[T | BaseException], None]) -> None:
        """Call back once, in a later turn of the loop, with the answer or the error (`CancelledError` for one that was
        cancelled). For one caller."""
        raise NotImplementedError

    def cancel(self) -> None:
        """Nobody wants the answer any more."""
        raise NotImplementedError

    def map(self, step: Callable[[T | BaseException], S | BaseException]) -> "Pending[S]":
        """What `step` makes of the answer or the error; what it raises is an error too. To be used in place of this."""
        return _Mapped(self, step)

    def __await__(self) -> Generator[Any, None, T]:
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def done(result: T | BaseException) -> None:
            if answer.done():
                return
            if not isinstance(result, BaseException):
                answer.set_result(result)
            elif isinstance(result, asyncio.CancelledError):
                answer.cancel()
            else:
                answer.set_exception(result)

        self.then(done)
        try:
            return (yield from answer.__await__())
        finally:
            if answer.cancelled():
                self.cancel()


class _Mapped(Pending[S]):
    """See `Pending.map`."""

    __slots__ = ("_done", "_of", "_step")

    def __init__(self, of: Pending[Any], step: Step) -> None:
        self._of = of
        self._step = step
        self._done: Callable[[Any], None]

    def then(self, done: Callable[[S | BaseException], None]) -> None:
        self._done = done
        self._of.then(self._finish)

    def cancel(self) -> None:
        self._of.cancel()

    def _finish(self, result: Any) -> None:
        done = self._done
        del self._done  # or it and this would keep each other
        try:
            result = self._step(result)
        except Exception as error:
            result = error
        try:
            done(result)
        finally:
            del result  # or an error's traceback and this frame would keep each other


class Promise(Pending[T]):
    """An answer that somebody gives by `set_result` or `set_exception`, and that whoever waits hears in the same turn
    of the loop: a future's callback takes another one, and 3 µs."""

    __slots__ = ("_done", "_loop", "_result", "_steps")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._steps: list[Step] = []
        self._done: Callable[[T | BaseException], None] | None = None
        self._result: T | BaseException | None = None

    def done(self) -> bool:
        return self._result is not None

    def set_result(self, result: T) -> None:
        self._set(result)

    def set_exception(self, error: Exception) -> None:
        self._set(error)

    def cancel(self) -> None:
        if self._result is None:
            self._result = asyncio.CancelledError()
            if self._done is not None:
                self._loop.call_soon(self._tell)

    def then(self, done: Callable[[T | BaseException], None]) -> None:
        self._done = done
        if self._result is not None:
            self._loop.call_soon(self._tell)

    def map(self, step: Callable[[T | BaseException], S | BaseException]) -> Pending[S]:
        """See `Pending.map`; a step of a promise costs no object of its own."""
        self._steps.append(step)
        return cast("Pending[S]", self)

    def _set(self, result: T | BaseException) -> None:
        if self._result is not None:
            raise asyncio.InvalidStateError
        self._result = result
        if self._done is not None:
            self._tell()

    def _tell(self) -> None:
        done, self._done = self._done, None
        result: Any = self._result
        try:
            for step in self._steps:
                try:
                    result = step(result)
                except Exception as error:
                    result = error
            cast(Any, done)(result)
        except Exception as error:  # of this one's, not of whoever gave the answer
            self._loop.call_exception_handler({"message": "an answer was not taken", "exception": error})
        finally:
            del result  # or an error's traceback and this frame would keep each other


class InTask(Pending[T]):
    """What is waited for in a task, as a `Pending`."""

    __slots__ = ("_task",)

    def __init__(self, awaitable: Awaitable[T]) -> None:
        self._task = asyncio.ensure_future(awaitable)

    def then(self, done: Callable[[T | BaseException], None]) -> None:
        def ended(task: asyncio.Future[T]) -> None:
            if task.cancelled():
                done(asyncio.CancelledError())
            else:
                done(task.exception() or task.result())

        self._task.add_done_callback(ended)

    def cancel(self) -> None:
        self._task.cancel()
