"""How counters count: each algorithm as a pure function from a state and a hit to the next state.

This is the definition. `MemoryCounters` runs these functions; `hit.lua` does the same in Redis, and a property test
holds the two together. All numbers are integers, times in µs, and what Lua must compute stays below 2**53, where its
numbers are exact.

fixed_window
    Counts from 0 in each of the windows into which the epoch is divided. envoyproxy/ratelimit's algorithm (`DoLimit`
    in its `fixed_cache_impl.go`). Up to twice the limit may pass in the length of a window, around its border.

sliding_window
    The count of this window, and of the one before as much as the last `window` µs still cover of it, as if its hits
    had been spread evenly: Cloudflare's counter ("How we built rate limiting capable of scaling to millions of
    domains", 2017; also known as sliding window counter). The estimate is rounded up, and the time into 2**20 slices
    of the window, rounded against the caller.

token_bucket
    GCRA, the generic cell rate algorithm, in its form of a continuous-state leaky bucket (ITU-T I.371, annex A; ATM
    Forum TM 4.0, 4.4.2): each hit fills the bucket by `cost`, which drains by `rate` each µs; what would make it run
    over `size` hits is refused. So `size` hits may come at once, and after them one each window / limit.

concurrency
    A set of leases: who holds a slot, and until when. A slot ends when it is given back or its lease does, whichever
    comes first (Gray and Cheriton, "Leases", SOSP 1989).

A look leaves no trace, and neither does a hit that is refused, unless the rule says that such hits count (`is_kept`).
One that gives back never takes a counter below 0; a sliding window gives back what was counted last. A counter without
hits is as one that never was.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

from mixer.ratelimit.counters import EXACT, SECOND, Outcome, Rule

_new = tuple.__new__  # of a named tuple, without its own constructor's price

SLICES = 2**20  # of a sliding window
MAX_SLIDING = 2**32  # hits of a sliding window: more than any limit; and times SLICES an exact number
MAX_LEVEL = EXACT - 1  # of a bucket: further debt is forgotten


class Sliding(NamedTuple):
    """State of a sliding window: where the window of the last hit began, and the hits of the one before and of it."""

    start: int = 0
    before: int = 0
    here: int = 0


class Bucket(NamedTuple):
    """State of a token bucket: how full it was when, and by how much a hit had filled it, for the limit may change."""

    level: int = 0
    stamp: int = 0
    cost: int = 0


def is_kept(rule: Rule, hits: int, passes: bool) -> bool:
    """Whether the state after a hit is to be kept, or the one before it."""
    return hits < 0 or (hits > 0 and (passes or (rule.counts_over and rule.algorithm != "concurrency")))


def _seconds(microseconds: int) -> int:
    return -(-microseconds // SECOND)


# fixed_window


def fixed_window(rule: Rule, count: int, hits: int) -> tuple[int, bool]:
    """The count after the hits, and whether they pass."""
    if hits < 0:
        return max(0, count + hits), True
    passes = count + hits <= rule.limit
    return (count + hits if passes or rule.counts_over else count), passes


def window_start(rule: Rule, now: int) -> int:
    return now - now % rule.window


def fixed_outcome(rule: Rule, count: int, passes: bool, now: int) -> Outcome:
    reset = rule.seconds - now // SECOND % rule.seconds  # of this second too: rounded up
    left = rule.limit - count
    return _new(Outcome, (not passes, count, left if left > 0 else 0, reset, 0 if passes else reset, False))


# sliding_window


def sliding_window(rule: Rule, state: Sliding, hits: int, now: int) -> tuple[Sliding, bool]:
    """The state after the hits, and whether they pass."""
    start, before, here = state
    now = max(now, start)
    current = window_start(rule, now)
    if current != start:
        before, here = (here if current == start + rule.window else 0), 0
    if hits < 0:
        back = min(here, -hits)
        before, here, passes = max(0, before + hits + back), here - back, True
    else:
        passes = sliding_used(rule, Sliding(current, before, here), now) + hits <= rule.limit
        if passes or rule.counts_over:
            here = min(MAX_SLIDING, here + hits)
    return Sliding(current, before, here) if before or here else Sliding(), passes


def sliding_slices(rule: Rule) -> tuple[int, int]:
    """Into how many slices the window is cut, and how many µs one has."""
    each = -(-rule.window // SLICES)
    return -(-rule.window // each), each


def sliding_used(rule: Rule, state: Sliding, now: int) -> int:
    """Hits of the last `window` µs, for a time in the state's window."""
    slices, each = sliding_slices(rule)
    left = -(-(state.start + rule.window - now) // each)
    return -(-state.before * left // slices) + state.here


def sliding_outcome(rule: Rule, state: Sliding, passes: bool, hits: int, now: int) -> Outcome:
    now = max(now, state.start)
    used = sliding_used(rule, state, now)
    end = state.start + rule.window
    reset = _seconds(end + rule.window - now) if state.here else _seconds(end - now) if state.before else 0
    retry = 0 if passes else min(reset, _seconds(_sliding_wait(rule, state, hits, now)))
    return Outcome(not passes, used, max(0, rule.limit - used), reset, retry)


def _sliding_wait(rule: Rule, state: Sliding, hits: int, now: int) -> int:
    """µs until the same hits would pass, if any time comes when they do."""
    slices, each = sliding_slices(rule)
    end = state.start + rule.window
    if (room := rule.limit - hits - state.here) >= 0 and state.before:
        return max(0, end - room * slices // state.before * each - now)
    room = max(0, rule.limit - hits)
    left = room * slices // state.here if state.here else slices
    return max(now, end, end + rule.window - left * each) - now


# token_bucket


def token_bucket(rule: Rule, state: Bucket, hits: int, now: int) -> tuple[Bucket, bool]:
    """The state after the hits, and whether they pass."""
    level, stamp, cost = state
    if level and cost != rule.cost:  # as in Lua, step by step
        level = min(MAX_LEVEL, math.ceil(level / cost * rule.cost))
    now = max(now, stamp)
    level = max(0, level - (now - stamp) * rule.rate)
    filled = level + hits * rule.cost
    passes = hits < 0 or filled <= rule.size * rule.cost
    if passes or rule.counts_over:
        level = max(0, min(MAX_LEVEL, filled))
    return Bucket(level, now, rule.cost) if level else Bucket(), passes


def bucket_outcome(rule: Rule, state: Bucket, passes: bool, hits: int) -> Outcome:
    used = -(-state.level // rule.cost)
    retry, reset = 0, _seconds(drained_after(rule, state.level))
    if not passes:
        retry = min(reset, _seconds(drained_after(rule, state.level + (hits - rule.size) * rule.cost)))
    return Outcome(not passes, used, max(0, rule.size - used), reset, retry)


def drained_after(rule: Rule, level: int) -> int:
    """µs until that much has drained."""
    return -(-level // rule.rate) if level > 0 and rule.rate else 0


# concurrency


def concurrency(
    rule: Rule, leases: Mapping[str, int], hits: int, holder: str, now: int
) -> tuple[dict[str, int], bool]:
    """The leases after the hit, and whether it passes."""
    alive = {name: end for name, end in leases.items() if end > now}
    if hits < 0:
        alive.pop(holder, None)
        return alive, True
    if hits == 0:
        return alive, len(alive) <= rule.limit
    passes = holder in alive or len(alive) < rule.limit
    if passes:
        alive[holder] = now + rule.window
    return alive, passes


def concurrency_outcome(rule: Rule, used: int, ends: tuple[int, int], passes: bool, now: int) -> Outcome:
    """`ends`: when the first and the last of the leases end."""
    first, last = ends
    reset = _seconds(max(0, last - now)) if used else 0
    retry = 0 if passes else _seconds(max(0, first - now))
    return Outcome(not passes, used, max(0, rule.limit - used), reset, retry)
