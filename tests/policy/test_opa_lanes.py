"""Requests that are sent together on one connection: a real OPA, and servers that end connections."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from mixer import config
from mixer.policy.opa_lanes import Lane, LostError, Request
from tests.components.processes import Opa
from tests.loop import on_loop

Answer = Callable[[web.Request], web.StreamResponse | Awaitable[web.StreamResponse]]

ASKED: list[Request] = [("data/a", b'{"input": 1}'), ("data/b", b'{"input": 2}')]


def lane_to(url: str) -> Lane:
    return Lane(0, config.Opa.model_validate({"url": url}))


class Seen:
    """Bodies by connection, and the lane to the server that has seen them."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.bodies: dict[object, list[bytes]] = {}


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[Seen]:
    async def handle(request: web.Request) -> web.StreamResponse:
        seen.bodies.setdefault(request.transport, []).append(await request.read())
        answered = answer(request)
        return await answered if isinstance(answered, Awaitable) else answered

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    seen = Seen(lane_to(f"http://127.0.0.1:{runner.addresses[0][1]}"))
    try:
        yield seen
    finally:
        seen.lane.close()
        await runner.cleanup()


@on_loop
async def test_answers_of_opa_come_in_the_order_of_the_requests(opa_server: Opa) -> None:
    opa_server.call(
        "PUT", "/v1/policies/p", "package p\n\nslow := sum(numbers.range(1, input))\n\nx := input\n"
    )
    lane = lane_to(opa_server.url)
    try:
        for _ in range(3):
            answers = await lane.exchange(
                [("data/p/slow", b'{"input": 9999}'), ("data/p/x", b'{"input": 7}')]
            )
            assert [(status, json.loads(body)["result"]) for status, body in answers] == [
                (200, 49995000),
                (200, 7),
            ]
        ((status, _),) = await lane.exchange([("data/p/x", b"{")])
        assert status == 400
    finally:
        lane.close()


@on_loop
async def test_one_connection_is_kept() -> None:
    async with serving(lambda request: web.Response(text=request.path)) as seen:
        for _ in range(2):
            assert await seen.lane.exchange(ASKED) == [(200, b"/v1/data/a"), (200, b"/v1/data/b")]
    assert list(seen.bodies.values()) == [[b'{"input": 1}', b'{"input": 2}'] * 2]


@on_loop
async def test_what_a_server_does_not_answer_on_a_connection_that_it_closes_is_asked_on_another() -> None:
    def once(request: web.Request) -> web.Response:
        response = web.Response(text=request.path)
        response.force_close()
        return response

    async with serving(once) as seen:
        assert await seen.lane.exchange(ASKED) == [(200, b"/v1/data/a"), (200, b"/v1/data/b")]
    assert list(seen.bodies.values()) == [[b'{"input": 1}'], [b'{"input": 2}']]


@on_loop
async def test_connection_that_is_cut_is_lost_where_it_was_good_before() -> None:
    cut = True

    def answer(request: web.Request) -> web.Response:
        if cut and request.transport is not None:
            request.transport.abort()
        return web.Response()

    async with serving(answer) as seen:
        with pytest.raises(ConnectionResetError):
            await seen.lane.exchange(ASKED)
        cut = False
        await seen.lane.exchange(ASKED)
        cut = True
        with pytest.raises(LostError):
            await seen.lane.exchange(ASKED)
        cut = False
        assert await seen.lane.exchange(ASKED) == [(200, b""), (200, b"")]


@on_loop
async def test_nothing_of_an_exchange_that_was_given_up_comes_later() -> None:
    arrived, released = asyncio.Event(), asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        if request.path == "/v1/data/old":
            arrived.set()
            await released.wait()
        return web.Response(text=request.path)

    async with serving(answer) as seen:
        given_up = asyncio.ensure_future(seen.lane.exchange([("data/old", b"{}"), ("data/older", b"{}")]))
        await arrived.wait()
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        asyncio.get_running_loop().call_later(0.1, released.set)
        assert await seen.lane.exchange(ASKED) == [(200, b"/v1/data/a"), (200, b"/v1/data/b")]


@on_loop
async def test_answer_that_is_no_http_is_an_error() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"220 ready\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    lane = lane_to(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    try:
        with pytest.raises(ConnectionResetError, match="no HTTP"):
            await lane.exchange(ASKED)
    finally:
        lane.close()
        server.close()
