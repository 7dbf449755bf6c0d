"""The seam of the counters: what the service asks of a store, and what every store promises."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal, NamedTuple, Protocol

from mixer.errors import CounterError
from mixer.pending import Pending

Algorithm = Literal["fixed_window", "sliding_window", "token_bucket", "concurrency"]

SECOND = 1_000_000  # in µs, the unit of all times here
MAX_LIMIT = 2**32 - 1  # of hits, slots and bursts: what an answer's message can carry
MAX_WINDOW = 366 * 86400 * SECOND
MAX_HITS = 2**32  # of one hit: above any limit, so that more makes no difference
SET_BACK = 10 * SECOND  # whose clock is further behind than that was set back, or another's was ahead
EXACT = 2**53  # below it, Lua's numbers are exact integers


class RuleError(ValueError):
    """Numbers that make no rule."""

    def __init__(self, name: str, expected: str, got: object) -> None:
        self.name, self.expected, self.got = name, expected, str(got)  # `name`: of the field of `Rule`
        super().__init__(f"{name}: expected {expected}, got {got}")


@dataclass(frozen=True, slots=True)
class Rule:
    """How a counter counts. `algorithms` defines each way, with its source.

    Names of counters are told apart by algorithm and window too, and not by the rest: a limit that is raised goes on
    with the hits that it has.

    Raises:
        RuleError: the numbers make no rule.
    """

    limit: int  # hits in a window; concurrency: slots
    window: int  # µs, whole seconds; concurrency: how long a slot is leased
    algorithm: Algorithm = "fixed_window"
    burst: int | None = None  # token_bucket alone: hits that may come at once; None: as many as `limit`
    # Whether hits count that cross the limit. If so, who goes on asking stays over, and what was used although there
    # was no room (the cost of a request, known at its end) is owed. Never so for slots.
    counts_over: bool = True
    lot: int = 1  # fixed_window alone: hits that a process may take ahead, see `Counters.hit`

    seconds: int = field(init=False, repr=False, compare=False)  # `window`
    is_plain: bool = field(init=False, repr=False, compare=False)  # a fixed window in which every hit counts
    # token_bucket: a hit fills the bucket by `cost`, and it drains by `rate` each µs.
    cost: int = field(init=False, repr=False, compare=False)
    rate: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 <= self.limit <= MAX_LIMIT:
            raise RuleError("limit", f"0 to {MAX_LIMIT}", self.limit)
        if self.window % SECOND or not SECOND <= self.window <= MAX_WINDOW:
            raise RuleError("window", f"whole seconds, 1 to {MAX_WINDOW // SECOND}", self.window / SECOND)
        if not 1 <= self.lot <= max(1, self.limit) or (self.lot > 1 and self.algorithm != "fixed_window"):
            raise RuleError("lot", f"1 to the limit of a fixed window, {self.limit}", self.lot)
        if self.burst is not None and not 1 <= self.burst <= MAX_LIMIT:
            raise RuleError("burst", f"1 to {MAX_LIMIT}", self.burst)
        cost, rate = self._flow() if self.algorithm == "token_bucket" else (0, 0)
        object.__setattr__(self, "seconds", self.window // SECOND)
        is_plain = self.algorithm == "fixed_window" and self.counts_over and self.lot == 1
        object.__setattr__(self, "is_plain", is_plain)
        object.__setattr__(self, "cost", cost)
        object.__setattr__(self, "rate", rate)

    @property
    def size(self) -> int:
        """The most hits that may come at once."""
        return self.limit if self.burst is None else self.burst

    def _flow(self) -> tuple[int, int]:
        """`cost` and `rate`, integers in the ratio window : limit. Where a full bucket would not fit into an exact
        number, the nearest ratio that does: it is off by less than size / 2**52 (Dirichlet), so by 0.0001 % at most."""
        if not self.size:
            return 1, 1
        if not self.limit:
            raise RuleError("burst", "none beside a limit of 0", self.burst)
        bound = EXACT // 2 // self.size * self.limit // self.window
        if not bound:
            raise RuleError("burst", "one that refills within 140 years", self.size)
        ratio = Fraction(self.window, self.limit).limit_denominator(bound)
        return ratio.numerator, ratio.denominator


class Hit(NamedTuple):
    """Hits on the counter of one name. 0 looks without counting. Fewer than 0 give back, and the counter never gets
    below 0.

    For slots (`concurrency`), 1 takes one for `holder`, -1 gives that one back; a holder has one slot of a counter at
    most, and taking it again renews its lease.
    """

    name: str
    rule: Rule
    hits: int = 1
    holder: str = ""


class Outcome(NamedTuple):
    """What became of a hit."""

    over: bool  # it crosses the limit; never so for what gives back. A look: the limit is crossed already
    used: int  # hits that count after it; more than the limit where those beyond it count too
    remaining: int  # hits that would still pass now
    reset: (
        int  # seconds, rounded up, until all of the limit is there again; fixed_window: until the window ends
    )
    retry: int  # seconds, rounded up, until the same hits could pass if no others came; 0 unless it is over
    local: bool = False  # answered from this process's memory, without the shared store


Outcomes = list[Outcome]


class PartlyCountedError(CounterError):
    """A call of which some hits have an outcome all the same."""

    def __init__(self, error: CounterError, outcomes: "Sequence[Outcome | None]") -> None:
        super().__init__(error.reason, str(error))
        self.outcomes = tuple(outcomes)  # in the order of the hits


class Counters(Protocol):
    """Counts hits for all who share the store.

    One object belongs to one event loop and to the runtime that made it.

    Time is the caller's: it comes with the hits, in µs since the epoch, so that an answer's window is the one that was
    counted in. Where the clocks of several callers differ by d: a fixed window is that of each caller's clock. A
    sliding window and a bucket never go back in time: a caller who is behind is served as if it were the time of the
    last hit, and one who is ahead brings d of refill forward, once and not each time. A lease ends d early or late.
    So keep clocks within a small part of the shortest window.

    Where clocks are further apart than `SET_BACK`, or one is set back by more: a fixed window that comes twice may
    admit its limit twice. A sliding window and a bucket go on, for who is behind, as much later as the store's own
    clock has gone on since the last hit, so that nobody is kept out longer than two windows or a bucket's draining,
    and callers who are apart admit no more together than others. A lease ends no later than one lease after the next
    hit that asks for a slot; for who is ahead it has ended then.
    """

    async def start(self) -> None:
        """Make ready. Called once, before the first hit; a store that is away is logged and not an error."""

    def ready(self) -> str | None:
        """Why no count can be had now, in a few words; None if it can. Returns at once."""

    def problems(self) -> list[str]:
        """Why some counts cannot be had now though others can: a line for each part of the store."""

    def hit(
        self, hits: Sequence[Hit], now: int, timeout: float | None = None
    ) -> Outcomes | Pending[Outcomes]:
        """Do each hit at the time `now` (µs since the epoch); what became of them, in the same order: at once, or as
        something to wait for.

        Exact: over all callers, processes and hits of one call, the outcomes are those of some one-after-the-other
        order, in which the hits of a call keep theirs. Each hit is for itself: one that is over keeps no other of the
        same call from counting. Counts beyond 2**53 may be rounded, and never come down below it by that.

        Two ways out of the shared store, for those who ask for them, never admit more than the limit. What is known to
        be over may be answered so from memory, for the settings' `local_cache.max_age` at most. With a rule's `lot`, a
        process takes hits ahead: of those, up to `lot` in each other process may be unused when a hit is over.

        Waits for the store without holding up the loop, `timeout` seconds at most (None: the store's own bound), and
        never hangs. A call that is cancelled or fails may or may not have been counted; it disturbs no other call. It
        is never tried twice.

        Raises, at once or when it is waited for:
            CounterError: with the reason `unavailable` (no store, or the connection broke), `timeout`, `overload` (too
                many calls wait already) or `full` (no room for another counter), or `script` (the store refused the
                operation). It is a `PartlyCountedError` where some of the hits have an outcome.
        """
        ...

    async def release(self, holders: Sequence[str], now: int, timeout: float | None = None) -> int:
        """Give back every slot of these holders, whatever their counters; how many that were. A holder without any is
        no error, so that it may be told twice. Waits and raises as `hit` does."""
        ...

    async def close(self) -> None:
        """Give up connections and memory. Calls that still wait fail with `unavailable`."""
