"""What is sent to a real OPA is what its policies read, whenever they change."""

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from mixer.policy.engine import WHOLE_INPUT
from tests.components import processes
from tests.components.processes import Opa
from tests.contract.opa_checks import Checks, checks
from tests.loop import on_loop

METHOD = ("attributes", "request", "http", "method")
PATH = ("attributes", "request", "http", "path")
# Reads the method alone. The other reads the path too, and allows where there is none.
ONE = 'package envoy.authz\n\nallow := input.attributes.request.http.method == "GET"\n'
OTHER = """package envoy.authz

default allow := false

allow if not input.attributes.request.http.path

allow if input.attributes.request.http.path == "/open"
"""


@pytest.fixture
def server() -> Iterator[Opa]:
    with processes.opa() as running:
        yield running


def put(server: Opa, policy: str, name: str = "authz") -> None:
    assert server.call("PUT", f"/v1/policies/{name}", policy)[0] == 200


async def settled(ask: Checks, paths: set[Any]) -> None:
    async with asyncio.timeout(20):
        while ask.engine.references.paths != paths:
            await asyncio.sleep(0.01)


@on_loop
async def test_what_the_policies_of_the_server_read_is_sent_and_nothing_is_kept(server: Opa) -> None:
    put(server, ONE)
    async with checks(server) as ask:
        assert ask.engine.references.paths == {METHOD}
        assert [await ask("GET"), await ask("PUT"), await ask("PUT")] == [True, False, False]
        assert ask.count("bypass") == 3


@on_loop
async def test_change_is_seen_by_the_next_check_and_read_soon_after(server: Opa) -> None:
    put(server, ONE)
    async with checks(server) as ask:
        assert await ask("GET", "/shut")
        put(server, OTHER)
        assert [await ask("GET", "/shut"), await ask("GET", "/open")] == [False, True]
        await settled(ask, {PATH})
        assert [await ask("GET", "/shut"), await ask("GET", "/open")] == [False, True]


@on_loop
async def test_change_where_nobody_asks_is_seen_too(server: Opa) -> None:
    async with checks(server) as ask:
        assert ask.engine.references.paths == WHOLE_INPUT
        assert await ask() == "undefined"
        put(server, OTHER)
        await settled(ask, {PATH})


@on_loop
async def test_no_decision_is_made_of_less_than_the_policy_reads(server: Opa) -> None:
    """Each is what the one policy or the other says of the whole input, however the policies change."""
    put(server, ONE)
    seen: list[Any] = []
    stop = asyncio.Event()

    async def keep_asking(ask: Checks) -> None:
        while not stop.is_set():
            seen.append(await ask("PUT", "/shut"))
            await asyncio.sleep(0)

    async with checks(server, max_batch=4) as ask:
        asking = [asyncio.create_task(keep_asking(ask)) for _ in range(16)]
        for policy, paths in itertools.islice(itertools.cycle(((OTHER, {PATH}), (ONE, {METHOD}))), 3):
            await asyncio.to_thread(put, server, policy)
            await settled(ask, paths)
        for policy in itertools.islice(itertools.cycle((OTHER, ONE)), 40):
            await asyncio.to_thread(put, server, policy)
        stop.set()
        await asyncio.gather(*asking)
    assert len(seen) > 100
    assert set(seen) == {False}


@on_loop
async def test_check_that_is_late_costs_no_reading_and_hides_no_change(server: Opa) -> None:
    put(server, ONE)
    async with checks(server, timeout="2s") as ask:
        references = ask.engine.references
        for path in ("/1", "/2"):
            server.pause()
            try:
                assert await ask("GET", path) == "timeout"
            finally:
                server.resume()
            assert await ask("GET") is True
        assert ask.engine.references is references
        put(server, OTHER)
        assert await ask("GET", "/shut") is False


@on_loop
async def test_change_while_a_check_is_late_is_seen(server: Opa) -> None:
    put(server, ONE)
    async with checks(server, timeout="2s") as ask:
        server.pause()
        try:
            assert await ask("GET", "/shut") == "timeout"
        finally:
            server.resume()
        put(server, OTHER)
        assert await ask("GET", "/shut") is False


@on_loop
async def test_restart_with_other_policies_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "authz.rego"
    file.write_text(ONE)
    with processes.opa(file) as server:
        async with checks(server) as ask:
            assert await ask("GET", "/shut")
            file.write_text(OTHER)
            await asyncio.to_thread(server.restart)
            assert await ask("GET", "/shut") is False


@pytest.mark.parametrize(
    ("value", "why"),
    [("1e400", "line 3"), ("[" * 200 + "]" * 200, "nests brackets more than 14 levels deep")],
)
@on_loop
async def test_whole_input_where_the_policies_cannot_be_read(server: Opa, value: str, why: str) -> None:
    put(server, ONE)
    put(server, f"package x\n\ny := {value}\n", "unreadable")
    with capture_logs() as told:
        async with checks(server) as ask:
            assert ask.engine.references.paths == WHOLE_INPUT
            assert [await ask("GET"), await ask("PUT")] == [True, False]
    (reason,) = [line["reason"] for line in told if line["event"] == "opa_input_whole"]
    assert reason.startswith(f"unreadable: {why}")


@on_loop
async def test_all_of_the_input_where_asked_for(server: Opa) -> None:
    put(server, ONE)
    async with checks(server, input="all") as ask:
        assert ask.engine.references.paths == WHOLE_INPUT
        assert [await ask("GET"), await ask("PUT")] == [True, False]
        _, page = server.call("GET", "/metrics")
        assert 'handler="v1/policies",method="get"' not in str(page)


@on_loop
async def test_server_that_shows_no_policies_gets_the_whole_input(tmp_path: Path) -> None:
    rule = 'package system.authz\n\ndefault allow := true\n\nallow := false if input.path[1] == "policies"\n'
    (tmp_path / "z.rego").write_text(rule)
    (tmp_path / "authz.rego").write_text(ONE)
    with processes.opa("--authorization=basic", tmp_path / "z.rego", tmp_path / "authz.rego") as server:
        async with checks(server) as ask:
            assert ask.engine.references.paths == WHOLE_INPUT
            assert await asyncio.gather(*(ask("GET", f"/{number}") for number in range(20))) == [True] * 20
