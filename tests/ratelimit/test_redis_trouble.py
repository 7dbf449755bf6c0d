"""A Redis that refuses, hangs or ends: what is said, and how the circuit breaker goes."""

import asyncio
import re
from collections.abc import Callable

import pytest
import structlog
from prometheus_client import CollectorRegistry

from mixer.errors import CounterError
from mixer.ratelimit.redis import RedisCounters
from tests.components.processes import Redis
from tests.ratelimit.clients import asked
from tests.ratelimit.counting import START, counts, one

# What a user of Redis may do is found out before the first call.

RIGHTS = {
    "~x:* +@all": None,
    "~x:* -@all +client +evalsha +eval +incrby +pexpire +get": None,
    "~x:* +@all -evalsha": "Redis answers EVALSHA with: NOPERM .*'evalsha'",
    "~x:* +@all -eval": "Redis answers EVALSHA with: NOPERM .*'eval'",
    "~y:* +@all": "Redis answers EVALSHA with: NOPERM .*keys",
    "~x:* +@all -incrby": "Redis cannot count: (@user_script|ERR The user executing the script)",  # 6; 7
    "~x:* +@all -client": "Redis answers CLIENT with: NOPERM .*'client",
}


@pytest.mark.parametrize(("rights", "message"), RIGHTS.items())
def test_rights_that_are_missing_are_said(
    start_redis: Callable[..., Redis], rights: str, message: str | None
) -> None:
    server = start_redis("--user", "mixer", "on", ">s3same", *rights.split())
    url = server.url.replace("redis://", "redis://mixer:s3same@")

    async def scenario(client: RedisCounters) -> str | None:
        if client.ready() is None:
            assert await counts(client, [one("a")]) == [1]
        return client.ready()

    with structlog.testing.capture_logs() as logged:
        said = asked(url, scenario, key_prefix="x:")
    assert "s3same" not in f"{said} {logged}"
    if message is None:
        assert said is None
        assert logged == []
    else:
        assert said is not None
        assert re.match(f"redis at {server.address}: {message}", said), said
        assert [event["error"] for event in logged] == [said.split(": ", 1)[1]]


# The breaker


def breaker_of(registry: CollectorRegistry) -> dict[str, float]:
    """Changes of the breakers by where they went, and how many are open."""
    changes = {
        to: registry.get_sample_value("mixer_counter_breaker_changes_total", {"to": to}) or 0
        for to in ("open", "half_open", "closed")
    }
    return {**changes, "now": registry.get_sample_value("mixer_counter_breakers_open") or 0}


def test_the_breaker_opens_probes_and_closes_by_itself(start_redis: Callable[..., Redis]) -> None:
    server = start_redis()
    registry = CollectorRegistry()

    async def scenario(client: RedisCounters) -> None:
        assert breaker_of(registry) == {"open": 0, "half_open": 0, "closed": 0, "now": 0}
        server.pause()
        try:
            with pytest.raises(CounterError) as caught:
                await counts(client, [one("a")])
            assert caught.value.reason == "timeout"
            while not breaker_of(registry)["now"]:
                await asyncio.sleep(0.01)
            start = asyncio.get_running_loop().time()
            for _ in range(50):
                with pytest.raises(CounterError) as caught:
                    await counts(client, [one("a")])
                assert caught.value.reason == "unavailable"
            assert asyncio.get_running_loop().time() - start < 2  # a timeout each would be 5
            while breaker_of(registry)["half_open"] < 2:
                await asyncio.sleep(0.01)
        finally:
            server.resume()
        while breaker_of(registry)["now"]:
            await asyncio.sleep(0.01)
        found = breaker_of(registry)
        assert (found["open"], found["closed"], client.ready()) == (1, 1, None)
        await counts(client, [one("a")])

    with structlog.testing.capture_logs() as logged:
        times = {"timeout": "100ms", "connect_timeout": "100ms", "breaker": {"max_pause": "200ms"}}
        asked(server.url, scenario, registry=registry, **times)
    assert [event["event"] for event in logged] == ["redis_away", "redis_back"]


def test_the_breaker_opens_when_redis_refuses_to_count(start_redis: Callable[..., Redis]) -> None:
    server = start_redis()
    registry = CollectorRegistry()

    async def scenario(client: RedisCounters) -> None:
        server.call("CONFIG SET maxmemory 1")
        for _ in range(2):
            assert breaker_of(registry)["now"] == 0
            with pytest.raises(CounterError, match="OOM"):
                await counts(client, [one("a")])
        assert breaker_of(registry)["now"] == 1
        assert "OOM" in str(client.ready())
        server.call("CONFIG SET maxmemory 0")
        while client.ready() is not None:
            await asyncio.sleep(0.01)
        assert await counts(client, [one("a")]) == [1]

    asked(server.url, scenario, registry=registry)


def test_a_counter_of_its_own_fault_opens_no_breaker(redis_server: Redis) -> None:
    redis_server.call(f"LPUSH x:60|{START}|bad 1")
    registry = CollectorRegistry()

    async def scenario(client: RedisCounters) -> None:
        for _ in range(10):
            with pytest.raises(CounterError):
                await counts(client, [one("bad")])

    asked(redis_server.url, scenario, registry=registry, key_prefix="x:")
    assert breaker_of(registry)["open"] == 0


def test_a_connection_that_ends_while_idle_opens_no_breaker(start_redis: Callable[..., Redis]) -> None:
    server = start_redis()
    registry = CollectorRegistry()

    async def scenario(client: RedisCounters) -> None:
        server.call("CLIENT KILL TYPE normal")
        await asyncio.sleep(0)
        server.call("PING")
        assert await counts(client, [one("a")]) in ([1], [2])

    asked(server.url, scenario, registry=registry)
    assert breaker_of(registry)["open"] == 0


def test_what_waits_for_a_connection_that_was_lost_is_counted_once_it_is_back(
    start_redis: Callable[..., Redis],
) -> None:
    server = start_redis()

    async def scenario(client: RedisCounters) -> None:
        await counts(client, [one("a")])
        server.call("CLIENT KILL TYPE normal")
        while client.ready() is None:
            await asyncio.sleep(0)
        assert await counts(client, [one("a")]) == [2]

    asked(server.url, scenario)


def test_what_waits_behind_a_round_trip_that_was_lost_is_counted_by_the_next_connection(
    start_redis: Callable[..., Redis],
) -> None:
    server = start_redis()

    async def scenario(client: RedisCounters) -> None:
        await counts(client, [one("a")])
        server.pause()
        try:
            sent = asyncio.ensure_future(counts(client, [one("a")]))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            waiting = asyncio.ensure_future(counts(client, [one("b")]))
            await asyncio.sleep(0)
            assert client._lane._link is not None
            client._lane._link.abort()
        finally:
            server.resume()
        with pytest.raises(CounterError):
            await sent
        assert await waiting == [1]

    asked(server.url, scenario)


def test_a_closed_client_leaves_no_open_breaker_behind(start_redis: Callable[..., Redis]) -> None:
    server = start_redis()
    server.kill()
    registry = CollectorRegistry()

    async def scenario(client: RedisCounters) -> None:
        assert breaker_of(registry)["now"] == 1

    asked(server.url, scenario, registry=registry)
    assert breaker_of(registry)["now"] == 0
