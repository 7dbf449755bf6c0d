"""The contract of `mixer.ratelimit.counters.Counters`, on every store, and on a Redis that fails."""

import asyncio
import contextlib
import itertools
import socket
import socketserver
import threading
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from mixer import config
from mixer.errors import CounterError
from mixer.metrics import Metrics
from mixer.ratelimit.cluster import ClusterCounters
from mixer.ratelimit.counters import SECOND, Counters
from mixer.ratelimit.memory import MemoryCounters
from mixer.ratelimit.redis import RedisCounters
from tests.components.processes import Redis
from tests.ratelimit.counting import NOW, START, counts, one, outcome
from tests.ratelimit.loop import run

TIMEOUT = 0.3  # seconds, of a round trip to a Redis that fails
SLACK = 1.0  # seconds; what a busy machine may add


class Store:
    """A store of counters, and clients of it: the same object in memory, connections of their own to Redis."""

    def __init__(self, url: str | None, mode: str = "single") -> None:
        self._url = url
        self._mode = mode
        self._names = itertools.count()
        self.prefix = f"{uuid.uuid4()}:"  # of the keys in Redis

    @asynccontextmanager
    async def clients(self, count: int = 1) -> AsyncIterator[list[Counters]]:
        opened: list[Counters]
        if self._url is None:
            opened = [MemoryCounters(Metrics(CollectorRegistry()), lambda: float(START))]
        else:
            opened = [
                redis_counters(
                    self._url, self._mode, key_prefix=self.prefix, timeout="10s", connect_timeout="10s"
                )
                for _ in range(count)
            ]
        for client in opened:
            await client.start()
        try:
            yield opened if self._url is not None else opened * count
        finally:
            for client in opened:
                await client.close()

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Counters]:
        async with self.clients() as (client,):
            yield client

    def new_name(self) -> str:
        return f"name{next(self._names)}|"


def redis_counters(url: str, mode: str = "single", **settings: object) -> Any:
    redis = {"url": url, "mode": mode, "timeout": f"{TIMEOUT}s", **settings}
    counters = ClusterCounters if mode == "cluster" else RedisCounters
    chosen = config.RateLimits.model_validate({"redis": redis, "local_cache": "off"})
    return counters(chosen, Metrics(CollectorRegistry()))


@pytest.fixture(params=["memory", "redis", "cluster"])
def store(request: pytest.FixtureRequest) -> Store:
    if request.param == "cluster":
        return Store(request.getfixturevalue("redis_cluster").url, "cluster")
    return Store(request.getfixturevalue("redis_url") if request.param == "redis" else None)


def test_first_hit_counts_one_and_the_next_ones_follow(store: Store) -> None:
    async def scenario() -> list[list[int]]:
        async with store.client() as client:
            return [await counts(client, [one("a")]) for _ in range(3)]

    assert run(scenario()) == [[1], [2], [3]]


def test_hits_of_one_call_are_counted_one_after_the_other(store: Store) -> None:
    async def scenario() -> list[int]:
        async with store.client() as client:
            return await counts(client, [one("a", 2), one("b", 5), one("a", 3), one("b", 0)])

    assert run(scenario()) == [2, 5, 5, 5]


def test_no_hits_have_no_counts(store: Store) -> None:
    async def scenario() -> list[int]:
        async with store.client() as client:
            return await counts(client, [])

    assert run(scenario()) == []


def test_a_look_at_a_counter_does_not_count(store: Store) -> None:
    async def scenario() -> list[list[int]]:
        async with store.client() as client:
            return [await counts(client, [one("a", hits)]) for hits in (0, 1, 0, 0, 1)]

    assert run(scenario()) == [[0], [1], [1], [1], [2]]


def test_a_window_starts_at_zero_and_leaves_the_one_before_as_it_was(store: Store) -> None:
    async def scenario() -> list[list[int]]:
        async with store.client() as client:
            times = (NOW, NOW + 59 * SECOND, NOW + 60 * SECOND, NOW + 1, NOW + 119 * SECOND)
            return [await counts(client, [one("a")], now) for now in times]

    assert run(scenario()) == [[1], [2], [1], [3], [2]]


def test_windows_of_another_length_are_other_counters(store: Store) -> None:
    async def scenario() -> list[int]:
        async with store.client() as client:
            return await counts(client, [one("a", seconds=seconds) for seconds in (1, 60, 3600, 60)])

    assert run(scenario()) == [1, 1, 1, 2]


def test_names_are_told_apart_whatever_they_hold(store: Store) -> None:
    names = ["", "a", "a|", "|a", "a b", "ü", "a\r\nb", "*", "1|2|a", "💥", "a" * 400]

    async def scenario() -> list[int]:
        async with store.client() as client:
            return await counts(client, [one(name) for name in names])

    assert run(scenario()) == [1] * len(names)


def test_large_hits_are_exact(store: Store) -> None:
    async def scenario() -> list[list[int]]:
        async with store.client() as client:
            return [await counts(client, [one("a", 2**32)]) for _ in range(3)]

    assert run(scenario()) == [[2**32], [2**33], [3 * 2**32]]


def test_eight_clients_at_once_are_admitted_exactly_as_often_as_the_limit(store: Store) -> None:
    limit, calls = 100, 50

    async def scenario() -> int:
        async with store.clients(8) as clients:

            async def admitted(client: Counters) -> int:
                hit = one("a", limit=limit)
                found = await asyncio.gather(*(outcome(client, hit) for _ in range(calls)))
                return sum(not each.over for each in found)

            return sum(await asyncio.gather(*map(admitted, clients)))

    assert run(scenario()) == limit


def test_a_call_that_is_cancelled_disturbs_no_other(store: Store) -> None:
    async def scenario() -> list[int]:
        async with store.client() as client:
            calls = [asyncio.ensure_future(counts(client, [one("a")])) for _ in range(20)]
            await asyncio.sleep(0)
            for call in calls[::2]:
                call.cancel()
            results = await asyncio.gather(*calls, return_exceptions=True)
            return [result[0] for result in results if isinstance(result, list)]

    found = run(scenario())
    assert len(set(found)) == len(found) >= 10
    assert max(found) <= 20


def test_a_store_that_answers_is_ready(store: Store) -> None:
    async def scenario() -> str | None:
        async with store.client() as client:
            return client.ready()

    assert run(scenario()) is None


# Redis that fails. `TIMEOUT` bounds a round trip, and a call that must wait for another one first.


async def error_of(client: Counters, timeout: float | None = None) -> tuple[str, float]:
    """The reason of the error that a call gets, and how long that took."""
    start = time.monotonic()
    with pytest.raises(CounterError) as caught:
        await counts(client, [one("a")], timeout=timeout)
    return caught.value.reason, time.monotonic() - start


async def recovered(client: Counters, within: float = 10) -> list[int]:
    """The first answer that is no error."""
    deadline = time.monotonic() + within
    while True:
        try:
            return await counts(client, [one("a")])
        except CounterError:
            assert time.monotonic() < deadline, "no answer again"
            await asyncio.sleep(0.02)


@asynccontextmanager
async def connected(server: Redis, **settings: object) -> AsyncIterator[RedisCounters]:
    client = redis_counters(server.url, **settings)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


def test_scripts_that_were_flushed_are_sent_again(start_redis: Callable[..., Redis]) -> None:
    server = start_redis()

    async def scenario() -> list[list[int]]:
        async with connected(server) as client:
            first = await counts(client, [one("a")])
            server.call("SCRIPT FLUSH")
            at_once = await asyncio.gather(*(counts(client, [one("a")]) for _ in range(3)))
            return [first, *at_once, await counts(client, [one("a")])]

    assert run(scenario()) == [[1], [2], [3], [4], [5]]


def test_a_killed_redis_is_an_error_at_once_and_a_restarted_one_counts_again(
    start_redis: Callable[..., Redis],
) -> None:
    server = start_redis()

    async def scenario() -> None:
        async with connected(server, timeout="20s") as client:
            assert await counts(client, [one("a")]) == [1]
            server.kill()
            for _ in range(3):
                reason, seconds = await error_of(client)
                assert reason == "unavailable"
                assert seconds < 10
            assert client.ready() is not None
            server.start()
            assert await recovered(client) == [1]  # a Redis without persistence has forgotten
            assert client.ready() is None

    run(scenario())


def test_slots_cannot_be_released_while_redis_is_away_and_can_be_after_it_forgot_the_script(
    start_redis: Callable[..., Redis],
) -> None:
    server = start_redis()

    async def scenario() -> int:
        async with connected(server) as client:
            slot = one("a", holder="x", limit=1, algorithm="concurrency")
            server.pause()
            try:
                with pytest.raises(CounterError) as caught:
                    await client.release(["x"], NOW, 0.05)
                assert caught.value.reason == "timeout"
            finally:
                server.resume()
            await outcome(client, slot)
            server.call("SCRIPT FLUSH")
            released = await client.release(["x", "y"], NOW)
            server.kill()
            with pytest.raises(CounterError) as caught:
                await client.release(["x"], NOW)
            assert caught.value.reason == "unavailable"
            return released

    assert run(scenario()) == 1


def test_a_redis_that_comes_later_is_found_without_a_call(start_redis: Callable[..., Redis]) -> None:
    server = start_redis()
    server.kill()

    async def scenario() -> None:
        async with connected(server) as client:
            assert client.ready() is not None
            server.start()
            deadline = time.monotonic() + 10
            while client.ready() is not None:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.02)

    run(scenario())


def test_a_paused_redis_is_a_timeout_and_counts_again_when_it_goes_on(
    start_redis: Callable[..., Redis],
) -> None:
    server = start_redis()

    async def scenario() -> None:
        async with connected(server) as client:
            assert await counts(client, [one("a")]) == [1]
            server.pause()
            try:
                reason, seconds = await error_of(client)
                assert reason == "timeout"
                assert TIMEOUT * 0.9 < seconds < 2 * TIMEOUT + SLACK
                reason, seconds = await error_of(client)  # while it tries to connect again
                assert reason in ("timeout", "unavailable")
                assert seconds < 2 * TIMEOUT + SLACK
            finally:
                server.resume()
            (count,) = await recovered(client)
            assert count >= 2

    run(scenario())


def test_calls_that_wait_behind_a_paused_redis_all_end(start_redis: Callable[..., Redis]) -> None:
    server = start_redis()

    async def scenario() -> None:
        async with connected(server, max_batch=2) as client:
            await counts(client, [one("a")])
            server.pause()
            try:
                start = time.monotonic()
                results = await asyncio.gather(
                    *(counts(client, [one("a")]) for _ in range(50)), return_exceptions=True
                )
                assert time.monotonic() - start < 2 * TIMEOUT + SLACK
            finally:
                server.resume()
        assert all(isinstance(result, CounterError) for result in results)

    run(scenario())


class Relay(socketserver.ThreadingTCPServer):
    """In front of Redis: replies may take `delay` seconds, and the first connection goes silent when told to."""

    def __init__(self, server: Redis) -> None:
        self.silent = threading.Event()
        self.delay = 0.0
        relay, first = self, itertools.count()

        class Carry(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                is_first = next(first) == 0
                with socket.create_connection(("127.0.0.1", server.port)) as redis:
                    while data := self.request.recv(65536):
                        if is_first and relay.silent.is_set():
                            continue
                        redis.sendall(data)
                        reply = redis.recv(65536)
                        time.sleep(relay.delay)
                        with contextlib.suppress(OSError):  # nobody waits for it any more
                            self.request.sendall(reply)

        super().__init__(("127.0.0.1", 0), Carry)
        self.url = f"redis://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> "Relay":
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


def test_a_connection_that_went_silent_is_replaced(redis_server: Redis) -> None:
    async def scenario(relay: Relay) -> None:
        client = redis_counters(relay.url)
        await client.start()
        try:
            await counts(client, [one("a")])
            relay.silent.set()
            assert (await error_of(client))[0] == "timeout"
            assert await recovered(client) == [2]
        finally:
            await client.close()

    with Relay(redis_server) as relay:
        run(scenario(relay))


def test_calls_that_wait_behind_slow_round_trips_end_in_time(redis_server: Redis) -> None:
    async def scenario(relay: Relay) -> tuple[Counter[str], float]:
        client = redis_counters(relay.url, max_batch=1)
        await client.start()
        relay.delay = 0.7 * TIMEOUT
        try:
            start = time.monotonic()
            results = await asyncio.gather(
                *(counts(client, [one("a")]) for _ in range(12)), return_exceptions=True
            )
            seconds = time.monotonic() - start
        finally:
            await client.close()
        return Counter(
            result.reason if isinstance(result, CounterError) else "counted" for result in results
        ), seconds

    with Relay(redis_server) as relay:
        outcomes, seconds = run(scenario(relay))
    assert set(outcomes) == {"counted", "timeout"}
    assert seconds < 2 * TIMEOUT + SLACK


def test_a_call_waits_no_longer_than_its_own_timeout(start_redis: Callable[..., Redis]) -> None:
    server = start_redis()

    async def scenario() -> None:
        async with connected(server, timeout="30s") as client:
            await counts(client, [one("a")])
            server.pause()
            try:
                reason, seconds = await error_of(client, timeout=0.05)
                assert reason == "timeout"
                assert 0.04 < seconds < 10
            finally:
                server.resume()
            # It had been sent, so it was counted; and the connection is as good as before.
            assert await counts(client, [one("a")]) == [3]

    run(scenario())


def test_a_connection_that_redis_closed_while_idle_is_made_anew(start_redis: Callable[..., Redis]) -> None:
    server = start_redis()

    async def scenario() -> None:
        async with connected(server) as client:
            await counts(client, [one("a")])
            server.call("CLIENT KILL TYPE normal")
            assert await recovered(client) == [2]

    run(scenario())


def test_more_calls_than_may_wait_are_an_overload(
    start_redis: Callable[..., Redis], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mixer.ratelimit.lane.MAX_WAITING", 10)
    server = start_redis()

    async def scenario() -> Counter[str]:
        async with connected(server) as client:
            results = await asyncio.gather(
                *(counts(client, [one("a")]) for _ in range(15)), return_exceptions=True
            )
            return Counter(
                result.reason if isinstance(result, CounterError) else "counted" for result in results
            )

    assert run(scenario()) == {"counted": 10, "overload": 5}


def test_closed_counters_refuse(start_redis: Callable[..., Redis]) -> None:
    server = start_redis()

    async def scenario() -> tuple[str, float]:
        async with connected(server) as client:
            pass
        return await error_of(client)

    assert run(scenario())[0] == "unavailable"
