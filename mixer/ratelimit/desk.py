"""What operators ask of Quota: what is loaded, which limit applies to a descriptor, where its counter is at; and to
set that one back."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mixer.errors import RequestError
from mixer.ratelimit import keys
from mixer.ratelimit.counters import MAX_HITS, SECOND, Counters, Hit, Outcome
from mixer.ratelimit.limiter import IllegalLimitError
from mixer.ratelimit.limits import Limits
from mixer.ratelimit.objects import Objects
from mixer.ratelimit.shown import described
from mixer.ratelimit.tree import Limit


class Entry(NamedTuple):
    """An entry of a descriptor."""

    key: str
    value: str


@dataclass(frozen=True, slots=True)
class Seen:
    """A limit that applies to a descriptor, and its counter."""

    domain: str
    limit: Limit
    counter: str = ""  # its name; empty where nothing is counted
    outcome: Outcome | None = None
    removed: int | None = None  # hits (or slots) that a reset took away

    def plain(self) -> dict[str, Any]:
        """As plain values; times in seconds."""
        found: dict[str, Any] = {"limit": described(self.domain, self.limit)}
        if self.outcome is not None:
            over, used, remaining, reset, _, _ = self.outcome
            found |= {
                "counter": self.counter,
                "used": used,
                "remaining": remaining,
                "reset": reset,
                "over_limit": over,
            }
        if self.removed is not None:
            found["removed"] = self.removed
        return found


class _Found(NamedTuple):
    """What was asked for. `counter`: its name; `holder`: of the slot that a reset gives back."""

    domain: str
    limit: Limit
    counter: str
    holder: str = ""


class Desk:
    """Answers operators, by these limits and on these counters."""

    def __init__(
        self,
        limits: Limits,
        counters: Counters,
        clock: Callable[[], float] = time.time,
        *,
        objects: Objects | None = None,
    ) -> None:
        """`objects`: reads limits as policies write them."""
        self.limits = limits
        self.objects = objects
        self._counters = counters
        self._clock = clock

    async def peek(self, domain: str, entries: Sequence[Entry]) -> Seen:
        """The limit that applies to a descriptor, and where its counter is at. Nothing is counted.

        Raises:
            RequestError: no limit applies.
            CounterError: the counters cannot answer.
        """
        return await self._peek(self._find(domain, entries))

    async def peek_object(self, given: object) -> Seen:
        """The same of a limit as a policy writes it. Raises as `peek` does, also for what is no such limit."""
        return await self._peek(self._read(given))

    async def _peek(self, found: _Found) -> Seen:
        domain, limit, counter, _ = found
        if limit.rule is None:
            return Seen(domain, limit)
        return Seen(domain, limit, counter, await self._hit(Hit(counter, limit.rule, 0)))

    async def reset(self, domain: str, entries: Sequence[Entry]) -> Seen:
        """Set the counter that applies to a descriptor back, as if nothing had been counted; of slots, give back the
        one whose id the descriptor has. What a process knows by itself it may act on a little longer: that the counter
        was over, for `local_cache.max_age`; hits of a lot that it has taken ahead, until they are used.

        Raises:
            RequestError: no limit applies, or it counts nothing.
            CounterError: the counters cannot answer.
        """
        found = self._find(domain, entries)
        if found.limit.rule is not None and found.limit.rule.algorithm == "concurrency":
            found = found._replace(holder=entries[-1].value)
        return await self._reset(found)

    async def reset_object(self, given: object) -> Seen:
        """The same of a limit as a policy writes it, but for slots: who has them is not in it. Raises as `reset` does,
        also for what is no such limit."""
        found = self._read(given)
        if found.limit.rule is not None and found.limit.rule.algorithm == "concurrency":
            raise RequestError(
                f"{found.limit.full_key} has slots: they come back by themselves, as leases end"
            )
        return await self._reset(found)

    async def _reset(self, found: _Found) -> Seen:
        domain, limit, counter, holder = found
        if limit.rule is None:
            raise RequestError(f"{limit.full_key} is unlimited: nothing is counted")
        back = Hit(counter, limit.rule, -MAX_HITS, keys.bounded(holder))
        used = (await self._hit(back._replace(hits=0))).used
        before, outcome = used, await self._hit(back)
        while not holder and 0 < outcome.used < used:  # more than one hit can give back
            used, outcome = outcome.used, await self._hit(back)
        return Seen(domain, limit, counter, outcome, removed=max(0, before - outcome.used))

    def _find(self, domain: str, entries: Sequence[Entry]) -> _Found:
        if (found := self.limits.domains.get(domain)) is None:
            known = ", ".join(sorted(self.limits.domains)) or "none"
            raise RequestError(f'no limits for the domain "{domain}"; domains: {known}')
        if (match := found.match(entries)) is None:
            shown = ", ".join(f"{entry.key}={entry.value}" for entry in entries)
            raise RequestError(f'no limit of domain "{domain}" applies to ({shown})')
        return _Found(domain, *match)

    def _read(self, given: object) -> _Found:
        if self.objects is None or not isinstance(given, dict) or "descriptors" in given:
            raise RequestError("expected a limit by itself as a policy writes it, an object with a key")
        try:
            (claim,) = self.objects.read([given], "limits").claims
        except IllegalLimitError as error:
            raise RequestError(str(error)) from None
        if claim is None:
            raise RequestError("no limit")
        return _Found("", claim.limit, "" if claim.hit is None else claim.hit.name)

    async def _hit(self, hit: Hit) -> Outcome:
        outcomes = self._counters.hit((hit,), int(self._clock() * SECOND))
        (outcome,) = outcomes if isinstance(outcomes, list) else await outcomes
        return outcome
