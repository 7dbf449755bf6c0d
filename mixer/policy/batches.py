"""Work that arrives one by one, done several at a time: what comes while others are on their way goes out together."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class FullError(Exception):
    """As much waits as may."""


class Batches(Generic[ItemT, ResultT]):
    """Gives items to `work` in batches, in order.

    `work` answers a result or an exception for each item, in their order; what it raises is every item's. At most
    `concurrency` batches of at most `max_items` are worked on, and at most `max_waiting` items wait. `late`: the
    exception of an item whose seconds are over.
    """

    def __init__(
        self,
        work: Callable[[Sequence[ItemT]], Awaitable[Sequence[ResultT | Exception]]],
        late: Callable[[float], Exception],
        *,
        max_items: int,
        concurrency: int,
        max_waiting: int,
    ) -> None:
        self._work = work
        self._late = late
        self._max_items = max_items
        self._concurrency = concurrency
        self._max_waiting = max_waiting
        self._waiting: deque[tuple[ItemT, asyncio.Future[ResultT], asyncio.TimerHandle]] = deque()
        self._workers: set[asyncio.Task[None]] = set()

    def put(self, item: ItemT, timeout: float) -> "asyncio.Future[ResultT]":
        """What to wait for: the item's result, or what `work` gives or raises. Raises `FullError`. Who cancels it while
        its item waits takes it out.

        A future and a timer: a task with a scope for each item would cost more than its share of a batch.
        """
        if len(self._waiting) >= self._max_waiting:
            raise FullError
        loop = asyncio.get_running_loop()
        future: asyncio.Future[ResultT] = loop.create_future()
        self._waiting.append((item, future, loop.call_later(timeout, self._expire, future, timeout)))
        if len(self._workers) < self._concurrency:
            worker = loop.create_task(self._run())
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)
        return future

    def _expire(self, future: "asyncio.Future[ResultT]", timeout: float) -> None:
        if not future.done():
            future.set_exception(self._late(timeout))

    async def _run(self) -> None:
        while batch := self._next():
            items = [item for item, _, _ in batch]
            results: Sequence[ResultT | Exception]
            try:
                results = await self._work(items)
            except Exception as error:
                results = [error] * len(items)
            except asyncio.CancelledError:
                for _, future, timer in batch:
                    timer.cancel()
                    future.cancel()
                raise
            for (_, future, timer), result in zip(batch, results, strict=True):
                timer.cancel()
                if future.done():
                    continue
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)

    def _next(self) -> list[tuple[ItemT, "asyncio.Future[ResultT]", asyncio.TimerHandle]]:
        batch: list[tuple[ItemT, asyncio.Future[ResultT], asyncio.TimerHandle]] = []
        while self._waiting and len(batch) < self._max_items:
            waiting = self._waiting.popleft()
            if waiting[1].done():  # nobody waits for it any more
                waiting[2].cancel()
            else:
                batch.append(waiting)
        return batch

    async def close(self) -> None:
        """Give up what is worked on; who waits is cancelled."""
        for _, future, timer in self._waiting:
            timer.cancel()
            future.cancel()
        self._waiting.clear()
        workers = list(self._workers)
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
