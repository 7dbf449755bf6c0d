"""Counters in the memory of this process: exact for it alone, and gone with it."""

import time
from collections.abc import Callable, Sequence

from mixer.errors import CounterError
from mixer.metrics import Metrics
from mixer.ratelimit.counters import Hit

MAX_COUNTERS = 1_000_000  # about 200 MB with names of 60 characters

Counts = dict[str, int]


class MemoryCounters:
    """See `Counters`. `hit` returns without waiting.

    Bounded: windows that are over are dropped as others open, and at most `max_counters` counters are kept.
    A hit that needs one more fails with `full`, for to forget a counter would be to admit more than its
    limit; Redis has room for more.
    """

    def __init__(
        self, metrics: Metrics, clock: Callable[[], float] = time.time, max_counters: int = MAX_COUNTERS
    ) -> None:
        self._clock = clock
        self._max_counters = max_counters
        self._windows: dict[tuple[int, int], Counts] = {}  # by length and start
        self._counters = 0  # in all windows
        self._full = metrics.counter_errors.labels("memory", "full")

    async def start(self) -> None:
        pass

    def ready(self) -> str | None:
        return None

    async def hit(self, hits: Sequence[Hit], timeout: float | None = None) -> list[int]:
        return [self._count(*hit) for hit in hits]

    async def close(self) -> None:
        self._windows.clear()
        self._counters = 0

    def _count(self, name: str, seconds: int, start: int, hits: int) -> int:
        counts = self._windows.get((seconds, start))
        if counts is None:
            self._drop_ended()
            counts = self._windows[seconds, start] = {}
        before = counts.get(name)
        if before is None:
            if hits == 0:
                return 0
            self._make_room()
            before = 0
        counts[name] = count = before + hits
        return count

    def _make_room(self) -> None:
        if self._counters >= self._max_counters:
            self._drop_ended()
            if self._counters >= self._max_counters:
                self._full.inc()
                raise CounterError(
                    "full",
                    f"{self._max_counters} counters in memory already; use rate_limits.counters: redis",
                )
        self._counters += 1

    def _drop_ended(self) -> None:
        now = self._clock()
        for window, counts in list(self._windows.items()):
            seconds, start = window
            # The window before the running one stays, for a clock that is set back a little.
            if start + 2 * seconds <= now:
                self._counters -= len(counts)
                del self._windows[window]
