"""What limits answer while their counters cannot be had: `on_error` of the limit, else of the settings.

`local` counts in this process's memory, up to the limit divided by `rate_limits.instances` (rounded down), so that all
processes together admit no more than the limit, beside what the store had admitted in that window before. What was
counted so is not brought to the store afterwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

from mixer import config
from mixer.errors import CounterError
from mixer.metrics import Metrics
from mixer.ratelimit.claims import Asked
from mixer.ratelimit.counters import Hit, Outcome, Outcomes, PartlyCountedError, Rule


class AtOnce(Protocol):
    """Counters that need not be waited for."""

    def hit(self, hits: Sequence[Hit], now: int, timeout: float | None = None) -> Outcomes:
        """See `Counters`."""
        ...


@dataclass(frozen=True, slots=True)
class Replaced:
    """Outcomes in place of the store's, in the order of what was asked for."""

    hits: list[Hit]  # as they were judged: those of `local` with its share of the rule
    outcomes: Outcomes
    modes: list[str]  # allow, deny, local; "" for what the store did say

    def told(self) -> str:
        """What stands in the answer's metadata."""
        return ",".join(sorted(set(self.modes) - {""}))


class OnError:
    """`local`: where the shares are counted."""

    def __init__(self, settings: config.RateLimits, local: AtOnce, metrics: Metrics) -> None:
        self._default = settings.on_error
        self._instances = settings.instances or 1  # None only where no limit is `local`
        self._local = local
        self._counted = metrics.counter_on_error.labels

    def outcomes(self, asked: Asked, error: CounterError, now: int) -> Replaced | None:
        """None: the call fails, since a limit of it without an outcome says so, or has no room in memory either."""
        claims = [claim for claim in asked.claims if claim is not None and claim.hit is not None]
        known: Sequence[Outcome | None] = (None,) * len(claims)
        if isinstance(error, PartlyCountedError):
            known = error.outcomes
        modes = [
            "" if outcome is not None else claim.limit.on_error or self._default
            for claim, outcome in zip(claims, known, strict=True)
        ]
        if "error" in modes:
            self._counted("error").inc(modes.count("error"))
            return None
        hits = [
            _share(hit, self._instances) if mode == "local" else hit
            for hit, mode in zip(asked.hits, modes, strict=True)
        ]
        outcomes = []
        try:
            for hit, mode, outcome in zip(hits, modes, known, strict=True):
                if mode == "local":
                    outcomes += self._local.hit([hit], now)
                else:
                    outcomes.append(outcome or _outcome(hit, mode))
        except CounterError:
            self._counted("error").inc()
            return None
        for mode in filter(None, modes):
            self._counted(mode).inc()
        return Replaced(hits, outcomes, modes)


def _outcome(hit: Hit, mode: str) -> Outcome:
    """What is given back is never refused."""
    if mode == "allow" or hit.hits < 0:
        return Outcome(over=False, used=0, remaining=hit.rule.size, reset=0, retry=0)
    return Outcome(over=True, used=hit.rule.size, remaining=0, reset=1, retry=1)


def _share(hit: Hit, instances: int) -> Hit:
    return hit._replace(rule=share(hit.rule, instances))


@lru_cache(maxsize=4096)
def share(rule: Rule, instances: int) -> Rule:
    """The rule that one of so many processes has."""
    limit, burst = rule.limit // instances, rule.burst and rule.burst // instances
    if not limit or burst == 0:
        limit, burst = 0, None
    return replace(rule, limit=limit, burst=burst, lot=1)
