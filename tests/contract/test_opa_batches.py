"""Checks that share a query to a real OPA: each gets what it would get alone."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mixer import config
from mixer.errors import DecisionError
from mixer.policy.engine import OutdatedError
from mixer.policy.opa import OpaEngine
from tests.components import processes
from tests.components.processes import Opa
from tests.loop import on_loop

# 7 is undefined, 13 an error: two values of one rule.
POLICY = """package p

allow := input.x + 1 if input.x != 7

allow := 0 if input.x == 13
"""


@pytest.fixture(params=["tcp", "unix"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opa]:
    (tmp_path / "p.rego").write_text(POLICY)
    with processes.opa(tmp_path / "p.rego", unix=request.param == "unix") as running:
        yield running


@asynccontextmanager
async def engine_of(server: Opa, **settings: Any) -> AsyncIterator[OpaEngine]:
    opa = config.Opa.model_validate({"url": server.url, "timeout": "10s", **settings})
    engine = OpaEngine(config.Policy(engine="opa", opa=opa, decision="p/allow"))
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


async def decide(engine: OpaEngine, x: int, timeout: float | None = None) -> object:
    """The decision, or the reason why there is none."""
    while True:
        try:
            return json.loads((await engine.evaluate(json.dumps({"x": x}).encode(), timeout)).decision)
        except DecisionError as error:
            return error.reason
        except OutdatedError:
            pass  # all of the input is in the document


def expected(x: int) -> object:
    return {7: "undefined", 13: "evaluation"}.get(x, x + 1)


def queries(server: Opa, handler: str) -> float:
    """Requests that OPA counted."""
    _, page = server.call("GET", "/metrics")
    lines = str(page).splitlines()
    return sum(
        float(line.rpartition(" ")[2])
        for line in lines
        if line.startswith("http_request_duration_seconds_count") and f'handler="{handler}"' in line
    )


@on_loop
async def test_each_of_many_has_its_own_decision_in_its_place(server: Opa) -> None:
    numbers = [x % 12 for x in range(300)]
    async with engine_of(server, max_batch=64) as engine:
        assert await asyncio.gather(*(decide(engine, x) for x in numbers)) == list(map(expected, numbers))
    assert 300 / 64 - 1 <= queries(server, "v1/query") <= 15
    assert queries(server, "v1/data") <= 15 + 3  # the witness, and what is asked at start


@on_loop
async def test_one_that_fails_does_not_take_its_neighbours_along(server: Opa) -> None:
    async with engine_of(server, concurrency=1) as engine:
        assert await asyncio.gather(*(decide(engine, x) for x in range(40))) == list(map(expected, range(40)))


@on_loop
async def test_check_that_is_alone_is_a_decision_of_the_data_api(server: Opa) -> None:
    async with engine_of(server) as engine:
        assert [await decide(engine, x) for x in (1, 7)] == [2, "undefined"]
    async with engine_of(server, max_batch=1) as engine:
        assert await asyncio.gather(*(decide(engine, x) for x in range(20))) == list(map(expected, range(20)))
    assert queries(server, "v1/query") == 0


@on_loop
async def test_more_than_may_wait_are_refused_at_once_and_the_others_answered(server: Opa) -> None:
    async with engine_of(server, concurrency=1, max_batch=4, max_waiting=6) as engine:
        server.pause()
        try:
            checks = [asyncio.create_task(decide(engine, 1)) for _ in range(30)]
            done, waiting = await asyncio.wait(checks, return_when=asyncio.FIRST_COMPLETED)
            while len(done) < 20:
                more, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                done |= more
            assert {check.result() for check in done} == {"overload"}
        finally:
            server.resume()
        assert waiting
        assert {await check for check in waiting} == {2}


@on_loop
async def test_deadline_ends_the_wait_and_frees_the_place(server: Opa) -> None:
    async with engine_of(server, concurrency=1, max_waiting=8, timeout="2s") as engine:
        server.pause()
        try:
            late = await asyncio.gather(*(decide(engine, 1, timeout=0.05) for _ in range(8)))
        finally:
            server.resume()
        assert set(late) == {"timeout"}
        async with asyncio.timeout(20):
            while await decide(engine, 3) != 4:
                pass


@on_loop
async def test_check_that_nobody_waits_for_any_more_is_not_asked(server: Opa) -> None:
    """Cancelled, or out of time, while it waited for a query that was on its way."""
    async with engine_of(server, concurrency=1, max_batch=1, input="all") as engine:
        before = queries(server, "v1/data")
        server.pause()
        try:
            asked = asyncio.create_task(decide(engine, 1))
            await asyncio.sleep(0)
            cancelled = [asyncio.create_task(decide(engine, 2)) for _ in range(5)]
            late = [asyncio.create_task(decide(engine, 3, timeout=0.05)) for _ in range(5)]
            last = asyncio.create_task(decide(engine, 4))
            assert set(await asyncio.gather(*late)) == {"timeout"}
            for each in cancelled:
                each.cancel()
        finally:
            server.resume()
        assert [await asked, await last] == [2, 5]
        assert queries(server, "v1/data") == before + 2


@on_loop
async def test_query_that_nobody_waits_for_any_more_is_ended(server: Opa) -> None:
    async with engine_of(server, concurrency=1, timeout="60s") as engine:
        lanes = engine._server.lanes
        server.pause()
        try:
            checks = [asyncio.create_task(decide(engine, 1)), asyncio.create_task(decide(engine, 1, 0.3))]
            async with asyncio.timeout(10):
                while lanes._free:
                    await asyncio.sleep(0.01)
                checks[0].cancel()
                assert await checks[1] == "timeout"
                while not lanes._free:
                    await asyncio.sleep(0.01)
        finally:
            server.resume()
        assert [await decide(engine, x) for x in (1, 7, 20)] == [2, "undefined", 21]


@on_loop
async def test_check_is_refused_at_once_where_no_query_ends_in_its_time(server: Opa) -> None:
    async with engine_of(server, concurrency=1, max_batch=1) as engine:
        server.pause()
        try:
            waiting = [asyncio.create_task(decide(engine, 1)) for _ in range(3)]
            assert await decide(engine, 1, timeout=0.2) == "timeout"
            start = asyncio.get_running_loop().time()
            assert await decide(engine, 1, timeout=0.1) == "overload"
            assert asyncio.get_running_loop().time() - start < 0.05
        finally:
            server.resume()
        assert await asyncio.gather(*waiting) == [2, 2, 2]
        assert await decide(engine, 1, timeout=5) == 2


@on_loop
async def test_restart_costs_no_wrong_decision(server: Opa) -> None:
    seen: list[tuple[int, object]] = []
    stop = asyncio.Event()

    async def keep_asking(engine: OpaEngine, x: int) -> None:
        while not stop.is_set():
            seen.append((x, await decide(engine, x)))
            await asyncio.sleep(0)

    async with engine_of(server, timeout="2s") as engine:
        asking = [asyncio.create_task(keep_asking(engine, x)) for x in range(6)]
        await asyncio.to_thread(server.restart)
        after = len(seen)
        async with asyncio.timeout(20):
            while {x for x, decision in seen[after:] if decision == x + 1} != set(range(6)):
                await asyncio.sleep(0.01)
        stop.set()
        await asyncio.gather(*asking)
    wrong = {(x, decision) for x, decision in seen if decision not in (x + 1, "unavailable", "timeout")}
    assert wrong == set()


@on_loop
async def test_closing_ends_what_waits(server: Opa) -> None:
    async with engine_of(server) as engine:
        server.pause()
        try:
            check = asyncio.create_task(decide(engine, 1))
            await asyncio.sleep(0)
            await engine.close()
            with pytest.raises(asyncio.CancelledError):
                await check
        finally:
            server.resume()


@on_loop
async def test_server_that_forbids_ad_hoc_queries_is_asked_for_each(tmp_path: Path) -> None:
    rule = 'package system.authz\n\ndefault allow := true\n\nallow := false if input.path[1] == "query"\n'
    (tmp_path / "authz.rego").write_text(rule)
    (tmp_path / "p.rego").write_text(POLICY)
    with processes.opa("--authorization=basic", tmp_path / "authz.rego", tmp_path / "p.rego") as server:
        async with engine_of(server) as engine:
            assert await asyncio.gather(*(decide(engine, x) for x in range(40))) == list(
                map(expected, range(40))
            )


@on_loop
async def test_path_of_a_decision_may_be_beyond_ascii(tmp_path: Path) -> None:
    (tmp_path / "p.rego").write_text('package a["größe"]\n\nallow := input.x + 1\n')
    with processes.opa(tmp_path / "p.rego") as server:
        async with engine_of(server) as engine:
            other = engine.of("a/größe/allow")
            assert await asyncio.gather(*(decide(other, x) for x in range(20))) == list(range(1, 21))
