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
    `concurrency` batches of at most `max_items` are worked on, and at most `max_waiting` items wait.
    """

    def __init__(
        self,
        work: Callable[[Sequence[ItemT]], Awaitable[Sequence[ResultT | Exception]]],
        *,
        max_items: int,
        concurrency: int,
        max_waiting: int,
    ) -> None:
        self._work = work
        self._max_items = max_items
        self._concurrency = concurrency
        self._max_waiting = max_waiting
        self._waiting: deque[tuple[ItemT, asyncio.Future[ResultT]]] = deque()
        self._workers: set[asyncio.Task[None]] = set()

    async def do(self, item: ItemT) -> ResultT:
        """The item's result. Raises `FullError` at once, or what `work` gives or raises. Who is cancelled while its
        item waits takes it out."""
        if len(self._waiting) >= self._max_waiting:
            raise FullError
        future: asyncio.Future[ResultT] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if len(self._workers) < self._concurrency:
            worker = asyncio.create_task(self._run())
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)
        return await future

    async def _run(self) -> None:
        while batch := self._next():
            items = [item for item, _ in batch]
            results: Sequence[ResultT | Exception]
            try:
                results = await self._work(items)
            except Exception as error:
                results = [error] * len(items)
            for (_, future), result in zip(batch, results, strict=True):
                if future.done():
                    continue
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)

    def _next(self) -> list[tuple[ItemT, "asyncio.Future[ResultT]"]]:
        batch: list[tuple[ItemT, asyncio.Future[ResultT]]] = []
        while self._waiting and len(batch) < self._max_items:
            item, future = self._waiting.popleft()
            if not future.done():  # else nobody waits for it any more
                batch.append((item, future))
        return batch

    async def close(self) -> None:
        """Give up what is worked on; who waits is cancelled."""
        for _, future in self._waiting:
            future.cancel()
        self._waiting.clear()
        workers = list(self._workers)
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
