"""Counters in Redis, shared by all who use it: one server, or the primary that sentinels name. See `cluster`."""

import asyncio
from collections.abc import Sequence
from math import inf
from typing import cast

from mixer import config
from mixer.errors import CounterError
from mixer.metrics import Metrics
from mixer.pending import Pending
from mixer.ratelimit import keys
from mixer.ratelimit.batch import Answer, Call
from mixer.ratelimit.counters import Hit, Outcomes, PartlyCountedError
from mixer.ratelimit.endpoint import Endpoint
from mixer.ratelimit.lane import PROBE, Lane
from mixer.ratelimit.local import Local
from mixer.ratelimit.scripts import RELEASE
from mixer.ratelimit.sentinel import Sentinels


class RedisCounters:
    """See `Counters`. Connects by itself, again and again while Redis is away; calls fail meanwhile, see `Lane`.

    What a primary has acknowledged and not yet sent to its replicas is lost with it (Redis replicates asynchronously):
    after a failover, a window may admit as many hits again as were lost.
    """

    def __init__(self, settings: config.RateLimits, metrics: Metrics) -> None:
        """Raises `StartError` if a URL cannot be used."""
        redis = settings.redis
        endpoint = Endpoint(redis.url.get_secret_value())
        self._timeout = redis.timeout
        self._prefix = redis.key_prefix
        self._local = Local(settings.local_cache)
        self._sentinels: Sentinels | None = None
        if redis.sentinel is not None:
            self._sentinels = Sentinels(redis.sentinel, endpoint, redis.connect_timeout)
        self._endpoint = endpoint
        self._lane = Lane(
            str(self._sentinels or endpoint),
            self._find,
            settings,
            self._local,
            metrics,
            probe_key=lambda: self._prefix + PROBE,
        )
        self._watching: asyncio.Task[None] | None = None

    async def _find(self) -> Endpoint:
        return self._endpoint if self._sentinels is None else await self._sentinels.primary()

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lane.start()
        await self._lane.attempted()
        if self._sentinels is not None:
            self._watching = self._loop.create_task(self._sentinels.watch(self._lane))

    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait((self._watching,))
        await self._lane.close()

    def ready(self) -> str | None:
        return self._lane.problem()

    def problems(self) -> list[str]:
        return []

    def hit(
        self, hits: Sequence[Hit], now: int, timeout: float | None = None
    ) -> Outcomes | Pending[Outcomes]:
        known = self._local.answer(hits, now)
        if not hits or (known is not None and None not in known):
            return cast(Outcomes, known or [])
        answer = Answer(self._loop)
        arrived = self._loop.time()
        call = Call(hits, now, answer, arrived)
        call.known = known
        try:
            self._lane.put(call, inf if timeout is None or timeout >= self._timeout else arrived + timeout)
        except CounterError as error:
            raise error if known is None else PartlyCountedError(error, known) from None
        return answer

    async def release(self, holders: Sequence[str], now: int, timeout: float | None = None) -> int:
        if not holders:
            return 0
        held = (keys.of_holder(self._prefix, holder) for holder in holders)
        reply = await self._lane.run(RELEASE, (len(holders), *held, now, *holders), timeout)
        if type(reply) is not int:
            raise self._lane.failed(reply)
        return reply
