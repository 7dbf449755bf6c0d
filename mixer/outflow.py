"""How long what is put into a queue will wait there."""

SHARE = 0.5  # of the time that a call has left it may wait in a queue; the rest is for its answer and the way back

_EVIDENCE = 0.02  # seconds that a queue must have stood
_LUMPS = 4  # and how many times something must have been taken from it
_MEMORY = 0.25  # seconds; what happened before counts half


class Outflow:
    """A queue's rate, while it is never empty: only then is it the rate at which its work can be done, and not the one
    at which that comes. A queue that is now and then empty keeps nobody waiting for long, and says nothing.

    (The evidence is CoDel's, RFC 8289: a queue that stands. The bound is on the expected wait rather than on that of
    those who have waited, so that who is refused hears of it at once.)
    """

    __slots__ = ("_last", "_lumps", "_since", "_taken")

    def __init__(self) -> None:
        self._since: float | None = None
        self._last = 0.0  # when something was taken
        self._taken = 0.0
        self._lumps = 0

    def put(self, now: float) -> None:
        """Something is put into the queue, by any one clock in seconds."""
        if self._since is None:
            self._since = self._last = now
            self._taken, self._lumps = 0.0, 0

    def took(self, count: int, now: float) -> None:
        """So many were taken from it, and some are left."""
        if self._since is None:
            return
        self._taken += count
        self._lumps += 1
        self._last = now
        if (elapsed := now - self._since) > _MEMORY:
            self._since += elapsed / 2
            self._taken /= 2

    def emptied(self) -> None:
        self._since = None

    def wait(self, ahead: int, now: float) -> float:
        """Seconds that who comes now will wait behind `ahead` others; 0 where nothing is known."""
        if self._since is None or (elapsed := now - self._since) < _EVIDENCE or self._lumps < _LUMPS:
            return 0.0
        return ahead * elapsed / self._taken if self._taken else 0.0

    def is_late(self, ahead: int, left: float, now: float) -> bool:
        """Whether who comes now, with so many seconds left, is to be refused: it would wait for too much of them behind
        `ahead` others, or nothing was taken for as long as it has."""
        if self._since is None:
            return False
        return now - self._last > max(left, _EVIDENCE) or self.wait(ahead, now) > SHARE * left
