"""Evaluations on their way, so that calls with an equal input share one instead of asking each for themselves."""

import asyncio
from collections.abc import Awaitable

from mixer.errors import DecisionError
from mixer.policy.engine import Evaluation

# What says nothing of another call: the deadline was that of the first, and the server may be back.
_OF_ONE_CALL = frozenset(["timeout", "unavailable"])


class Flights:
    """By input. The evaluation goes on where the call that began it is cancelled, as long as another waits for it."""

    def __init__(self) -> None:
        self._tasks: dict[bytes, asyncio.Future[Evaluation]] = {}
        self._waiting: dict[bytes, int] = {}  # calls

    def __contains__(self, document: bytes) -> bool:
        return document in self._tasks

    def begin(self, document: bytes, evaluation: Awaitable[Evaluation]) -> Awaitable[Evaluation]:
        """Share an evaluation from now on until it has ended; what to wait for it by."""
        task = asyncio.ensure_future(evaluation)
        self._tasks[document] = task
        self._waiting[document] = 1

        def ended(task: asyncio.Future[Evaluation]) -> None:
            del self._tasks[document], self._waiting[document]
            if not task.cancelled():
                task.exception()  # nobody may be left who waits

        def left(waiter: asyncio.Future[Evaluation]) -> None:
            if waiter.cancelled():
                self._left(document, task)

        task.add_done_callback(ended)
        waiter = asyncio.shield(task)
        waiter.add_done_callback(left)
        return waiter

    def _left(self, document: bytes, task: "asyncio.Future[Evaluation]") -> None:
        """A call waits no longer."""
        if self._tasks.get(document) is not task:
            return
        self._waiting[document] -= 1
        if not self._waiting[document]:
            task.cancel()

    async def join(self, document: bytes, timeout: float | None) -> Evaluation | None:
        """The outcome of the evaluation that is on its way. None: there is none, or it failed for its caller alone.

        Raises `DecisionError`, "timeout" where it has not ended within `timeout` seconds."""
        task = self._tasks.get(document)
        if task is None:
            return None
        self._waiting[document] += 1
        try:
            done, _ = await asyncio.wait([task], timeout=timeout)
        finally:
            if not task.done():
                self._left(document, task)
        if not done:
            raise DecisionError(
                "timeout", "an equal call's evaluation did not end before this call's deadline"
            )
        if task.cancelled():
            return None
        error = task.exception()
        if isinstance(error, DecisionError) and error.reason in _OF_ONE_CALL:
            return None
        if error is not None:
            raise error
        return task.result()
