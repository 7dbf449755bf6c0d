"""Streams take turns."""

import asyncio
import itertools

import pytest

from mixer.server.http2.turns import TURN, Turns
from tests.loop import on_loop


@on_loop
async def test_what_many_streams_have_sent_is_read_bit_by_bit() -> None:
    """However many are ready, the loop is free after `TURN` bytes of them."""
    loop = asyncio.get_running_loop()
    turns, read = Turns(loop), 0
    sizes = [TURN // 2] * 40

    async def stream(size: int) -> None:
        nonlocal read
        if not turns.take(size):
            await turns.wait(size)
        read += size

    streams = [loop.create_task(stream(size)) for size in sizes]
    seen = [0]
    while read < sum(sizes):
        await asyncio.sleep(0)
        seen.append(read)
    await asyncio.gather(*streams)
    assert max(after - before for before, after in itertools.pairwise(seen)) <= TURN


@on_loop
async def test_turns_are_in_order_and_of_those_that_still_want_them() -> None:
    loop = asyncio.get_running_loop()
    turns, read = Turns(loop), []
    assert turns.take(TURN)

    async def stream(name: str) -> None:
        assert not turns.take(1)
        await turns.wait(TURN)
        read.append(name)

    streams = {name: loop.create_task(stream(name)) for name in "abc"}
    await asyncio.sleep(0)
    streams["b"].cancel()
    await asyncio.gather(streams["a"], streams["c"])
    with pytest.raises(asyncio.CancelledError):
        await streams["b"]
    assert read == ["a", "c"]
    await asyncio.wait_for(turns.wait(1), 10)
    assert turns.take(1)
