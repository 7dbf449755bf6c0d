"""Log records of several calls, read together."""

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixer.telemetry.gathering import Gathering
from tests.loop import on_loop

MOST = 10


class Reader:
    """Makes of a log the same log, and keeps what it was asked for."""

    def __init__(self, failing: str = "") -> None:
        self.batches: list[list[Any]] = []
        self.failing = failing

    def __call__(self, logs: Sequence[Any]) -> list[Any]:
        self.batches.append(list(logs))
        if self.failing in logs:
            raise ValueError(self.failing)
        return list(logs)


@given(st.lists(st.lists(st.integers(), max_size=MOST), max_size=12))
def test_each_call_has_its_own_and_no_batch_is_too_large(calls: list[list[Any]]) -> None:
    reader = Reader()

    async def run() -> list[Any]:
        gathering = Gathering(reader, MOST)
        return await asyncio.gather(*map(gathering.records, calls))

    assert asyncio.run(run()) == calls
    assert [log for batch in reader.batches for log in batch] == [log for call in calls for log in call]
    assert all(len(batch) <= MOST for batch in reader.batches)
    assert all(len(one) + len(other) > MOST for one, other in pairwise(reader.batches))


@on_loop
async def test_calls_of_one_turn_are_read_together() -> None:
    reader = Reader()
    gathering = Gathering(reader, MOST)
    await asyncio.gather(*[gathering.records([name] * 4) for name in "abc"])  # type: ignore[list-item]
    assert reader.batches == [["a"] * 4 + ["b"] * 4, ["c"] * 4]


@on_loop
async def test_call_by_itself_is_read_at_the_next_turn() -> None:
    reader = Reader()
    gathering = Gathering(reader, MOST)
    for name in "ab":
        call = asyncio.create_task(gathering.records([name]))  # type: ignore[list-item]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert reader.batches[-1] == [name]
        await call


@on_loop
async def test_loop_runs_between_batches() -> None:
    reader = Reader()
    gathering = Gathering(reader, MOST)
    calls = [asyncio.create_task(gathering.records([name] * MOST)) for name in "abc"]  # type: ignore[list-item]
    read = []
    for _ in range(6):
        await asyncio.sleep(0)
        read.append(len(reader.batches))
    assert max(after - before for before, after in pairwise(read)) == 1
    await asyncio.gather(*calls)


@on_loop
async def test_cancelled_call_is_not_read_and_the_others_are() -> None:
    reader = Reader()
    gathering = Gathering(reader, MOST)
    calls = [asyncio.create_task(gathering.records([name])) for name in "abc"]  # type: ignore[list-item]
    asyncio.get_running_loop().call_soon(calls[1].cancel)
    await asyncio.wait(calls)
    assert calls[1].cancelled()
    assert [calls[0].result(), calls[2].result()] == [["a"], ["c"]]
    assert reader.batches == [["a", "c"]]
    assert await gathering.records(["d"]) == ["d"]  # type: ignore[list-item, comparison-overlap]


@on_loop
async def test_call_that_is_cancelled_while_it_waits_is_not_read() -> None:
    reader = Reader()
    gathering = Gathering(reader, MOST)
    calls = [asyncio.create_task(gathering.records([name] * MOST)) for name in "abc"]  # type: ignore[list-item]
    while not reader.batches:
        await asyncio.sleep(0)
    calls[1].cancel()
    await asyncio.wait(calls)
    assert [batch[0] for batch in reader.batches] == ["a", "c"]


@pytest.mark.parametrize("failing", ["a", "b", "c"])
@on_loop
async def test_failure_is_that_of_the_call_it_comes_from(failing: str) -> None:
    gathering = Gathering(Reader(failing), MOST)
    calls = [gathering.records([name]) for name in "abc"]  # type: ignore[list-item]
    found = await asyncio.gather(*calls, return_exceptions=True)
    for name, each in zip("abc", found, strict=True):
        assert isinstance(each, ValueError) if name == failing else each == [name]
