"""Answers that come later."""

import asyncio
from typing import Any

import pytest

from mixer.pending import Promise
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
