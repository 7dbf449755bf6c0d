"""Evaluations that calls share, and how long they go on."""

import asyncio
import contextlib

from mixer.authz.flights import Flights
from mixer.policy.engine import Evaluation
from tests.loop import on_loop

DOCUMENT = b"{}"


class Slow:
    """An evaluation that ends when it is told to."""

    def __init__(self) -> None:
        self.end = asyncio.Event()
        self.cancelled = False

    async def __call__(self) -> Evaluation:
        try:
            await self.end.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return Evaluation("true")


async def give_up(call: "asyncio.Task[Evaluation | None]") -> None:
    call.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await call
    for _ in range(5):
        await asyncio.sleep(0)


async def first(flights: Flights, slow: Slow) -> Evaluation | None:
    return await flights.begin(DOCUMENT, slow())


@on_loop
async def test_evaluation_ends_with_the_only_call_that_waits_for_it() -> None:
    flights, slow = Flights(), Slow()
    call = asyncio.create_task(first(flights, slow))
    await asyncio.sleep(0)
    await give_up(call)
    assert slow.cancelled
    assert DOCUMENT not in flights


@on_loop
async def test_evaluation_goes_on_for_the_other_call_and_ends_with_the_last() -> None:
    flights, slow = Flights(), Slow()
    begun = asyncio.create_task(first(flights, slow))
    await asyncio.sleep(0)
    joined = [asyncio.create_task(flights.join(DOCUMENT, timeout)) for timeout in (None, None, 0.01)]
    await asyncio.sleep(0.05)
    await give_up(begun)
    await give_up(joined[0])
    assert not slow.cancelled
    await give_up(joined[1])
    assert slow.cancelled
    assert DOCUMENT not in flights
    assert isinstance(joined[2].exception(), Exception)


@on_loop
async def test_call_that_is_left_gets_the_evaluation() -> None:
    flights, slow = Flights(), Slow()
    begun = asyncio.create_task(first(flights, slow))
    await asyncio.sleep(0)
    joined = asyncio.create_task(flights.join(DOCUMENT, None))
    await asyncio.sleep(0)
    await give_up(begun)
    slow.end.set()
    assert await joined == Evaluation("true")
