"""Statistics of a limit: what became of its hits, as envoyproxy/ratelimit counts them (`GetResponseDescriptorStatus`
in its `base_limiter.go`), but each hit under one outcome alone."""

from mixer.metrics import LIMIT_HITS
from mixer.ratelimit.counters import Hit, Outcome

WITHIN, NEAR, OVER, OVER_LOCAL, SHADOW, GIVEN_BACK = range(len(LIMIT_HITS))


def add(tally: list[int], near: int, hit: Hit, outcome: Outcome, is_shadow: bool) -> None:
    """Count the hits: those that crossed the limit on the way apart from those before. Beyond `near` hits the limit is
    near."""
    hits, rule, used = hit.hits, hit.rule, outcome.used
    if hits < 0:
        tally[GIVEN_BACK] -= hits
        return
    passed = hits
    if outcome.over:
        counts = rule.counts_over and not outcome.local
        beyond = max(0, min(hits, used - rule.size)) if counts else hits
        tally[SHADOW if is_shadow else OVER_LOCAL if outcome.local else OVER] += beyond
        passed -= beyond
        used -= beyond
    above = max(0, min(used - near, passed))
    tally[NEAR] += above
    tally[WITHIN] += passed - above
