"""Work that arrives one by one, done several at a time: what comes while others are on their way goes out together."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from mixer.outflow import Outflow
from mixer.pending import Pending

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

_TICK = 0.005  # seconds; items that are due within one share a timer
_SHARED = 16  # items of a batch that are worth another batch beside it


class FullError(Exception):
    """As much waits as may, or (`is_slow`) as can be done in the time of one more."""

    def __init__(self, *, is_slow: bool = False) -> None:
        self.is_slow = is_slow
        super().__init__()


class _Batch:
    """Items that are worked on, `wanted` of them still."""

    __slots__ = ("wanted", "worker")

    def __init__(self, wanted: int, worker: "asyncio.Task[None] | None") -> None:
        self.wanted = wanted
        self.worker = worker  # None once their results are there

    def unwanted(self) -> None:
        """Nobody waits for one of them any more; without any, whoever works on them need not go on."""
        self.wanted -= 1
        if not self.wanted and self.worker is not None:
            self.worker.cancel()


class _Waiting(Pending[ResultT], Generic[ItemT, ResultT]):
    """An item, and who waits for its result."""

    __slots__ = ("_done", "_loop", "_result", "batch", "item", "timeout")

    def __init__(self, item: ItemT, timeout: float, loop: asyncio.AbstractEventLoop) -> None:
        self.item: ItemT | None = item  # None once it is settled
        self.batch: _Batch | None = None  # that it is worked on with
        self.timeout = timeout
        self._loop = loop
        self._result: ResultT | BaseException | None = None
        self._done: Callable[[ResultT | BaseException], None] | None = None

    def then(self, done: Callable[[ResultT | BaseException], None]) -> None:
        if self._result is None:
            self._done = done
        else:
            self._loop.call_soon(done, self._result)

    def cancel(self) -> None:
        self._loop.call_soon(self.settle, asyncio.CancelledError())

    def settle(self, result: ResultT | BaseException) -> None:
        """Once; from then on it is nobody's."""
        if self.item is None:
            return
        self.item = None
        if self.batch is not None:
            self.batch.unwanted()
        if self._done is None:
            self._result = result
            return
        done, self._done = self._done, None
        try:
            done(result)
        except Exception as error:  # the others of its batch have their results to get
            self._loop.call_exception_handler({"message": "a result was not taken", "exception": error})


class Batches(Generic[ItemT, ResultT]):
    """Gives items to `work` in batches, in order.

    `work` answers a result or an exception for each item, in their order; what it raises is every item's. At most
    `concurrency` batches of at most `max_items` are worked on, and at most `max_waiting` items wait. `late`: the
    exception of an item whose seconds are over. Work on items that nobody waits for any more is cancelled.

    An item that finds nothing worked on does not wait. A further batch leaves once it is as large as those on their
    way are on average, so that whoever works on them and who makes the items have something to do at the same time,
    and no lot of small ones keeps both busy.
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
        self._waiting: deque[_Waiting[ItemT, ResultT]] = deque()
        self._outflow = Outflow()
        self._workers: set[asyncio.Task[None]] = set()
        self._active = 0  # batches that are worked on, or are about to be taken
        self._starting = False  # one of the latter
        self._on_their_way = 0  # items of these batches
        # Items by the tick of the loop's clock at which they are due, with the timer.
        self._due: dict[int, tuple[asyncio.TimerHandle, list[_Waiting[ItemT, ResultT]]]] = {}

    def put(self, item: ItemT, timeout: float) -> Pending[ResultT]:
        """What to wait for: the item's result, or what `work` gives or raises. Raises `FullError`. Who cancels it while
        its item waits takes it out.

        No future, no task and no timer for each item: they would cost more than its share of a batch.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._waiting:
            self._look(timeout, now)
        waiting: _Waiting[ItemT, ResultT] = _Waiting(item, timeout, loop)
        tick = int((now + timeout) / _TICK) + 1
        if (due := self._due.get(tick)) is None:
            self._due[tick] = due = loop.call_at(tick * _TICK, self._expire, tick), []
        due[1].append(waiting)
        self._waiting.append(waiting)
        self._outflow.put(now)
        self._consider()
        return waiting

    def _look(self, timeout: float, now: float) -> None:
        """Whether one more may wait. Raises `FullError`."""
        while self._waiting and self._waiting[0].item is None:  # nobody waits for it any more
            self._waiting.popleft()
        if len(self._waiting) >= self._max_waiting:
            raise FullError
        if not self._waiting:
            self._outflow.emptied()
        elif self._outflow.is_late(len(self._waiting), timeout, now):
            raise FullError(is_slow=True)

    def _expire(self, tick: int) -> None:
        for waiting in self._due.pop(tick)[1]:
            if waiting.item is not None:
                waiting.settle(self._late(waiting.timeout))

    def _consider(self) -> None:
        """Have a batch taken, in a moment, if what waits is worth one."""
        if (
            not self._starting
            and self._active < self._concurrency
            and self._waiting
            and len(self._waiting) * self._active >= self._on_their_way
        ):
            self._starting = True
            self._active += 1
            worker = asyncio.get_running_loop().create_task(self._run())
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)

    async def _run(self) -> None:
        batch = self._next()
        taken = _Batch(len(batch), asyncio.current_task())
        for _, waiting in batch:
            waiting.batch = taken
        self._on_their_way += len(batch)
        self._starting = False
        self._consider()
        results: Sequence[ResultT | BaseException]
        try:
            results = await self._work([item for item, _ in batch]) if batch else ()
        except (Exception, asyncio.CancelledError) as error:  # of `close`, or as nobody waits
            results = [error] * len(batch)
        taken.worker = None
        self._active -= 1
        self._on_their_way -= len(batch)
        self._consider()
        try:
            if self._starting:
                await asyncio.sleep(0)  # it leaves before time goes into these
        finally:
            for (_, waiting), result in zip(batch, results, strict=True):
                waiting.settle(result)

    def _next(self) -> list[tuple[ItemT, _Waiting[ItemT, ResultT]]]:
        """What waits, or its share of it where there is room for other batches."""
        room = self._concurrency - self._active + 1
        size = min(self._max_items, max(_SHARED, -(-len(self._waiting) // room)))
        batch: list[tuple[ItemT, _Waiting[ItemT, ResultT]]] = []
        while self._waiting and len(batch) < size:
            waiting = self._waiting.popleft()
            if (item := waiting.item) is not None:  # else nobody waits for it any more
                batch.append((item, waiting))
        if self._waiting:
            self._outflow.took(len(batch), asyncio.get_running_loop().time())
        else:
            self._outflow.emptied()
        return batch

    async def close(self) -> None:
        """Give up what is worked on; who waits is cancelled."""
        for timer, _ in self._due.values():
            timer.cancel()
        self._due.clear()
        for waiting in self._waiting:
            waiting.settle(asyncio.CancelledError())
        self._waiting.clear()
        workers = list(self._workers)
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
