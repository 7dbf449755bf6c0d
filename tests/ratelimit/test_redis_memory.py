"""What a counter takes of Redis' memory, as `mixer.ratelimit.keys` and docs/quota.md say."""

import pytest
import redis

from mixer.ratelimit.counters import Hit
from mixer.ratelimit.redis import RedisCounters
from tests.ratelimit.clients import asked
from tests.ratelimit.counting import one, outcomes

NAME = "shop|user=alice@example.com|path=/orders|"


def slots(count: int) -> list[Hit]:
    holders = (f"{number:032x}" for number in range(count))
    return [one(NAME, algorithm="concurrency", holder=holder) for holder in holders]


def taken(url: str, key: str) -> int:
    """Bytes."""
    with redis.Redis.from_url(url) as client:
        return client.memory_usage(key, samples=0)


@pytest.mark.parametrize(
    ("hits", "key", "least", "most"),
    [
        ([one(NAME)], "mixer:60|1800000000|", 100, 130),
        ([one(NAME, 999, algorithm="sliding_window")] * 2, "mixer:s60|", 120, 150),
        ([one(NAME, 7, algorithm="token_bucket", limit=7)], "mixer:b60|", 130, 160),
        (slots(100), "mixer:{c}60|", 4000, 6000),
        (slots(1000), "mixer:{c}60|", 100_000, 160_000),
    ],
    ids=["fixed window", "sliding window", "bucket", "slots", "many slots"],
)
def test_memory_of_a_counter(redis_url: str, hits: list[Hit], key: str, least: int, most: int) -> None:
    async def scenario(client: RedisCounters) -> None:
        await outcomes(client, hits)

    asked(redis_url, scenario)
    assert least <= taken(redis_url, key + NAME) <= most


def test_memory_of_a_holder(redis_url: str) -> None:
    async def scenario(client: RedisCounters) -> None:
        await outcomes(client, slots(1))

    asked(redis_url, scenario)
    assert taken(redis_url, "mixer:{c}h|" + "0" * 32) <= 300
