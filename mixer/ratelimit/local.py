"""What a process can answer without the shared store: counters known to be over, and hits taken ahead."""

from collections.abc import Sequence
from typing import NamedTuple

from mixer import config
from mixer.ratelimit.algorithms import fixed_outcome, window_start
from mixer.ratelimit.counters import SECOND, Hit, Outcome, Rule

MAX_LOTS = 100_000  # about 20 MB; further counters have no hits taken ahead


class _Over:
    """Hits that the store refused."""

    __slots__ = ("begin", "end", "hits", "now", "outcome", "rule", "since", "until")

    def __init__(self, rule: Rule, hits: int, since: int, until: int, outcome: Outcome) -> None:
        self.rule = rule
        self.hits = hits  # so many, or more, are refused until then
        self.since = since
        self.until = until
        self.outcome = outcome
        # What is told from `begin` on and before `end`, times of whole seconds being the same within one.
        self.now = outcome
        self.begin = self.end = 0

    def look(self, now: int) -> None:
        """Make out what is told at that time."""
        rule, outcome = self.rule, self.outcome
        if rule.algorithm == "fixed_window":
            begin = now - now % SECOND
            reset = rule.seconds - now // SECOND % rule.seconds
            self.now = Outcome(True, outcome.used, outcome.remaining, reset, reset, local=True)
        else:
            passed = (now - self.since) // SECOND
            begin = self.since + passed * SECOND
            reset, retry = outcome.reset - passed, outcome.retry - passed
            self.now = outcome._replace(reset=max(0, reset), retry=max(0, retry), local=True)
        self.begin, self.end = max(begin, self.since), min(begin + SECOND, self.until)


class OverLimits:
    """Counters that are over until they reset, so that a flood does not reach the store.

    Sound by itself until `until`: a fixed window stays over until it ends, a sliding window and a bucket until as much
    as was asked for has run out. Only what is given back or reset can make it untrue. What this process gives back it
    forgets at once; what others do it learns after `max_age` at the latest, when the store is asked again. So a
    counter is never refused longer than that for a reason that is gone, and never admitted by mistake.

    Slots are not kept, since they are given back all the time; nor buckets and sliding windows in which refused hits
    count.
    """

    def __init__(self, settings: config.LocalCache) -> None:
        self._max_entries = settings.max_entries
        self._max_age = int(settings.max_age * SECOND)
        self._over: dict[str, _Over] = {}

    def __len__(self) -> int:
        return len(self._over)

    def find(self, hit: Hit, now: int) -> Outcome | None:
        over = self._over.get(hit.name)
        if over is None:
            return None
        if not over.begin <= now < over.end:
            if not over.since <= now < over.until:
                del self._over[hit.name]
                return None
            over.look(now)
        if hit.hits < over.hits or (over.rule is not hit.rule and over.rule != hit.rule):
            return None
        return over.now

    def learn(self, hit: Hit, outcome: Outcome, now: int) -> None:
        """Take in what the store said of hits that are over."""
        rule = hit.rule
        if hit.hits < 1 or rule.algorithm == "concurrency":
            return
        if rule.algorithm == "fixed_window":
            until = window_start(rule, now) + rule.window
            hits = 1 if outcome.remaining == 0 else hit.hits
        elif rule.counts_over:
            return
        else:
            until, hits = now + (outcome.retry - 1) * SECOND, hit.hits  # `retry` is rounded up
        until = min(until, now + self._max_age)
        if until <= now:
            return
        if hit.name not in self._over and len(self._over) >= self._max_entries:
            del self._over[next(iter(self._over))]  # the one that came in first
        self._over[hit.name] = _Over(rule, hits, now, until, outcome)

    def forget(self, name: str) -> None:
        self._over.pop(name, None)


class _Lot(NamedTuple):
    rule: Rule
    start: int
    counted: int  # by the store when these were taken
    left: int


class Lots:
    """Hits of fixed windows that were taken ahead, by rules with a `lot`.

    They are counted in the store already, so more than the limit never pass. What is left of them when the window ends
    has kept others from passing: at most `lot - 1` hits for each process and counter. Only single hits are taken from
    a lot.
    """

    def __init__(self) -> None:
        self._lots: dict[str, _Lot] = {}
        self.reserved: set[str] = set()  # names of those that are on their way
        self._swept = 0

    def __len__(self) -> int:
        return len(self._lots)

    def take(self, hit: Hit, now: int) -> Outcome | None:
        """The outcome of a hit that the lot covers."""
        lot = self._lots.get(hit.name)
        if lot is None or not (lot.rule is hit.rule or lot.rule == hit.rule):
            return None
        if lot.start != window_start(lot.rule, now):
            del self._lots[hit.name]
            return None
        if hit.hits != 1 or not lot.left:
            return None
        self._lots[hit.name] = lot = lot._replace(left=lot.left - 1)
        return fixed_outcome(lot.rule, lot.counted - lot.left, passes=True, now=now)._replace(local=True)

    def reserve(self, hit: Hit, now: int) -> int:
        """How many to take beyond what is asked for; nobody else is to take any, until they are here."""
        if hit.name in self.reserved:
            return 0
        if ahead := self._missing(hit, now):
            self.reserved.add(hit.name)
        return ahead

    def _missing(self, hit: Hit, now: int) -> int:
        lot = self._lots.get(hit.name)
        if lot is not None:
            is_current = lot.rule == hit.rule and lot.start == window_start(lot.rule, now)
            return hit.rule.lot - 1 - lot.left if is_current else hit.rule.lot - 1
        return hit.rule.lot - 1 if len(self._lots) < MAX_LOTS or self._has_dropped(now) else 0

    def put(self, hit: Hit, now: int, counted: int, left: int) -> None:
        """Keep what was taken beyond what was asked for."""
        start = window_start(hit.rule, now)
        if (lot := self._lots.get(hit.name)) is not None and lot.rule == hit.rule and lot.start == start:
            left += lot.left
        self._lots[hit.name] = _Lot(hit.rule, start, counted, left)

    def _has_dropped(self, now: int) -> bool:
        """Whether lots of windows that are over made room. Looked for once a second at most."""
        if 0 <= now - self._swept < SECOND:
            return False
        self._swept = now
        self._lots = {
            name: lot for name, lot in self._lots.items() if lot.start == window_start(lot.rule, now)
        }
        return len(self._lots) < MAX_LOTS


class Local:
    """Both, as the settings say."""

    def __init__(self, settings: config.LocalCache | None) -> None:
        self.lots = Lots()
        self._over = OverLimits(settings) if settings is not None else None

    def answer(self, hits: Sequence[Hit], now: int) -> list[Outcome | None] | None:
        """The outcomes of what can be answered here; None if nothing can."""
        over = self._over or None
        found: list[Outcome | None] | None = None
        for index, hit in enumerate(hits):
            outcome = None
            count = hit.hits
            if count > 0:
                if hit.rule.lot > 1:
                    outcome = self.lots.take(hit, now)
                if outcome is None and over is not None:
                    outcome = over.find(hit, now)
            elif count < 0 and over is not None:
                over.forget(hit.name)
            if outcome is not None:
                if found is None:
                    found = [None] * len(hits)
                found[index] = outcome
        return found

    def learn(self, hit: Hit, outcome: Outcome, now: int) -> None:
        """Take in what the store said of a hit that is over, or gave back."""
        if self._over is not None:
            if outcome.over:
                self._over.learn(hit, outcome, now)
            else:
                self._over.forget(hit.name)
