"""Slots given back in the background, as the access log tells that requests are over."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence

import structlog

from mixer.errors import CounterError
from mixer.log import Throttle
from mixer.metrics import Metrics
from mixer.ratelimit.counters import SECOND, Counters

MAX_WAITING = 100_000  # holders; about 15 MB
BATCH = 256  # holders in one go
PAUSE = (0.1, 2.0)  # seconds until it is tried again where the counters are away: the first, and the most

_log = structlog.get_logger()


class Releases:
    """Tells the counters whose slots are free, again and again until they take it. To tell it twice does no harm.

    What does not fit any more, and what is left when this is closed, comes back when its lease ends.
    """

    def __init__(self, counters: Counters, metrics: Metrics, clock: Callable[[], float] = time.time) -> None:
        self._counters = counters
        self._clock = clock
        self._waiting: dict[str, None] = {}  # in their order, each once
        self._task: asyncio.Task[None] | None = None
        self._throttle = Throttle()
        self._released = metrics.slot_releases.labels("released")
        self._dropped = metrics.slot_releases.labels("dropped")

    def __call__(self, holders: Sequence[str]) -> None:
        """Give back all slots of these holders. Returns at once, of a running loop."""
        for holder in holders:
            if len(self._waiting) >= MAX_WAITING:
                self._dropped.inc()
            else:
                self._waiting[holder] = None
        if self._waiting and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        pause, most = PAUSE
        try:
            while self._waiting:
                holders = [holder for holder, _ in zip(self._waiting, range(BATCH), strict=False)]
                try:
                    count = await self._counters.release(holders, int(self._clock() * SECOND))
                except CounterError as error:
                    if (held := self._throttle(error.reason)) is not None:
                        _log.warning("release_failed", reason=error.reason, error=str(error), held_back=held)
                    if error.reason != "script":
                        await asyncio.sleep(pause)
                        pause = min(2 * pause, most)
                        continue
                    self._dropped.inc(len(holders))  # it would fail again, and hold up the others
                    count = 0
                pause = PAUSE[0]
                self._released.inc(count)
                for holder in holders:
                    del self._waiting[holder]
        finally:
            self._task = None

    async def close(self, timeout: float) -> None:
        """Give back what waits, for `timeout` seconds at most."""
        if (task := self._task) is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(task, timeout)
        self._dropped.inc(len(self._waiting))
        self._waiting.clear()
