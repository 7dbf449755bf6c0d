"""Log records of calls that are here at the same time, read together.

Envoy sends some nine log records in a call (its buffer has 16 KiB), and to read a batch has a price of its own: nine at
a time cost half as much again as sixty.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from itertools import chain

from mixer.telemetry.logbatch import Log
from mixer.telemetry.record import AccessRecord

Made = list[AccessRecord | None]
_Call = tuple[Sequence[Log], asyncio.Future[Made]]


class Gathering:
    """Reads what calls ask for in one turn of the event loop in batches, in the order in which they asked.

    No call waits for others that are not here: the next turn reads what there is. Between two batches the loop runs.
    `read` is `LogReader.records`; `most`: log records that are read without a pause.
    """

    def __init__(self, read: Callable[[Sequence[Log]], Made], most: int) -> None:
        self._read = read
        self._most = most
        self._waiting: deque[_Call] = deque()
        self._is_due = False

    async def records(self, logs: Sequence[Log]) -> Made:
        """What `read` makes of these, `most` at most. Raises what it raises for them."""
        if not logs:
            return []
        loop = asyncio.get_running_loop()
        made: asyncio.Future[Made] = loop.create_future()
        self._waiting.append((logs, made))
        if not self._is_due:
            self._is_due = True
            loop.call_soon(self._turn, loop)
        return await made

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        calls = self._batch()
        self._is_due = bool(self._waiting)
        if self._is_due:
            loop.call_soon(self._turn, loop)
        if calls:
            self._answer(calls)

    def _batch(self) -> list[_Call]:
        found: list[_Call] = []
        room = self._most
        while self._waiting:
            logs, made = self._waiting[0]
            if not made.done():  # nor is its call cancelled
                if found and len(logs) > room:
                    break
                found.append((logs, made))
                room -= len(logs)
            self._waiting.popleft()
        return found

    def _answer(self, calls: Sequence[_Call]) -> None:
        try:
            records = self._read(list(chain.from_iterable(logs for logs, _ in calls)))
        except Exception as error:
            if len(calls) == 1:
                calls[0][1].set_exception(error)
                return
            for call in calls:  # the others shall not suffer for one
                self._answer((call,))
            return
        start = 0
        for logs, made in calls:
            made.set_result(records[start : start + len(logs)])
            start += len(logs)
