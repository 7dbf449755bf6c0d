"""The OPA engine against servers that answer strangely: each is a reason, never another exception."""

from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web

from mixer import config
from mixer.errors import DecisionError
from mixer.policy.opa import OpaEngine
from tests.loop import on_loop

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def engine_at(url: str, token: str | None = None) -> OpaEngine:
    opa = config.Opa.model_validate({"url": url, "token": token, "timeout": "2s"})
    return OpaEngine(config.Policy(engine="opa", opa=opa, decision="p/allow"))


async def failure(answer: Answer) -> DecisionError:
    """What the engine raises when a server answers so."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    engine = engine_at(f"http://127.0.0.1:{runner.addresses[0][1]}")
    try:
        await engine.start()
        with pytest.raises(DecisionError) as caught:
            await engine.evaluate(b"{}", None)
        return caught.value
    finally:
        await engine.close()
        await runner.cleanup()


def plain(status: int, text: str, content_type: str = "application/json") -> Answer:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, text=text, content_type=content_type)

    return answer


@pytest.mark.parametrize(
    ("status", "text", "content_type", "reason"),
    [
        (500, '{"code": "internal_error"}', "application/json", "evaluation"),
        (400, '{"code": "invalid_parameter"}', "application/json", "unavailable"),
        (401, '{"code": "unauthorized"}', "application/json", "unavailable"),
        (200, "<html>", "text/html", "unavailable"),
        (200, "{", "application/json", "unavailable"),
        (200, "[]", "application/json", "unavailable"),
        (200, '"text"', "application/json", "unavailable"),
        (200, "null", "application/json", "unavailable"),
        (200, "{}", "application/json", "undefined"),
        (200, '{"result": 1e999}', "application/json", "illegal"),
        (200, '{"result": {"allowed": true, "n": [-1e999]}}', "application/json", "illegal"),
    ],
)
@on_loop
async def test_answer_that_is_no_decision_has_its_reason(
    status: int, text: str, content_type: str, reason: str
) -> None:
    error = await failure(plain(status, text, content_type))
    assert error.reason == reason


@on_loop
async def test_connection_that_is_cut_is_unavailable() -> None:
    async def cut(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    assert (await failure(cut)).reason == "unavailable"


@on_loop
async def test_token_is_sent_and_never_told() -> None:
    seen: list[str] = []

    async def refuse(request: web.Request) -> web.Response:
        seen.append(request.headers.get("authorization", ""))
        return web.Response(status=401, text="{}")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", refuse)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    engine = engine_at(f"http://127.0.0.1:{runner.addresses[0][1]}", token="hunter2-token")
    try:
        await engine.start()
        with pytest.raises(DecisionError) as caught:
            await engine.evaluate(b"{}", None)
    finally:
        await engine.close()
        await runner.cleanup()
    assert "Bearer hunter2-token" in seen
    assert "hunter2" not in str(caught.value)
