"""Slots given back of calls that come to nothing."""

from asyncio import Future, ensure_future
from collections.abc import Callable, Iterable

from mixer.errors import CounterError
from mixer.ratelimit.counters import SECOND, Counters, Hit, Outcomes
from mixer.ratelimit.failures import Failures


class GivingBack:
    """Gives back what hits took: of a request that another limit refused, or that has no answer. As hits of their own,
    they come after those that they undo, also where these are not counted yet. If it fails, leases end some time."""

    def __init__(self, counters: Counters, failed: Failures, clock: Callable[[], float]) -> None:
        self._counters = counters
        self._failed = failed
        self._clock = clock
        self._waiting: set[Future[Outcomes]] = set()

    def __call__(self, hits: Iterable[Hit]) -> None:
        """Those that take no slot are left out. Returns at once."""
        if not (back := [hit._replace(hits=-1) for hit in hits if hit.holder and hit.hits > 0]):
            return
        try:
            outcomes = self._counters.hit(back, int(self._clock() * SECOND))
        except CounterError as error:
            self._failed(error, None)
            return
        if not isinstance(outcomes, list):
            waiting = ensure_future(outcomes)
            self._waiting.add(waiting)
            waiting.add_done_callback(self._done)

    def _done(self, outcomes: Future[Outcomes]) -> None:
        self._waiting.discard(outcomes)
        if not outcomes.cancelled() and isinstance(error := outcomes.exception(), CounterError):
            self._failed(error, None)
