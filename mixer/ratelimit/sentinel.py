"""Where the primary is, as Redis' sentinels say ("Guidelines for Redis clients with support for Redis Sentinel")."""

import asyncio
import random
from collections import Counter

from mixer import config
from mixer.ratelimit.endpoint import Endpoint
from mixer.ratelimit.lane import Lane
from mixer.ratelimit.link import Reply

PORT = 26379
# Seconds between looks whether it is still the same: a primary that only the sentinels cannot reach closes no
# connection.
WATCH = 5.0


class Sentinels:
    """`like`: how the primary is spoken to, wherever it is. `timeout`: seconds that a sentinel gets to answer.

    Raises:
        StartError: a URL cannot be used.
    """

    def __init__(self, settings: config.Sentinel, like: Endpoint, timeout: float) -> None:
        self._master = settings.master
        self._like = like
        self._timeout = timeout
        self._sentinels = [
            Endpoint(url.get_secret_value(), f"rate_limits.redis.sentinel.urls[{index}]", PORT)
            for index, url in enumerate(settings.urls)
        ]

    def __str__(self) -> str:
        return f"{self._master} of sentinels {', '.join(map(str, self._sentinels))}"

    async def primary(self) -> Endpoint:
        """What most of those name that answer. All are asked at once: one that is away takes no time as soon as more
        than half of all agree.

        Raises:
            OSError: none names one.
        """
        asked = [asyncio.ensure_future(self._ask(sentinel)) for sentinel in self._sentinels]
        votes: Counter[tuple[str, int]] = Counter()
        reasons: list[str] = []
        try:
            for each in asyncio.as_completed(asked):
                try:
                    votes[await each] += 1
                except OSError as error:
                    reasons.append(str(error))
                    continue
                if max(votes.values()) * 2 > len(self._sentinels):
                    break
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        if not votes:
            raise ConnectionError(f"no sentinel names the primary: {'; '.join(reasons)}")
        ((host, port), _), *_ = votes.most_common(1)
        return self._like.at(host, port)

    async def watch(self, lane: Lane) -> None:
        """Have the lane connect anew when the primary is another server than that it is connected to."""
        while True:
            await asyncio.sleep(WATCH * random.uniform(0.5, 1))  # noqa: S311 (so that not all come at once)
            try:
                primary = await self.primary()
            except OSError:
                continue  # the connection there is, is as good as before
            if lane.endpoint is not None and str(primary) != str(lane.endpoint):
                lane.leave(f"the primary is {primary} now")

    async def _ask(self, sentinel: Endpoint) -> tuple[str, int]:
        try:
            async with asyncio.timeout(self._timeout):
                reply = await sentinel.asked("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._master)
        except TimeoutError as error:
            raise ConnectionError(f"{sentinel}: {error or f'no reply in {self._timeout:g} s'}") from None
        except OSError as error:
            raise ConnectionError(f"{sentinel}: {error}") from None
        return self._address(sentinel, reply)

    def _address(self, sentinel: Endpoint, reply: Reply) -> tuple[str, int]:
        if reply is None:
            raise ConnectionError(f'{sentinel}: knows no master "{self._master}"')
        try:
            host, port = reply
            return host.decode("ascii"), int(port)
        except (TypeError, ValueError, AttributeError):
            raise ConnectionError(f"{sentinel}: no address but {reply!r:.100}") from None
