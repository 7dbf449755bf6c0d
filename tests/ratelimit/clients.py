"""Clients of a single Redis."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from prometheus_client import CollectorRegistry

from mixer import config
from mixer.metrics import Metrics
from mixer.ratelimit.redis import RedisCounters
from tests.ratelimit.loop import run

T = TypeVar("T")


def counters(url: str, registry: CollectorRegistry | None = None, **settings: object) -> RedisCounters:
    redis = {
        "redis": {"url": url, "timeout": "5s", "connect_timeout": "5s", **settings}
    }  # a busy machine is no failing Redis
    return RedisCounters(config.RateLimits.model_validate(redis), Metrics(registry or CollectorRegistry()))


@asynccontextmanager
async def connected(url: str, **options: object) -> AsyncIterator[RedisCounters]:
    client = counters(url, **options)  # type: ignore[arg-type]
    await client.start()
    try:
        yield client
    finally:
        await client.close()


def asked(url: str, scenario: Callable[[RedisCounters], Awaitable[T]], **options: object) -> T:
    async def main() -> T:
        async with connected(url, **options) as client:
            return await scenario(client)

    return run(main())
