"""A circuit breaker: when to stop asking a server, and when to ask it again (M. Nygard, "Release It!", 2007)."""

import random

from mixer import config
from mixer.metrics import Metrics

FIRST_PAUSE = 0.05  # seconds


class Breaker:
    """Of one server. Closed: calls go there. Open, after `failures` in a row: calls fail at once. Half-open: a probe is
    under way, never a call; if it succeeds, the breaker closes.

    The pause before a probe doubles up to `max_pause` for as long as no call succeeds. A server that was not reached
    yet opens it with the first failure.
    """

    def __init__(self, settings: config.Breaker, metrics: Metrics) -> None:
        self._settings = settings
        self._is_known = False  # whether it was ever reached
        self._failures = settings.failures - 1
        self._pause = min(FIRST_PAUSE, settings.max_pause)
        self._open = metrics.counter_breakers_open
        changes = metrics.counter_breaker_changes.labels
        self._opened, self._probed, self._closed = changes("open"), changes("half_open"), changes("closed")
        self.is_open = False

    def failed(self) -> bool:
        """Note that the server failed a call or a probe; whether the breaker opens with that."""
        self._failures += 1
        if self.is_open or self._failures < self._settings.failures:
            return False
        self.is_open = True
        self._open.inc()
        self._opened.inc()
        return True

    def called(self) -> None:
        """Note that the server answered a call."""
        if self._failures:
            self._failures = 0
            self._pause = min(FIRST_PAUSE, self._settings.max_pause)

    def probe(self) -> None:
        if self.is_open:
            self._probed.inc()

    def probed(self) -> bool:
        """Note that a probe succeeded; whether the breaker closes with that."""
        if not self._is_known:
            self._is_known, self._failures = True, 0
        if not self.is_open:
            return False
        self._close()
        self._closed.inc()
        return True

    def pause(self) -> float:
        """Seconds until the next probe."""
        pause, self._pause = self._pause, min(2 * self._pause, self._settings.max_pause)
        return pause * random.uniform(0.5, 1)  # noqa: S311 (so that not all come at once)

    def discard(self) -> None:
        """The server is not asked any more."""
        if self.is_open:
            self._close()

    def _close(self) -> None:
        self.is_open, self._failures = False, 0
        self._open.dec()
