"""Policies pushed to a real OPA: it holds all of them and decides by them, or there is no decision."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mixer.errors import PolicyError
from tests.components import processes
from tests.components.processes import Opa
from tests.contract.opa_checks import checks
from tests.loop import on_loop

ALLOWS_GET = "package envoy.authz\n\nallow := input.attributes.request.http.method in data.methods\n"


@pytest.fixture
def server() -> Iterator[Opa]:
    with processes.opa() as running:
        yield running


def folder(root: Path, name: str = "policies", **files: str) -> Path:
    """A folder of policies; `authz="package …"` is authz.rego, `data="…"` is data.json."""
    made = root / name
    made.mkdir(exist_ok=True)
    for file in made.iterdir():
        file.unlink()
    for stem, text in files.items():
        (made / f"{stem}.{'json' if stem == 'data' else 'rego'}").write_text(text)
    return made


def example(root: Path, methods: str = '["GET"]', name: str = "policies") -> Path:
    return folder(root, name, authz=ALLOWS_GET, data=f'{{"methods": {methods}}}')


def ids(server: Opa) -> set[str]:
    return {policy["id"] for policy in server.call("GET", "/v1/policies")[1]["result"]}


@on_loop
async def test_policies_and_data_decide_as_they_do_embedded(server: Opa, tmp_path: Path) -> None:
    async with checks(server, example(tmp_path)) as ask:
        assert [await ask("GET"), await ask("PUT")] == [True, False]
        assert len(ask.engine.revision) == 12
        assert ask.engine.references.paths == {("attributes", "request", "http", "method")}
        assert ask.engine.references.uncacheable == ()
        await asyncio.gather(*(ask("GET", f"/{number}") for number in range(20)))
        assert ask.count("hit") == 20
    assert ids(server) == {"mixer/authz.rego"}


@on_loop
async def test_what_is_opas_own_stays(server: Opa, tmp_path: Path) -> None:
    server.call("PUT", "/v1/policies/other", "package other\n\nx := 1\n")
    server.call("PUT", "/v1/data/theirs", {"a": 1})
    async with checks(server, example(tmp_path)) as ask:
        assert await ask()
    assert ids(server) == {"other", "mixer/authz.rego"}
    assert server.call("GET", "/v1/data/theirs")[1]["result"] == {"a": 1}


@on_loop
async def test_keys_of_data_may_be_any_text(server: Opa, tmp_path: Path) -> None:
    key = "a/b ~c%é"
    rule = f'package envoy.authz\n\nallow := data["{key}"].x\n'
    given = folder(tmp_path, authz=rule, data=f'{{"{key}": {{"x": true}}}}')
    async with checks(server, given) as ask:
        assert await ask()
    async with checks(server, example(tmp_path, name="others")) as ask:
        assert await ask()
    assert set(server.call("GET", "/v1/data")[1]["result"]) == {"envoy", "methods", "mixer_push"}
    server.call("PATCH", "/v1/data", [{"op": "add", "path": "/a~1b%20~0c%25%C3%A9", "value": 1}])
    with pytest.raises(PolicyError, match="has it from elsewhere"):
        async with checks(server, given):
            pass


@on_loop
async def test_what_was_pushed_before_goes_and_what_is_the_same_is_not_pushed_again(
    server: Opa, tmp_path: Path
) -> None:
    old = folder(tmp_path, authz=ALLOWS_GET, old="package old\n\nx := 1\n", data='{"methods": [], "gone": 1}')
    async with checks(server, old) as ask:
        assert not await ask()
    async with checks(server, example(tmp_path)) as ask:
        assert await ask()
    assert ids(server) == {"mixer/authz.rego"}
    data = server.call("GET", "/v1/data")[1]["result"]
    assert data["methods"] == ["GET"]
    assert "gone" not in data
    async with checks(server, example(tmp_path)) as ask:
        assert await ask()
    assert server.call("GET", "/v1/data")[1]["result"]["mixer_push"] == data["mixer_push"]


@on_loop
async def test_functions_come_before_who_calls_them_also_where_their_operands_change(
    server: Opa, tmp_path: Path
) -> None:
    caller = "package envoy.authz\n\nallow := data.lib.f({})\n"
    given = folder(tmp_path, a_authz=caller.format(1), z_lib="package lib\n\nf(x) := x == 1\n")
    async with checks(server, given) as ask:
        assert await ask()
    given = folder(tmp_path, a_authz=caller.format("1, 2"), z_lib="package lib\n\nf(x, y) := x == y\n")
    async with checks(server, given) as ask:
        assert await ask() is False


@on_loop
async def test_policy_that_opa_refuses_is_named_and_the_one_before_stays(server: Opa, tmp_path: Path) -> None:
    async with checks(server, example(tmp_path)) as ask:
        broken = folder(tmp_path, "next", authz="package envoy.authz\n\nallow := nope(1)\n", b="package b")
        with pytest.raises(PolicyError) as caught:
            async with checks(server, broken):
                pass
        (problem,) = caught.value.problems
        assert str(problem) == f"{broken}/authz.rego: line 3, column 10: undefined function nope"
        assert ids(server) == {"mixer/authz.rego"}
        assert await ask("GET", "/another")


@on_loop
async def test_data_that_opa_has_from_elsewhere_are_not_replaced(server: Opa, tmp_path: Path) -> None:
    server.call("PUT", "/v1/data/methods", ["POST"])
    with pytest.raises(PolicyError, match=r"data\.methods: OPA at http://.* has it from elsewhere"):
        async with checks(server, example(tmp_path)):
            pass
    assert server.call("GET", "/v1/data/methods")[1]["result"] == ["POST"]


@on_loop
async def test_server_that_lets_nobody_write_is_named(tmp_path: Path) -> None:
    rule = 'package system.authz\n\ndefault allow := false\n\nallow if input.method in {"GET", "POST"}\n'
    (tmp_path / "z.rego").write_text(rule)
    refused = pytest.raises(PolicyError, match=r"HTTP 401.*let the token write")
    with processes.opa("--authorization=basic", tmp_path / "z.rego") as server, refused:
        async with checks(server, example(tmp_path)):
            pass


async def _ask_all_the_time(ask: Any, seen: list[Any], stop: asyncio.Event) -> None:
    number = 0
    while not stop.is_set():
        number += 1
        method = "GET" if number % 2 else "PUT"
        # Every third is one that the cache may know.
        seen.append((method, await ask(method, f"/{number if number % 3 else 0}")))
        await asyncio.sleep(0)


@pytest.mark.parametrize("cached", [True, False])
@on_loop
async def test_restart_costs_no_wrong_decision(server: Opa, tmp_path: Path, cached: bool) -> None:
    """OPA has lost all that was pushed; what it decides until it is back there is no decision."""
    seen: list[Any] = []
    stop = asyncio.Event()
    clock = "" if cached else " if time.now_ns() > 0"
    given = folder(tmp_path, authz=ALLOWS_GET.rstrip() + clock + "\n", data='{"methods": ["GET"]}')
    async with checks(server, given) as ask:
        asking = [asyncio.create_task(_ask_all_the_time(ask, seen, stop)) for _ in range(8)]
        for _ in range(2):
            await asyncio.to_thread(server.restart)
            after = len(seen)
            async with asyncio.timeout(20):
                while {(m, d) for m, d in seen[after:]} < {("GET", True), ("PUT", False)}:
                    await asyncio.sleep(0.01)
        stop.set()
        await asyncio.gather(*asking)
        while not ids(server):
            await asyncio.sleep(0.01)
        assert bool(ask.count("hit")) == cached
    right = {("GET", True), ("PUT", False)}
    assert {pair for pair in seen if pair[1] not in ("unavailable", "timeout")} == right
    assert ids(server) == {"mixer/authz.rego"}


@on_loop
async def test_server_that_comes_later_gets_the_policies(tmp_path: Path) -> None:
    with processes.opa() as server:
        server.stop()
        async with checks(server, example(tmp_path)) as ask:
            assert await ask() == "unavailable"
            assert "away" in (await ask.engine.ready() or "")
            server.start()
            await ask.until(True)
            assert await ask.engine.ready() is None


@on_loop
async def test_of_two_the_one_that_started_last_wins_whoever_comes_back_first(
    server: Opa, tmp_path: Path
) -> None:
    one, two = example(tmp_path, '["GET"]', "one"), example(tmp_path, '["PUT"]', "two")
    async with checks(server, one) as old, checks(server, two) as new:
        await old.until(False, "GET")
        assert [await ask("PUT") for ask in (old, new)] == [True, True]
        assert old.engine.revision == new.engine.revision
        for _ in range(3):
            await asyncio.to_thread(server.restart)
            await asyncio.gather(new.until(True, "PUT"), old.until(True, "PUT"))
            assert [await ask("GET") for ask in (old, new)] == [False, False]


@on_loop
async def test_half_of_a_push_decides_nothing(server: Opa, tmp_path: Path) -> None:
    async with checks(server, example(tmp_path)) as ask:
        marker = server.call("GET", "/v1/data/mixer_push")[1]["result"]
        begun = marker | {"digest": "", "content": "another", "started": marker["started"] + 1000}
        server.call("PUT", "/v1/data/mixer_push", begun)
        server.call("PUT", "/v1/policies/mixer/authz.rego", "package envoy.authz\n\nallow := true\n")
        assert await ask("PUT", "/1", 0.3) == "timeout"
        await ask.until(False, "PUT")  # whoever began has not come back


@on_loop
async def test_module_that_another_exchanges_is_put_back(server: Opa, tmp_path: Path) -> None:
    async with checks(server, example(tmp_path)) as ask:
        assert not await ask("PUT")
        server.call("PUT", "/v1/policies/mixer/authz.rego", "package envoy.authz\n\nallow := true\n")
        assert not await ask("POST")
        server.call("DELETE", "/v1/policies/mixer/authz.rego")
        assert not await ask("HEAD")
