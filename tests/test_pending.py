"""Answers that come later."""

import asyncio
from typing import Any

import pytest

from mixer.pending import InTask, Promise
from tests.loop import on_loop


def heard(promise: Promise[int]) -> list[Any]:
    found: list[Any] = []
    promise.then(found.append)
    return found


@on_loop
async def test_who_waits_hears_the_answer_in_the_same_turn() -> None:
    promise = Promise[int](asyncio.get_running_loop())
    found = heard(promise)
    assert not promise.done()
    promise.set_result(7)
    assert found == [7]
    assert promise.done()


@on_loop
async def test_who_comes_late_hears_it_in_a_later_turn() -> None:
    promise = Promise[int](asyncio.get_running_loop())
    promise.set_exception(error := ValueError("away"))
    found = heard(promise)
    assert not found
    await asyncio.sleep(0)
    assert found == [error]


@on_loop
async def test_it_can_be_awaited_and_an_answer_comes_once() -> None:
    promise = Promise[int](asyncio.get_running_loop())
    asyncio.get_running_loop().call_soon(promise.set_result, 7)
    assert await promise == 7
    with pytest.raises(asyncio.InvalidStateError):
        promise.set_result(8)


@on_loop
async def test_who_cancels_is_told_so_once_and_no_answer() -> None:
    promise = Promise[int](asyncio.get_running_loop())
    found = heard(promise)
    promise.cancel()
    promise.cancel()
    assert promise.done()
    await asyncio.sleep(0)
    assert [type(each) for each in found] == [asyncio.CancelledError]


@on_loop
async def test_failure_of_who_hears_is_not_the_givers() -> None:
    loop = asyncio.get_running_loop()
    failures: list[Any] = []
    loop.set_exception_handler(lambda _, context: failures.append(context["exception"]))
    promise = Promise[int](loop)

    def hear(_: object) -> None:
        raise ValueError("broken")

    promise.then(hear)
    promise.set_result(7)
    assert [str(each) for each in failures] == ["broken"]


@on_loop
async def test_maps_answer_and_error_step_by_step() -> None:
    promise = Promise[int](asyncio.get_running_loop())
    mapped = promise.map(lambda number: 10 // number).map(lambda result: f"{result!r}")  # type: ignore[operator]
    got: list[Any] = []
    mapped.then(got.append)
    promise.set_result(0)
    assert got == ["ZeroDivisionError('integer division or modulo by zero')"]


@on_loop
async def test_maps_what_is_no_promise() -> None:
    async def answer() -> int:
        return 4

    assert await InTask(answer()).map(lambda number: number * 2) == 8  # type: ignore[operator]
    with pytest.raises(TypeError):
        await InTask(answer()).map(lambda number: number + "")  # type: ignore[operator]


@on_loop
async def test_a_cancelled_one_is_mapped_too() -> None:
    seen: list[Any] = []

    def step(result: int | BaseException) -> int | BaseException:
        seen.append(result)
        return result

    waiting = InTask(asyncio.sleep(10, 1)).map(step)
    waiting.then(seen.append)
    waiting.cancel()
    while len(seen) < 2:
        await asyncio.sleep(0)
    assert [type(each) for each in seen] == [asyncio.CancelledError] * 2
