"""Counters in the memory of this process: exact for it alone, and gone with it."""

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from mixer.errors import CounterError
from mixer.metrics import Metrics
from mixer.ratelimit import algorithms
from mixer.ratelimit.algorithms import Bucket, Sliding
from mixer.ratelimit.counters import SECOND, SET_BACK, Hit, Outcome, Outcomes, Rule

MAX_COUNTERS = 1_000_000  # about 200 MB with names of 60 characters
SWEEP = 1_000  # counters that are kept before those that have ended are looked for

Counts = dict[str, int]
Leases = dict[str, int]  # of a counter: by holder, when it ends
Place = tuple[str, int, str]  # a counter: algorithm, window, name
State = TypeVar("State")
States = dict[Place, tuple[int, State]]  # each with when it has ended: it is then as if it were not there

_NO_SLIDING, _NO_BUCKET = (0, Sliding()), (0, Bucket())
_NO_LEASES: tuple[int, Leases] = (0, {})


class MemoryCounters:
    """See `Counters`. Answers at once.

    Time is one clock's here. Where that is set back, what was counted is as old afterwards as it was before, or buckets
    and sliding windows would stand still until the clock is where it was.

    Bounded: what has ended is dropped as more counters are needed, and at most `max_counters` are kept. A hit that
    needs one more fails with `full`, for to forget a counter would be to admit more than its limit; Redis has room for
    more.
    """

    def __init__(
        self, metrics: Metrics, clock: Callable[[], float] = time.time, max_counters: int = MAX_COUNTERS
    ) -> None:
        self._clock = clock
        self._max_counters = max_counters
        self._windows: dict[tuple[int, int], Counts] = {}  # fixed windows, by length and start
        self._slidings: States[Sliding] = {}
        self._buckets: States[Bucket] = {}
        self._slots: States[Leases] = {}
        self._held: dict[str, set[Place]] = {}  # by holder
        self._counters = 0  # of all kinds
        self._latest = 0  # time of a hit
        self._sweep_at = SWEEP
        self._swept = 0.0
        self._full = metrics.counter_errors.labels("memory", "full")

    async def start(self) -> None:
        pass

    def ready(self) -> str | None:
        return None

    def problems(self) -> list[str]:
        return []

    def hit(self, hits: Sequence[Hit], now: int, timeout: float | None = None) -> Outcomes:
        do, windows = self._do, self._windows
        if now < self._latest - SET_BACK:
            self._set_back(now)
        elif now > self._latest:
            self._latest = now
        outcomes = []
        for hit in hits:
            name, rule, number, _ = hit
            if rule.is_plain and number > 0:  # as `fixed_window`: the way of most hits, and short
                counts = windows.get((rule.window, now - now % rule.window))
                if counts is not None and (before := counts.get(name)) is not None:
                    counts[name] = count = before + number
                    outcomes.append(algorithms.fixed_outcome(rule, count, count <= rule.limit, now))
                    continue
            outcomes.append(do(hit, now))
        return outcomes

    async def release(self, holders: Sequence[str], now: int, timeout: float | None = None) -> int:
        released = 0
        for holder in holders:
            for place in self._held.pop(holder, ()):
                end, leases = self._slots.get(place, _NO_LEASES)
                released += leases.get(holder, 0) > now
                left = {name: until for name, until in leases.items() if name != holder}
                self._keep(self._slots, place, (end, left), bool(left))
        return released

    async def close(self) -> None:
        self._windows.clear()
        for table in self._tables():
            table.clear()
        self._held.clear()
        self._counters = 0

    def _do(self, hit: Hit, now: int) -> Outcome:
        rule = hit.rule
        if rule.algorithm == "fixed_window":
            count, passes = self._fixed(hit.name, rule, hit.hits, now)
            return algorithms.fixed_outcome(rule, count, passes, now)
        place = (rule.algorithm, rule.window, hit.name)
        if rule.algorithm == "sliding_window":
            return self._sliding(place, rule, hit.hits, now)
        if rule.algorithm == "token_bucket":
            return self._bucket(place, rule, hit.hits, now)
        return self._slot(place, rule, hit, now)

    def _fixed(self, name: str, rule: Rule, hits: int, now: int) -> tuple[int, bool]:
        window = rule.window, now - now % rule.window
        counts = self._windows.get(window)
        if counts is None:
            self._drop_windows()
            counts = self._windows[window] = {}
        before = counts.get(name)
        count, passes = algorithms.fixed_window(rule, before or 0, hits)
        if before is None:
            if not count:
                return count, passes
            self._make_room()
        counts[name] = count
        return count, passes

    def _sliding(self, place: Place, rule: Rule, hits: int, now: int) -> Outcome:
        _, state = self._slidings.get(place, _NO_SLIDING)
        state, passes = algorithms.sliding_window(rule, state, hits, now)
        if algorithms.is_kept(rule, hits, passes):
            end = state.start + (2 if state.here else 1) * rule.window
            self._keep(self._slidings, place, (end, state), bool(state.start))
        return algorithms.sliding_outcome(rule, state, passes, hits, now)

    def _bucket(self, place: Place, rule: Rule, hits: int, now: int) -> Outcome:
        _, state = self._buckets.get(place, _NO_BUCKET)
        state, passes = algorithms.token_bucket(rule, state, hits, now)
        if algorithms.is_kept(rule, hits, passes):
            end = state.stamp + algorithms.drained_after(rule, state.level)
            self._keep(self._buckets, place, (end, state), bool(state.level))
        return algorithms.bucket_outcome(rule, state, passes, hits)

    def _slot(self, place: Place, rule: Rule, hit: Hit, now: int) -> Outcome:
        _, before = self._slots.get(place, _NO_LEASES)
        leases, passes = algorithms.concurrency(rule, before, hit.hits, hit.holder, now)
        first, last = min(leases.values(), default=0), max(leases.values(), default=0)
        if algorithms.is_kept(rule, hit.hits, passes):
            self._keep(self._slots, place, (last, leases), bool(leases))
            for holder in before.keys() - leases.keys():
                self._let_go(place, holder)
            if hit.hits > 0:
                self._held.setdefault(hit.holder, set()).add(place)
        return algorithms.concurrency_outcome(rule, len(leases), (first, last), passes, now)

    def _let_go(self, place: Place, holder: str) -> None:
        if (places := self._held.get(holder)) is not None:
            places.discard(place)
            if not places:
                del self._held[holder]

    def _tables(self) -> tuple[States[Sliding], States[Bucket], States[Leases]]:
        return self._slidings, self._buckets, self._slots

    def _keep(self, table: States[State], place: Place, state: tuple[int, State], is_something: bool) -> None:
        if is_something:
            if place not in table:
                self._make_room()
            table[place] = state
        elif table.pop(place, None) is not None:
            self._counters -= 1

    def _make_room(self) -> None:
        if self._counters >= min(self._sweep_at, self._max_counters):
            self._sweep()
        if self._counters >= self._max_counters:
            self._full.inc()
            raise CounterError(
                "full", f"{self._max_counters} counters in memory already; use rate_limits.counters: redis"
            )
        self._counters += 1

    def _set_back(self, now: int) -> None:
        """Move what was counted by a clock that has been set back since. Of fixed windows, the next one stays, for who
        is ahead; those further on would only take room until their time comes."""
        before, self._latest = self._latest, now
        step = before - now
        for window in [window for window in self._windows if window[1] > now + window[0]]:
            self._counters -= len(self._windows.pop(window))
        for place, (end, sliding) in self._slidings.items():
            length = place[1]
            moved = before // length * length - now // length * length
            self._slidings[place] = end - moved, sliding._replace(start=sliding.start - moved)
        for place, (end, bucket) in self._buckets.items():
            self._buckets[place] = end - step, bucket._replace(stamp=bucket.stamp - step)
        for place, (end, leases) in self._slots.items():
            self._slots[place] = end - step, {holder: until - step for holder, until in leases.items()}

    def _sweep(self) -> None:
        """Drop what has ended. To look at all of it is worth it once for as many new ones as were left, and where
        there is no room, once a second."""
        self._drop_windows()
        now = self._clock()
        if self._counters < self._sweep_at and 0 <= now - self._swept < 1:
            return
        self._swept = now
        for table in self._tables():
            for place in [place for place, (end, _) in table.items() if end <= now * SECOND]:
                if table is self._slots:
                    for holder in self._slots[place][1]:
                        self._let_go(place, holder)
                del table[place]
                self._counters -= 1
        self._sweep_at = max(SWEEP, 2 * self._counters)

    def _drop_windows(self) -> None:
        now = int(self._clock() * SECOND)
        for window, counts in list(self._windows.items()):
            length, start = window
            # The window before the running one stays, for a clock that is set back a little.
            if start + 2 * length <= now:
                self._counters -= len(counts)
                del self._windows[window]
