"""What operators ask about limits, on every store and for every algorithm."""

import uuid
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from mixer import config
from mixer.errors import RequestError
from mixer.metrics import Metrics
from mixer.ratelimit.counters import SECOND, Counters, Hit
from mixer.ratelimit.desk import Desk, Entry
from mixer.ratelimit.limits import Limits
from mixer.ratelimit.memory import MemoryCounters
from mixer.ratelimit.redis import RedisCounters
from tests.ratelimit.counting import START, outcomes
from tests.ratelimit.files import limits_of
from tests.ratelimit.loop import run

LIMITS = """\
domain: shop
descriptors:
- {key: fixed, rate_limit: {unit: minute, requests_per_unit: 3}}
- {key: strict, rate_limit: {unit: minute, requests_per_unit: 3, count_over_limit: false}}
- {key: sliding, rate_limit: {algorithm: sliding_window, window: 90s, requests_per_unit: 3}}
- {key: bucket, rate_limit: {algorithm: token_bucket, unit: minute, requests_per_unit: 3}}
- {key: slots, rate_limit: {algorithm: concurrency, lease: 1m, requests_per_unit: 3}}
- {key: free, rate_limit: {unlimited: true}}
"""
Scenario = Callable[[Desk, Counters, Limits], Coroutine[Any, Any, None]]


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest, redis_url: str) -> Counters:
    metrics = Metrics(CollectorRegistry())
    if request.param == "memory":
        return MemoryCounters(metrics, lambda: START)
    redis = {"url": redis_url, "key_prefix": f"{uuid.uuid4()}:", "timeout": "5s", "connect_timeout": "5s"}
    return RedisCounters(config.RateLimits.model_validate({"redis": redis, "local_cache": "off"}), metrics)


def at(store: Counters, scenario: Scenario) -> None:
    async def main() -> None:
        limits = limits_of(LIMITS)
        await store.start()
        try:
            await scenario(Desk(limits, store, lambda: START), store, limits)
        finally:
            await store.close()

    run(main())


async def counted(store: Counters, limits: Limits, key: str, *values: str) -> list[bool]:
    """One hit each; whether it was over."""
    over = []
    for value in values:
        match = limits.domains["shop"].match([Entry(key, value)])
        assert match is not None
        limit, name = match
        assert limit.rule is not None
        hit = Hit(name, limit.rule, 1, value if key == "slots" else "")
        over.append((await outcomes(store, [hit], START * SECOND))[0].over)
    return over


@pytest.mark.parametrize("key", ["fixed", "strict", "sliding", "bucket"])
def test_a_look_counts_nothing_and_a_reset_makes_room_for_all(store: Counters, key: str) -> None:
    async def scenario(desk: Desk, store: Counters, limits: Limits) -> None:
        assert await counted(store, limits, key, *"aaaaa") == [False, False, False, True, True]
        for _ in range(2):
            seen = (await desk.peek("shop", [Entry(key, "a")])).plain()
            assert seen["used"] == (5 if key == "fixed" else 3)
            assert (seen["remaining"], seen["counter"]) == (0, f"shop|{key}=a|")
            assert seen["over_limit"] == (key == "fixed")
        assert (await desk.reset("shop", [Entry(key, "a")])).removed == seen["used"]
        assert await counted(store, limits, key, *"aaaa") == [False, False, False, True]

    at(store, scenario)


def test_a_reset_leaves_other_counters_alone(store: Counters) -> None:
    async def scenario(desk: Desk, store: Counters, limits: Limits) -> None:
        await counted(store, limits, "fixed", *"aabbb")
        assert (await desk.reset("shop", [Entry("fixed", "a")])).removed == 2
        assert (await desk.reset("shop", [Entry("fixed", "c")])).removed == 0
        assert (await desk.peek("shop", [Entry("fixed", "b")])).plain()["used"] == 3

    at(store, scenario)


def test_more_hits_than_one_reset_gives_back_are_removed(store: Counters) -> None:
    async def scenario(desk: Desk, store: Counters, limits: Limits) -> None:
        limit, name = limits.domains["shop"].match([Entry("fixed", "a")]) or pytest.fail("no limit")
        assert limit.rule is not None
        for _ in range(3):
            await outcomes(store, [Hit(name, limit.rule, 2**32)], START * SECOND)
        assert (await desk.reset("shop", [Entry("fixed", "a")])).removed == 3 * 2**32
        assert await counted(store, limits, "fixed", "a") == [False]

    at(store, scenario)


def test_a_reset_of_slots_gives_back_the_one_of_its_id(store: Counters) -> None:
    async def scenario(desk: Desk, store: Counters, limits: Limits) -> None:
        await counted(store, limits, "slots", *"abc")
        for removed in (1, 0):
            assert (await desk.reset("shop", [Entry("slots", "b")])).removed == removed
        assert (await desk.peek("shop", [Entry("slots", "x")])).plain()["used"] == 2

    at(store, scenario)


@pytest.mark.parametrize(
    ("domain", "key", "message"),
    [
        ("shoop", "fixed", 'no limits for the domain "shoop"; domains: shop'),
        ("shop", "fixd", r'no limit of domain "shop" applies to \(fixd=a\)'),
    ],
)
def test_what_no_limit_applies_to_is_told(domain: str, key: str, message: str) -> None:
    async def scenario(desk: Desk, store: Counters, limits: Limits) -> None:
        for do in (desk.peek, desk.reset):
            with pytest.raises(RequestError, match=message):
                await do(domain, [Entry(key, "a")])

    at(MemoryCounters(Metrics(CollectorRegistry())), scenario)


def test_an_unlimited_one_has_no_counter() -> None:
    async def scenario(desk: Desk, store: Counters, limits: Limits) -> None:
        assert (await desk.peek("shop", [Entry("free", "a")])).plain().keys() == {"limit"}
        with pytest.raises(RequestError, match=r"shop\.free is unlimited"):
            await desk.reset("shop", [Entry("free", "a")])

    at(MemoryCounters(Metrics(CollectorRegistry())), scenario)
