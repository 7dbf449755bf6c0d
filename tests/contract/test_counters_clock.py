"""Clocks that are set: how long what was counted before keeps others out, and that it lets no more in."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import redis
from prometheus_client import CollectorRegistry

from mixer import config
from mixer.metrics import Metrics
from mixer.ratelimit.counters import SECOND, Counters
from mixer.ratelimit.memory import MemoryCounters
from mixer.ratelimit.redis import RedisCounters
from tests.ratelimit.counting import one, outcome
from tests.ratelimit.loop import run

HOUR = 3600
LIMIT = 3  # in a second
SOON = (
    4.0  # seconds: longer than a window or a lease, and shorter than Redis keeps a counter that nobody hits
)
RULES: dict[str, dict[str, object]] = {
    "sliding window": {"algorithm": "sliding_window", "counts_over": False},
    "sliding window that counts all": {"algorithm": "sliding_window"},
    "bucket": {"algorithm": "token_bucket", "counts_over": False},
    "bucket that counts all": {"algorithm": "token_bucket"},
    "slots": {"algorithm": "concurrency"},
}


class Caller:
    """One whose clock is `ahead`, in seconds, and who never asks as another one."""

    def __init__(self, store: Counters, name: str, rule: dict[str, object]) -> None:
        self.ahead = 0
        self._store = store
        self._name = name
        self._rule = {"limit": LIMIT, "seconds": 1, **rule}

    async def passes(self, hits: int = 1) -> bool:
        now = int((time.time() + self.ahead) * SECOND)
        hit = one(self._name, hits, holder=str(uuid.uuid4()), **self._rule)  # type: ignore[arg-type]
        return not (await outcome(self._store, hit, now)).over

    async def passes_at_last(self) -> float:
        """Seconds until it does."""
        start = time.monotonic()
        while not await self.passes():
            assert time.monotonic() < start + 2 * SOON, "refused for good"
            await asyncio.sleep(0.4)  # slower than the rate, so that what counts over the limit runs out
        return time.monotonic() - start


@asynccontextmanager
async def opened(url: str | None) -> AsyncIterator[Counters]:
    metrics = Metrics(CollectorRegistry())
    redis = {"url": url, "key_prefix": f"{uuid.uuid4()}:", "timeout": "5s", "connect_timeout": "5s"}
    store: Counters = MemoryCounters(metrics)
    if url is not None:
        chosen = config.RateLimits.model_validate({"redis": redis, "local_cache": "off"})
        store = RedisCounters(chosen, metrics)
    await store.start()
    try:
        yield store
    finally:
        await store.close()


async def waits(store: Counters, turned_back: Callable[[], object] = lambda: None) -> dict[str, float]:
    """By rule, for how many seconds who used it up is kept out after the clock was set back."""
    callers = [Caller(store, name, rule) for name, rule in RULES.items()]
    for caller in callers:
        caller.ahead = HOUR
        assert [await caller.passes() for _ in range(LIMIT)] == [True] * LIMIT
        caller.ahead = 0
    turned_back()
    found = await asyncio.gather(*(caller.passes_at_last() for caller in callers))
    return dict(zip(RULES, found, strict=True))


@pytest.mark.parametrize("store", ["memory", "redis"])
def test_a_clock_that_is_set_back_by_an_hour_keeps_nobody_out_for_an_hour(
    request: pytest.FixtureRequest, store: str
) -> None:
    url = request.getfixturevalue("redis_url") if store == "redis" else None

    async def scenario() -> dict[str, float]:
        async with opened(url) as counters:
            return await waits(counters)

    found = run(scenario())
    assert all(seconds < SOON for seconds in found.values()), found


def test_neither_does_the_clock_of_redis(redis_url: str) -> None:
    def turn_back() -> None:  # by which everything lives longer
        with redis.Redis.from_url(redis_url) as client:
            for key in client.scan_iter():
                client.expire(key, HOUR)

    async def scenario() -> dict[str, float]:
        async with opened(redis_url) as counters:
            return await waits(counters, turn_back)

    found = run(scenario())
    assert all(seconds < SOON for seconds in found.values()), found


@pytest.mark.parametrize("rule", ["sliding window", "bucket"])
def test_of_callers_an_hour_apart_no_more_pass_than_of_those_with_one_clock(
    redis_url: str, rule: str
) -> None:
    async def scenario() -> tuple[int, float]:
        async with opened(redis_url) as counters:
            ahead, right = Caller(counters, "a", RULES[rule]), Caller(counters, "a", RULES[rule])
            ahead.ahead = HOUR
            start, passed = time.monotonic(), 0
            while passed <= LIMIT or time.monotonic() < start + 1.2:
                passed += await ahead.passes() + await right.passes()
            return passed, time.monotonic() - start

    passed, seconds = run(scenario())
    assert passed <= LIMIT + seconds * LIMIT
