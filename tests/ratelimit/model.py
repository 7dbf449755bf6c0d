"""The counters as `mixer.ratelimit.algorithms` defines them: every state kept for ever, one hit after the other."""

from collections.abc import Sequence

from mixer.ratelimit import algorithms
from mixer.ratelimit.algorithms import Bucket, Sliding
from mixer.ratelimit.counters import Hit, Outcome


class Model:
    def __init__(self) -> None:
        self._counts: dict[tuple[str, int, int], int] = {}
        self._slidings: dict[tuple[str, int], Sliding] = {}
        self._buckets: dict[tuple[str, int], Bucket] = {}
        self._leases: dict[tuple[str, int], dict[str, int]] = {}

    def hit(self, hits: Sequence[Hit], now: int) -> list[Outcome]:
        return [self._hit(hit, now) for hit in hits]

    def release(self, holders: Sequence[str], now: int) -> int:
        """How many slots were given back."""
        ends = [leases.pop(holder, 0) for holder in holders for leases in self._leases.values()]
        return sum(end > now for end in ends)

    def _hit(self, hit: Hit, now: int) -> Outcome:
        name, rule, hits, holder = hit
        place = name, rule.window
        if rule.algorithm == "fixed_window":
            window = (*place, algorithms.window_start(rule, now))
            count, passes = algorithms.fixed_window(rule, self._counts.get(window, 0), hits)
            self._counts[window] = count
            return algorithms.fixed_outcome(rule, count, passes, now)
        if rule.algorithm == "sliding_window":
            sliding, passes = algorithms.sliding_window(rule, self._slidings.get(place, Sliding()), hits, now)
            if algorithms.is_kept(rule, hits, passes):
                self._slidings[place] = sliding
            return algorithms.sliding_outcome(rule, sliding, passes, hits, now)
        if rule.algorithm == "token_bucket":
            bucket, passes = algorithms.token_bucket(rule, self._buckets.get(place, Bucket()), hits, now)
            if algorithms.is_kept(rule, hits, passes):
                self._buckets[place] = bucket
            return algorithms.bucket_outcome(rule, bucket, passes, hits)
        leases, passes = algorithms.concurrency(rule, self._leases.get(place, {}), hits, holder, now)
        if algorithms.is_kept(rule, hits, passes):
            self._leases[place] = leases
        ends = min(leases.values(), default=0), max(leases.values(), default=0)
        return algorithms.concurrency_outcome(rule, len(leases), ends, passes, now)
