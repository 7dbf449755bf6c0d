"""When batches leave, and what each item of them gets."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from mixer.policy.batches import Batches, FullError
from tests.loop import on_loop


class Work:
    """Is done with a batch when it is told to be; the result of an item is its double, or the exception it is."""

    def __init__(self) -> None:
        self.begun: list[Sequence[Any]] = []
        self._ends: list[asyncio.Future[None]] = []

    async def __call__(self, items: Sequence[Any]) -> list[Any]:
        self.begun.append(items)
        self._ends.append(asyncio.get_running_loop().create_future())
        await self._ends[-1]
        return [item if isinstance(item, Exception) else 2 * item for item in items]

    def end(self, number: int) -> None:
        self._ends[number].set_result(None)


@asynccontextmanager
async def batching(**settings: Any) -> AsyncIterator[tuple[Work, Batches[Any, Any]]]:
    work = Work()
    batches: Batches[Any, Any] = Batches(
        work,
        lambda seconds: TimeoutError(f"{seconds:g} s"),
        **{"max_items": 100, "concurrency": 2, "max_waiting": 1000, **settings},
    )
    try:
        yield work, batches
    finally:
        await batches.close()


async def turns() -> None:
    """Let everything come to rest that waits for the loop alone."""
    for _ in range(10):
        await asyncio.sleep(0)


@on_loop
async def test_item_that_is_alone_leaves_at_once_and_so_does_one_beside_it() -> None:
    async with batching() as (work, batches):
        one = batches.put(1, 10)
        await turns()
        two = batches.put(2, 10)
        await turns()
        assert work.begun == [[1], [2]]
        work.end(1)
        work.end(0)
        assert [await one, await two] == [2, 4]


@on_loop
async def test_further_batch_waits_until_it_is_as_large_or_nothing_is_worked_on() -> None:
    async with batching() as (work, batches):
        for number in range(10):
            batches.put(number, 10)
        await turns()
        for number in range(10, 19):
            batches.put(number, 10)
        await turns()
        assert [len(batch) for batch in work.begun] == [10]
        batches.put(19, 10)
        await turns()
        assert [len(batch) for batch in work.begun] == [10, 10]
        last = batches.put(20, 10)
        work.end(0)
        await turns()
        assert len(work.begun) == 2
        work.end(1)
        await turns()
        assert work.begun[2] == [20]
        work.end(2)
        assert await last == 40


@on_loop
async def test_many_that_come_at_once_are_shared_out() -> None:
    async with batching(max_items=40) as (work, batches):
        for number in range(64):
            batches.put(number, 10)
        await turns()
        assert [len(batch) for batch in work.begun] == [32, 32]
        assert [*work.begun[0], *work.begun[1]] == list(range(64))


@on_loop
async def test_next_batch_leaves_before_results_are_taken() -> None:
    async with batching(concurrency=1) as (work, batches):
        seen: list[int] = []
        batches.put(1, 10).then(lambda _: seen.append(len(work.begun)))
        await turns()
        batches.put(2, 10)
        work.end(0)
        await turns()
        assert seen == [2]


@on_loop
async def test_who_does_not_take_a_result_keeps_no_other_from_it() -> None:
    async with batching() as (work, batches):
        told: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))

        def refuse(_: object) -> None:
            raise KeyError("refused")

        batches.put(1, 10).then(refuse)
        other, failed = batches.put(2, 10), batches.put(ValueError("bad"), 10)
        await turns()
        work.end(0)
        assert await other == 4
        with pytest.raises(ValueError, match="bad"):
            await failed
        assert [type(error) for error in told] == [KeyError]


@on_loop
async def test_late_and_cancelled_items_are_not_worked_on() -> None:
    async with batching(concurrency=1, max_waiting=3) as (work, batches):
        first = batches.put(1, 10)
        await turns()
        late, given_up, kept = batches.put(2, 0.01), batches.put(3, 10), batches.put(4, 10)
        with pytest.raises(FullError):
            batches.put(5, 10)
        with pytest.raises(TimeoutError, match=r"0\.01 s"):
            await late
        waiter = asyncio.ensure_future(given_up)
        await turns()
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        await turns()
        work.end(0)
        await turns()
        assert work.begun == [[1], [4]]
        work.end(1)
        assert [await first, await kept] == [2, 8]


@on_loop
async def test_work_that_nobody_waits_for_any_more_is_cancelled() -> None:
    async with batching(concurrency=1) as (work, batches):
        first = [batches.put(number, 10) for number in (1, 2)]
        await turns()
        behind = batches.put(3, 10)
        await turns()
        assert work.begun == [[1, 2]]
        first[0].cancel()
        await turns()
        assert len(work.begun) == 1  # the other one is still waited for
        first[1].cancel()
        await turns()
        assert work.begun == [[1, 2], [3]]
        work.end(1)
        assert await behind == 6


@on_loop
async def test_work_whose_items_are_all_out_of_time_is_cancelled() -> None:
    async with batching(concurrency=1) as (work, batches):
        late = batches.put(1, 0.02)
        await turns()
        behind = batches.put(2, 10)
        with pytest.raises(TimeoutError):
            await late
        await turns()
        assert work.begun == [[1], [2]]
        work.end(1)
        assert await behind == 4


@on_loop
async def test_who_would_wait_for_too_long_is_refused_at_once() -> None:
    async def slow(items: Sequence[Any]) -> list[Any]:
        await asyncio.sleep(0.01)
        return list(items)

    def late(_: float) -> Exception:
        return TimeoutError()

    batches: Batches[Any, Any] = Batches(slow, late, max_items=1, concurrency=1, max_waiting=1000)
    try:
        for number in range(100):
            batches.put(number, 60)
        await asyncio.sleep(0.2)
        with pytest.raises(FullError) as refused:
            batches.put(100, 0.5)
        assert refused.value.is_slow
        batches.put(101, 60)
    finally:
        await batches.close()


@on_loop
async def test_where_nothing_moves_for_as_long_as_one_has_it_is_refused_at_once() -> None:
    async with batching(concurrency=1, max_items=1) as (_, batches):
        batches.put(1, 10)
        await turns()
        batches.put(2, 10)
        batches.put(3, 0.1)
        await asyncio.sleep(0.15)
        with pytest.raises(FullError):
            batches.put(4, 0.1)
        batches.put(5, 10)


@on_loop
async def test_who_is_out_of_time_takes_up_no_room() -> None:
    async with batching(concurrency=1, max_items=1, max_waiting=2) as (_, batches):
        batches.put(1, 10)
        await turns()
        for _ in range(3):
            late = [batches.put(number, 0.02) for number in (2, 3)]
            with pytest.raises(FullError):
                batches.put(4, 10)
            for each in late:
                with pytest.raises(TimeoutError):
                    await each
